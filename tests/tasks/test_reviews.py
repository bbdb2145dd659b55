"""task=yelp from labelled files to its results, on small files written here."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from scipy.stats import norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cvae import data
from cvae.config.schema import Shares, ShenFiles
from cvae.data import labelled
from cvae.data.label_sets import held_out, stratified, without_words
from cvae.data.text import Batch, Corpus, Splits
from cvae.data.vocabulary import BOS, EOS, SPECIALS
from cvae.errors import Diverged, FolderError, RunsError, UserError
from cvae.evaluation.classifier import (
    Classifier,
    Probe,
    Scaling,
    Score,
    in_order,
    judge,
    posteriors,
    probe,
    train,
)
from cvae.models.gaussian import Gaussian
from cvae.report import figures
from cvae.report.accuracy import accuracy_table, label_counts, scores
from cvae.report.figures import ORDER
from cvae.runs.folder import RunFolder
from cvae.runs.reader import Run, find_runs, read_map
from cvae.schedules import Autoencoder
from cvae.tasks import reviews
from cvae.tasks.reviews import Trial
from cvae.training import checkpoint
from cvae.training import run as runs
from cvae.training.classification import summary as means_of
from cvae.training.loop import Loop
from cvae.training.run import prepare, reopen, run
from tests.helpers import CPU, REVIEWS, ROOT, script

quick = settings(max_examples=50, deadline=None)
SUBJECTS = ["the food", "the service", "this place", "my waiter", "a room", "our table"]
WORDS = (["awful", "rude", "cold", "dirty"], ["great", "friendly", "warm", "clean"])


def sentence(label: int, n: int) -> str:
    """Sentence n of a class: its words tell which."""
    first, second = WORDS[label][n % 4], WORDS[label][n // 4 % 4]
    return f"{SUBJECTS[n % 6]} was {first}" + (f" and {second}" if n % 3 else "") + " ."


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """sentiment.{train,dev,test}.{0,1} with 30 + 50, 10 + 20 and 20 + 30 sentences."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    path = tmp_path_factory.mktemp("Kritiken – é ")
    for split, counts in {"train": (30, 50), "dev": (10, 20), "test": (20, 30)}.items():
        for label, count in enumerate(counts):
            lines = [sentence(label, n) for n in range(count)]
            (path / f"sentiment.{split}.{label}").write_text("\n".join(lines) + "\n")
    return path


def described(folder: Path, least: int = 1, **shares: float) -> ShenFiles:
    """The configuration that reads a folder."""
    share = Shares(**({"train": 1.0, "val": 1.0, "test": 1.0} | shares))
    return ShenFiles(
        name="yelp", path=str(folder), share=share, min_count=least, max_words=9, sampler="equal_length"
    )


def text(built: Splits, row: int) -> str:
    """A training sentence as it was read."""
    return " ".join(built.vocabulary.decode(built.corpora["train"].batch(np.array([row])).tokens[0].tolist()))


# ---- the data ----


def test_sentences_come_class_after_class_with_their_labels(folder):
    built = data.build(described(folder), CPU)
    corpus = built.corpora["train"]
    assert {split: len(c) for split, c in built.corpora.items()} == {"train": 80, "val": 30, "test": 50}
    assert corpus.labels.tolist() == [0] * 30 + [1] * 50
    for row, expected in ((0, sentence(0, 0)), (29, sentence(0, 29)), (30, sentence(1, 0))):
        assert text(built, row) == expected
    assert set(built.fingerprints) == {f"{split}/{n}" for split in ("train", "val", "test") for n in (0, 1)}


def test_a_share_is_the_first_sentences_of_each_class_rounded_down(folder):
    built = data.build(described(folder, train=0.3, val=0.29, test=0.11), CPU)
    labels = {split: corpus.labels.tolist() for split, corpus in built.corpora.items()}
    assert labels == {"train": [0] * 9 + [1] * 15, "val": [0] * 2 + [1] * 5, "test": [0] * 2 + [1] * 3}
    assert [text(built, row) for row in (8, 9)] == [sentence(0, 8), sentence(1, 0)]


def test_a_share_is_not_less_for_how_it_is_stored(tmp_path):
    for split in ("train", "dev", "test"):
        for label in (0, 1):
            (tmp_path / f"sentiment.{split}.{label}").write_text("so it is\n" * 100)
    assert int(0.29 * 100) == 28
    train = data.build(described(tmp_path, train=0.29), CPU).corpora["train"]
    assert np.bincount(train.labels).tolist() == [29, 29]


def test_a_share_is_said_and_recorded(folder, tmp_path, configured):
    assert data.build(described(folder), CPU).notes == ()
    shares = ("dataset.share.train=0.5", "dataset.share.test=0.125")
    config = configured(*REVIEWS, *shares, f"dataset.path={folder}", "train.epochs=null", "train.steps=4")
    run(config, RunFolder(tmp_path))
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert notes == [
        "train: 40 sentences, the first 50 % of each class (dataset.share.train)",
        "test: 5 sentences, the first 12.5 % of each class (dataset.share.test)",
    ]
    assert all(note in (tmp_path / "train.log").read_text() for note in notes)


@pytest.mark.parametrize("name", ["sentiment.train.2", "sentiment.dev.neutral", "sentiment.test.02"])
def test_a_third_class_is_refused(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "reviews")
    for other in ("sentiment.train.0.gz", "sentiment.train.1~", "sentiment.all.2", name):
        (tmp_path / "reviews" / other).write_text("so so\n")
    with pytest.raises(UserError, match=rf"{name} is a class of its own: dataset=yelp tells two apart"):
        labelled.read_reviews(described(tmp_path / "reviews"))
    (tmp_path / "reviews" / name).unlink()
    labelled.read_reviews(described(tmp_path / "reviews"))


def test_a_share_of_nothing_is_refused_by_file_and_key(folder):
    with pytest.raises(UserError, match=r"val, negative: 10 sentences, and dataset\.share\.val=0\.05 takes"):
        data.build(described(folder, val=0.05), CPU)


def test_words_rarer_than_min_count_in_the_used_share_are_unknown(folder):
    words = data.build(described(folder, least=16), CPU).vocabulary.words
    classes = labelled.read_reviews(described(folder))["train"]
    flat = [word for texts in classes.values() for line in texts for word in line.split()]
    assert set(words) == {*SPECIALS, *(word for word in flat if flat.count(word) >= 16)}
    assert 6 < len(words) < len(SPECIALS) + len(set(flat))


def test_a_bad_line_is_refused_by_file_and_number(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sentiment.dev.1").write_text("fine\nthis one has more words than the nine allowed here\n")
    with pytest.raises(UserError, match=r"sentiment\.dev\.1, line 2: 10 words, dataset\.max_words allows 9"):
        data.build(described(tmp_path), CPU)
    (tmp_path / "sentiment.test.0").unlink()
    with pytest.raises(UserError, match=r"no data at .*sentiment\.test\.0: python scripts/get_data\.py yelp"):
        data.build(described(tmp_path), CPU)


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
def test_yelp_quick_has_about_the_sizes_of_the_authors_experiment(folder, configured):
    config = configured("experiment=yelp_quick")
    found = data.build(config.dataset, CPU)
    assert {split: len(corpus) for split, corpus in found.corpora.items()} == {
        "train": 44_334,
        "val": 6_347,
        "test": 12_696,
    }
    assert len(found.vocabulary) == 3_699
    assert found.corpora["test"].labels.mean() == pytest.approx(0.602, abs=0.001)


# ---- pre-training ----


def outcome(path: Path) -> dict:
    """Everything a run leaves that must not depend on whether it was stopped."""

    def timeless(record: dict) -> dict:
        return {key: value for key, value in record.items() if not key.startswith("time/")}

    lines = (path / "metrics.jsonl").read_text().splitlines()
    return {
        "metrics": [timeless(json.loads(line)) for line in lines],
        "results": timeless(json.loads((path / "results.json").read_text())),
        "weights": {
            (which, name): tensor.tolist()
            for which in ("last", "best")
            for name, tensor in checkpoint.load(path / f"checkpoint_{which}.pt")["model"].items()
        },
    }


MODES = "task.finetune.modes=[probe,finetune,scratch]"
WITH_LSTM = ("model=sentence", "remedy=[word_dropout]")
WITH_TRANSFORMER = ("model=transformer", "model.layers=1", "model.heads=2", MODES)


@pytest.mark.parametrize("more", [(), ("schedule=none",), WITH_LSTM, WITH_TRANSFORMER])
def test_pretraining_that_is_stopped_anywhere_is_that_which_was_not(
    more, folder, tmp_path, monkeypatch, configured
):
    unknown = {WITH_LSTM: ("filters",), WITH_TRANSFORMER: ("filters", "embed")}.get(more, ())
    small = [key for key in REVIEWS if not any(name in key for name in unknown)]
    config = configured(*small, *more, f"dataset.path={folder}")
    run(config, RunFolder(tmp_path / "whole"))
    train = dataclasses.replace(config.train, stop_after=7)
    run(dataclasses.replace(config, train=train), RunFolder(tmp_path / "parts"))
    advance = Loop._advance

    def crashing(self):
        advance(self)
        if self.state.step == 17:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", crashing)
        with pytest.raises(ZeroDivisionError):
            run(config, RunFolder(tmp_path / "parts"))
    run(config, RunFolder(tmp_path / "parts"))
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


# ---- the second stage ----

LEARNING = ("lr.value=0.01", "train.epochs=4")


def cells(path: Path) -> list[dict]:
    """The classifiers of a run, without what they took."""
    lines = (path / "classifier.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory, configured, pictures) -> Path:
    """A run of both stages, with its pictures."""
    path = tmp_path_factory.mktemp("fertig é ")
    with pictures():
        run(configured(*REVIEWS, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(path))
    return path


@quick
@given(
    st.lists(st.integers(0, 1), min_size=4, max_size=300).filter(lambda labels: len(set(labels)) == 2),
    st.floats(0.001, 1.0),
    st.floats(0.001, 1.0),
    st.integers(0, 9),
)
def test_label_sets_are_nested_stratified_and_a_function_of_share_and_seed(given, one, other, seed):
    labels = np.array(given)
    small, large = (stratified(labels, share, seed) for share in sorted((one, other)))
    assert set(small) <= set(large) and len(set(large)) == len(large)
    assert (small == stratified(labels, min(one, other), seed)).all()
    for share, chosen in ((min(one, other), small), (max(one, other), large)):
        for label in (0, 1):
            count = (labels[chosen] == label).sum()
            assert count == max(1, round(share * (labels == label).sum()))
    assert len(stratified(labels, 1.0, seed)) == len(labels)


def test_other_seeds_are_other_label_sets():
    labels = np.repeat([0, 1], 50)
    assert len({tuple(stratified(labels, 0.1, seed)) for seed in range(5)}) == 5
    first, second = stratified(labels, 0.1, 0).reshape(2, -1)  # nor of one class as of the other
    assert (first != second - 50).any()


def test_the_validation_set_grows_with_the_labels_between_its_bounds():
    labels = np.repeat([0, 1], [40, 60])
    assert [len(held_out(labels, count, 10, seed=0)) for count in (2, 30, 500)] == [10, 30, 100]
    assert labels[held_out(labels, 30, 10, seed=0)].mean() == pytest.approx(0.6)


def test_dropping_words_keeps_labels_order_and_at_least_one_word():
    rng = np.random.default_rng(1)
    sentences = [[BOS, *rng.integers(4, 99, n).tolist(), EOS] for n in [1] * 20 + [30] * 20 + [0]]
    corpus = Corpus(sentences, 99, CPU, [0] * 20 + [1] * 21)
    less = without_words(corpus, 0.3, 99)
    assert less.labels.tolist() == corpus.labels.tolist()
    *kept, empty = [less.batch(np.array([n])).tokens[0].tolist() for n in range(41)]
    assert empty == sentences.pop()
    for before, after in zip(sentences, kept, strict=True):
        remaining = iter(before)
        assert all(word in remaining for word in after) and len(after) >= 3
    assert sum(map(len, kept[20:])) == pytest.approx(20 * (2 + 0.7 * 30), rel=0.05)
    assert torch.equal(without_words(corpus, 0.0, 99).tokens, corpus.tokens)


def test_each_mode_share_and_seed_is_made_once_with_the_same_label_sets(
    finished, folder, tmp_path, configured
):
    found = cells(finished)
    assert [(c["mode"], c["share"], c["seed"]) for c in found] == [
        (mode, share, seed)
        for mode in ("probe", "finetune", "scratch")
        for share in (0.1, 0.5, 1.0)
        for seed in range(2 if mode == "probe" or share < 1 else 1)
    ]
    assert [c["labels"] for c in found if c["seed"] == 0] == [8, 40, 80] * 3
    # 0.2 for each label, 6 at least, by class of 10 and 20
    assert [c["val_labels"] for c in found if c["seed"] == 0] == [6, 8, 16] * 3
    for schedule in ("none", "monotonic"):
        config = configured(*REVIEWS, MODES, f"schedule={schedule}", f"dataset.path={folder}")
        task = prepare(config)
        assert list(task.classification.trials()) == [(c["mode"], c["share"], c["seed"]) for c in found]
        rows = {cell: task.classification.label_sets(cell) for cell in task.classification.trials()}
        first = prepare(configured(*REVIEWS, MODES, f"dataset.path={folder}"))
        for cell in first.classification.trials():
            for one, other in zip(rows[cell], first.classification.label_sets(cell), strict=True):
                assert (one == other).all() and (np.diff(one) > 0).all()
        for one, other in zip(rows["probe", 0.1, 0], rows["probe", 0.1, 1], strict=True):
            assert set(one) != set(other)


def test_a_probe_leaves_the_encoder_as_it_was_and_fine_tuning_leaves_the_pretrained_one(
    finished, folder, configured, monkeypatch
):
    task = reopen(configured(*REVIEWS, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(finished))
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    trained = []
    original = reviews.train

    def watching(classifier, *arguments):
        trained.append(
            (classifier.encoder, {k: v.clone() for k, v in classifier.encoder.state_dict().items()})
        )
        return original(classifier, *arguments)

    monkeypatch.setattr(reviews, "train", watching)
    for cell in task.classification.trials():
        task.classification.measure(cell)
        assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
        assert bool(trained) == (cell.mode != "probe")
    # a fine-tuned encoder starts as the pre-trained one and does not stay it, another starts anew
    moved = []
    for cell, (encoder, start) in zip(
        (c for c in task.classification.trials() if c.mode != "probe"), trained, strict=True
    ):
        same = all(torch.equal(start[name], before[f"encoder.{name}"]) for name in start)
        assert same == (cell.mode == "finetune")
        moved.append(
            any(not torch.equal(tensor, start[name]) for name, tensor in encoder.state_dict().items())
        )
    assert any(moved)


def test_a_classifier_is_chosen_on_its_validation_sentences_and_measured_once_on_test(
    finished, folder, configured, monkeypatch
):
    task = reopen(configured(*REVIEWS, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(finished))
    seen, taught, scales, judge, teach = [], [], [], Classifier.judge, reviews.train

    def watching(self, corpus, rows):
        seen.append((corpus, rows.tolist()))
        return judge(self, corpus, rows)

    def teaching(classifier, corpus, rows, validate, settings, encoder_lr, seed):
        start = {name: tensor.clone() for name, tensor in classifier.encoder.state_dict().items()}
        taught.append((corpus, rows.tolist(), encoder_lr, seed, start))
        scales.append(classifier.scale)
        return teach(classifier, corpus, rows, validate, settings, encoder_lr, seed)

    monkeypatch.setattr(Classifier, "judge", watching)
    monkeypatch.setattr(reviews, "train", teaching)
    train, val, test = (task.data.corpora[split] for split in ("train", "val", "test"))
    for mode, rate in (
        ("finetune", task.classification.settings.encoder_lr),
        ("scratch", task.classification.settings.lr),
    ):
        seen.clear()
        task.classification.measure(cell := Trial(mode, 0.1, 1))
        rows, chosen = (part.tolist() for part in task.classification.label_sets(cell))
        assert seen[:-1] == [(val, chosen)] * 3  # at the start and at two checks
        assert seen[-1] == (test, list(range(len(test))))
        *how, start = taught.pop()
        assert how == [train, rows, rate, 1]
        encoder = task.model.encoder if mode == "finetune" else task.classification.new_encoder(1)
        assert all(torch.equal(tensor, start[name]) for name, tensor in encoder.state_dict().items())
    assert task.classification.settings.encoder_lr != task.classification.settings.lr
    assert scales == [task.classification._scaling.scale, 1.0]  # of the means; of an encoder that is new


def test_a_new_encoder_is_of_its_seed_and_leaves_the_global_noise(folder, configured):
    task = prepare(configured(*REVIEWS, f"dataset.path={folder}"))
    task.model.train()
    state = torch.get_rng_state()
    encoders = [task.classification.new_encoder(seed) for seed in (1, 1, 2)]
    one, again, other = (encoder.second.weight for encoder in encoders)
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert not any(part.training for whole in (task.model, *encoders) for part in whole.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_majority_is_that_of_the_training_sentences(folder, configured):
    task = prepare(configured(*REVIEWS, f"dataset.path={folder}"))
    assert task.classification.majority() == 0.6
    task.data.corpora["train"].labels[:50] = 0  # now most are of class 0, and of test 30 of 50 are not
    assert task.classification.majority() == 0.4


def test_the_record_has_what_results_and_the_table_say(finished):
    results = json.loads((finished / "results.json").read_text())
    found = cells(finished)
    values = [c["test/accuracy"] for c in found if (c["mode"], c["share"]) == ("finetune", 0.1)]
    assert results["test/accuracy/finetune/0.1"] == pytest.approx(np.mean(values))
    assert results["test/accuracy_std/finetune/0.1"] == pytest.approx(np.std(values, ddof=1))
    assert results["labels/0.5"] == 40 and results["test/majority"] == 0.6
    assert {"test/accuracy_sampled/probe/1", "test/accuracy_dropped/probe/1"} <= results.keys()
    table = accuracy_table(find_runs([finished]), ORDER)
    # labels to learn from, and those of validation that a classifier is chosen by
    assert table.head == ["classifier", "schedule", "10 % (8 + 6)", "50 % (40 + 8)", "100 % (80 + 16)"]
    rows = {tuple(row[:2]): row[2:] for row in table.body}
    assert rows["finetune", "cyclical"][0].mean == pytest.approx(100 * np.mean(values))
    assert len(rows["probe on samples of z", "cyclical"][0].values) == 2
    assert ("scratch", "–") in rows


def test_a_summary_has_mean_and_sample_deviation_over_label_sets():
    records = [
        {"mode": "finetune", "share": 0.1, "labels": 9, "updates": updates, "test/accuracy": accuracy}
        for updates, accuracy in ((0, 0.5), (3, 0.7), (0, 0.9))
    ]
    records[0]["test/accuracy_sampled"] = 0.4  # which those of an earlier version lack
    one = {"mode": "scratch", "share": 1.0, "labels": 90, "updates": 0, "test/accuracy": 0.6}
    assert means_of([*records, one]) == pytest.approx(
        {
            "labels/0.1": 9,
            "still_probe/0.1": 2,
            "test/accuracy/finetune/0.1": 0.7,
            "test/accuracy_std/finetune/0.1": 0.2,
            "labels/1": 90,
            "test/accuracy/scratch/1": 0.6,
        }
    )


def test_a_mean_says_how_many_of_its_classifiers_are_still_the_probe(tmp_path, capsys):
    folder, accuracy = tmp_path / "a", [0.5, 0.5, 0.9]
    folder.mkdir()
    config = {"seed": 0, "task": {"name": "yelp"}, "schedule": {"name": "cyclical"}}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    records = [
        {
            "mode": mode,
            "share": 0.1,
            "seed": seed,
            "labels": 8,
            "val_labels": 4,
            "test/accuracy": accuracy[seed],
        }
        | ({} if mode == "probe" else {"updates": updates})
        for mode, counts in (("probe", (0, 0, 0)), ("finetune", (0, 0, 7)), ("scratch", (0, 5, 6)))
        for seed, updates in enumerate(counts)
    ]
    (folder / "classifier.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = means_of([*records, records[5] | {"share": 0.5}, records[3] | {"share": 1.0}])
    still = {key: count for key, count in summary.items() if "still" in key}
    assert still == {"still_probe/0.1": 2, "still_probe/0.5": 0, "still_probe/1": 1}
    (folder / "results.json").write_text(json.dumps({"finished": True} | summary))
    table = script("table").main
    assert table([str(tmp_path), "--accuracy"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| probe | cyclical | 63.33 ± 23.09 |",
        "| finetune | cyclical | 63.33 ± 23.09 †2 |",
        "| scratch | – | 63.33 ± 23.09 |",
        "",
        "- (n + m): n labelled sentences to learn from, and m to choose the classifier by",
        "- †k: the mean includes k classifiers that are still their probe (updates: 0)",
    ]
    for measure, said in (("finetune", True), ("probe", False)):
        assert table([str(tmp_path), "--columns", f"test/accuracy/{measure}/0.1"]) == 0
        assert ("2 fine-tuned classifiers are still their probe" in capsys.readouterr().out) == said


def test_a_probe_is_tested_on_what_it_is_fitted_on(tmp_path, configured, monkeypatch):
    """Means tell the class in a dimension that samples drown, and less well in one that samples keep."""
    for split in ("train", "dev", "test"):
        for label in (0, 1):
            lines = [sentence(label, n) for n in range(400)]
            (tmp_path / f"sentiment.{split}.{label}").write_text("\n".join(lines) + "\n")
    own = ("task.finetune.penalties=[1.0e+4]", f"dataset.path={tmp_path}")
    task, rng = prepare(configured(*REVIEWS, *own)), np.random.default_rng(0)

    def posteriors(encoder: torch.nn.Module, corpus: Corpus) -> Gaussian:
        side = 2.0 * corpus.labels - 1
        mean = np.stack([2 * side + rng.normal(0, 1.5, len(side)), 0.05 * side], 1)
        return Gaussian(torch.tensor(mean), torch.zeros(len(side), 2))

    scales: list[float] = []
    scaled = Scaling.__call__
    monkeypatch.setattr(Scaling, "__call__", lambda self, z: scales.append(self.scale) or scaled(self, z))
    monkeypatch.setattr(reviews, "posteriors", posteriors)
    found = task.classification.measure(Trial("probe", 1.0, 0))
    *_, of_means, train, val, test = scales
    assert train == val == test > of_means  # samples vary more
    assert found["test/accuracy"] == 1.0
    assert found["test/accuracy_sampled"] == pytest.approx(norm.cdf(2 / math.hypot(1.5, 1)), abs=0.03)
    again = task.classification.measure(Trial("probe", 1.0, 1))
    assert again["test/accuracy"] == 1.0 and again["test/accuracy_sampled"] != found["test/accuracy_sampled"]
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, schedule=Autoencoder()))
    assert task.classification.measure(Trial("probe", 1.0, 0)).keys() == found.keys() - {
        "test/accuracy_sampled"  # its z is the mean
    }


def test_a_probe_on_means_is_fitted_once_for_each_set_of_validation_sentences(
    folder, configured, monkeypatch
):
    task, chosen = prepare(configured(*REVIEWS, "schedule=none", f"dataset.path={folder}")), []
    monkeypatch.setattr(
        reviews, "probe", lambda z, labels, val, *rest: chosen.append(val) or probe(z, labels, val, *rest)
    )
    for seed in (0, 1, 0, 1):  # on all labels
        task.classification.measure(Trial("probe", 1.0, seed))
    one, other = chosen
    assert not np.array_equal(one, other)


def test_an_older_runs_probe_on_means_is_not_read_as_one_on_samples():
    """It was fitted on means and tested on samples: no row of the table shows it."""
    table = accuracy_table(find_runs([ROOT / "outputs" / "published" / "yelp_quick"]), ORDER)
    assert {row[0] for row in table.body} == {"probe", "finetune", "probe, words dropped"}


def classified(seed: int, schedule: str = "cyclical", lr: str = "", **model: int) -> Run:
    """A run with two probes and two classifiers without pre-training, the latter the same in each run."""
    config = {"seed": seed, "schedule": {"name": schedule}, "model": model, "task": {"name": "yelp"}}
    config |= {"lr": {"name": lr}} if lr else {}
    about = {"share": 0.1, "labels": 8}
    made = [("probe", set_, 0.7 + 0.1 * set_ + 0.01 * seed) for set_ in (0, 1)]
    made += [("scratch", set_, 0.6 + 0.1 * set_) for set_ in (0, 1)]
    records = [about | {"mode": mode, "seed": set_, "test/accuracy": value} for mode, set_, value in made]
    return Run(Path(f"{schedule}-{seed}"), config, [], {}, {}, records)


def test_shares_of_labels_stand_in_rising_order_whatever_was_made_first():
    made = [{"share": share, "labels": int(80 * share)} for share in (1.0, 0.1, 0.5)]
    counts = label_counts([SimpleNamespace(classifiers=made[:2]), SimpleNamespace(classifiers=made[2:])])
    assert list(counts.items()) == [(0.1, (8, 0)), (0.5, (40, 0)), (1.0, (80, 0))]
    run = classified(0)
    records = [record | {"share": share} for share in (0.5, 1.0, 0.1) for record in run.classifiers]
    for way in scores([dataclasses.replace(run, classifiers=records)], ORDER):
        assert list(way.cells) == [0.1, 0.5, 1.0]


def test_classifiers_without_pretraining_count_once_and_are_of_one_kind():
    found = {one.mode: one.cells[0.1].values for one in scores([classified(0), classified(1)], ORDER)}
    assert found["probe"] == pytest.approx((70, 80, 71, 81)) and found["scratch"] == pytest.approx((60, 70))
    alike = [classified(0, hidden=3), classified(0, "monotonic", hidden=3)]
    assert [one.mode for one in scores(alike, ORDER)] == ["probe", "probe", "scratch"]
    with pytest.raises(UserError, match=r"without pre-training cannot be folded: .* differ in model\.hidden"):
        scores([classified(0, hidden=3), classified(0, "monotonic", hidden=4)], ORDER)


def test_a_measure_of_null_is_none_and_a_measure_that_no_classifier_has_is_no_row():
    run = classified(0)
    sampled = {"test/accuracy_sampled": None}, {"test/accuracy_sampled": 0.5}
    for first, second, rows in (({}, {}, 0), (sampled[0], sampled[0], 0), (*sampled, 1), (*sampled[::-1], 1)):
        probes = [record | more for record, more in zip(run.classifiers[:2], (first, second), strict=True)]
        table = accuracy_table([dataclasses.replace(run, classifiers=probes)])
        assert len(table.notes) == 1  # none on a mark that no cell has
        found = [row[2].values for row in table.body if row[0] == "probe on samples of z"]
        assert found == [(50.0,)] * rows


def test_a_row_names_its_learning_rate_where_they_vary():
    other = classified(0)
    other.config["lr"] = {"name": "cosine_restarts"}
    for members, names in (
        ([classified(0), classified(0, "monotonic")], ["monotonic", "cyclical", "–"]),
        ([classified(0), other], ["cyclical, constant", "cyclical, cosine_restarts", "–"]),
        ([classified(0, "odd"), classified(0)], ["cyclical", "odd", "–"]),
    ):
        table = accuracy_table(members, ORDER)
        assert [row[1] for row in table.body] == names
        assert [row[0] for row in table.body] == ["probe", "probe", "scratch"]


def test_classifiers_without_pretraining_may_come_from_runs_with_other_modes():
    one, other = classified(0), classified(0, "monotonic")
    for each, modes in ((one, ["scratch"]), (other, ["probe", "scratch"])):
        each.config["task"] = {"name": "yelp", "finetune": {"modes": modes}}
    assert [found.mode for found in scores([one, other], ORDER)] == ["probe", "probe", "scratch"]
    other.config["task"]["finetune"]["epochs"] = 9
    with pytest.raises(UserError, match=r"differ in task\.finetune\.epochs$"):
        scores([one, other], ORDER)


def test_runs_without_classifiers_have_no_accuracies():
    run = dataclasses.replace(classified(0), classifiers=[])
    for report in (accuracy_table, figures.accuracy_figure):
        with pytest.raises(RunsError, match=r"^none of these runs has classifiers: a run of task=yelp leav"):
            report([run])


def test_a_map_is_drawn_where_there_is_one_and_elsewhere_it_is_said(tmp_path):
    runs = []
    for schedule in ("cyclical", "monotonic"):
        runs.append(dataclasses.replace(classified(0, schedule), folder=tmp_path / schedule))
        (tmp_path / schedule).mkdir()
    with pytest.raises(RunsError, match=r"^none of the runs has a map\.jsonl: a finished run of task=yelp"):
        figures.map_figure(runs)
    (tmp_path / "cyclical" / "map.jsonl").write_text('{"x": 0.5, "y": -1.0, "label": 1}\n')
    other = classified(0, "constant")
    for scratch in (False, True):  # beside what has no pre-trained encoder, and so no map
        made = [record for record in other.classifiers if scratch and record["mode"] == "scratch"]
        assert len(figures.map_figure([dataclasses.replace(other, classifiers=made), *runs]).axes) == 2
    figure = figures.map_figure(runs)
    monotonic, cyclical = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["positive"]
    assert [text.get_text() for text in monotonic.texts] == ["no map yet"] and not monotonic.collections
    assert not cyclical.texts and cyclical.collections[0].get_offsets().tolist() == [[0.5, -1.0]]
    lines = (f'{{"x": 0, "y": 0, "label": {n}, "class": "class {n}"}}\n' for n in range(9, 11))
    (tmp_path / "monotonic" / "map.jsonl").write_text("".join(lines))  # more than there are colours
    names = [text.get_text() for text in figures.map_figure(runs).legends[0].get_texts()]
    assert names == ["positive", "class 9", "class 10"]


def test_each_panel_has_its_own_classifiers_and_those_without_pretraining():
    run = classified(0)
    finetuned = [record | {"mode": "finetune"} for record in run.classifiers if record["mode"] == "probe"]
    more = [record | {"share": 1.0, "labels": 80} for record in finetuned]  # the others are still to be made
    both = dataclasses.replace(run, classifiers=[*run.classifiers, *finetuned, *more])
    for ax, counts in zip(figures.accuracy_figure([both]).axes, ([8], [8, 80]), strict=True):
        assert [line.get_label() for line in ax.lines] == ["Cyclical", "no pre-training"]
        assert [line.get_xdata().tolist() for line in ax.lines] == [counts, [8]]
    for updates, said in (({}, ""), ({"updates": 3}, ""), ({"updates": 0}, " (2 of 2 still the probe)")):
        made = [*run.classifiers, *(record | updates for record in finetuned)]  # {}: of an older run
        panels = figures.accuracy_figure([dataclasses.replace(run, classifiers=made)]).axes
        assert panels[1].get_title("left") == f"encoder fine-tuned{said}"
        assert "still" not in panels[0].get_title("left")


def test_classifiers_without_pretraining_have_a_panel_where_there_are_no_others():
    run = classified(0)
    scratch = [record for record in run.classifiers if record["mode"] == "scratch"]
    (ax,) = figures.accuracy_figure([dataclasses.replace(run, classifiers=scratch)]).axes
    assert ax.get_title("left") == "no pre-training"
    assert [line.get_label() for line in ax.lines] == ["no pre-training"]


def test_rates_have_the_styles_of_their_turn():
    runs = [classified(0, lr=lr) for lr in "dcba"]
    drawn = {line.get_label(): line.get_linestyle() for line in figures.accuracy_figure(runs).axes[0].lines}
    styles = ("-", "--", "--", "-.", "--")  # two are dashes of their own
    names = [*(f"Cyclical, {lr} lr" for lr in "abcd"), "no pre-training"]
    assert list(drawn.items()) == list(zip(names, styles, strict=True))


def test_a_band_is_a_standard_deviation_to_each_side_and_colours_are_the_labels(finished):
    (run,) = find_runs([finished])
    probe_panel = figures.accuracy_figure([run]).axes[0]
    (found,) = (one for one in scores([run], ORDER) if one.mode == "probe")
    for cell, (count, _) in zip(found.cells.values(), label_counts([run]).values(), strict=True):
        edges = probe_panel.collections[0].get_paths()[0].vertices
        there = edges[edges[:, 0] == count, 1]
        assert (there.min(), there.max()) == pytest.approx((cell.mean - cell.std, cell.mean + cell.std))
    figure = figures.map_figure([run])
    (points,) = figure.axes[0].collections
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    said = {to_hex(dot.get_color()): name for dot, name in zip(legend.get_lines(), names, strict=True)}
    colours = map(to_hex, points.get_facecolor())
    places = dict(zip(map(tuple, points.get_offsets().tolist()), colours, strict=True))
    drawn = read_map(finished)
    assert len(places) == len(drawn.labels) > len(set(drawn.labels.tolist())) == 2
    for place, label in zip(drawn.places, drawn.labels, strict=True):
        assert said[places[tuple(place.tolist())]] == ("negative", "positive")[label]


def test_the_log_has_a_line_for_each_classifier_and_their_table(finished):
    log = (finished / "train.log").read_text()
    for line in (finished / "classifier.jsonl").read_text().splitlines():
        record = json.loads(line)
        labels, accuracy = f"{record['labels']:,} labels", f"test accuracy {record['test/accuracy']:.4f}"
        assert log.count(f"{record['mode']}, {labels}, seed {record['seed']} | {accuracy}\n") == 1
        assert 0 < record["time/seconds"] < 60
    assert log.count("test accuracy in %\n" + (finished / "accuracy.md").read_text()) == 1


def test_the_pictures_and_the_projector_are_there(finished):
    assert {"accuracy.png", "map.png", "curves.png"} <= {path.name for path in finished.iterdir()}
    assert (finished / "accuracy.md").read_text().count("\n| ") == 6
    events = EventAccumulator(str(finished))
    events.Reload()
    assert {"pictures/accuracy", "pictures/map"} <= set(events.Tags()["images"])
    about = (finished / "projector_sentences.tsv").read_text().splitlines()
    means = (finished / "projector_means.tsv").read_text().splitlines()
    assert about[0] == "sentence\tlabel" and len(about) - 1 == len(means) == 12
    for line in about[1:]:
        words, label = line.split("\t")
        assert any(word in words.split() for word in WORDS[label == "positive"])
    labels = [json.loads(line)["label"] for line in (finished / "map.jsonl").read_text().splitlines()]
    assert labels == [int(line.endswith("positive")) for line in about[1:]]
    assert set(labels) == {0, 1}  # though the split has one class after the other
    named = re.findall(r'(\w+): "(.*)"', (finished / "projector_config.pbtxt").read_text())
    assert dict(named) == {
        "tensor_name": "posterior means",
        "tensor_path": "projector_means.tsv",
        "metadata_path": "projector_sentences.tsv",
    }


@pytest.mark.parametrize("killed", [0, 8, 12])
def test_the_second_stage_goes_on_after_any_classifier(killed, finished, folder, tmp_path, configured):
    for path in finished.iterdir():
        if path.name not in ("classifier.jsonl", "results.json", ".lock", "map.jsonl"):
            shutil.copy(path, tmp_path / path.name)
    lines = (finished / "classifier.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "classifier.jsonl").write_bytes(b"".join(lines[:killed]) + lines[killed][:30])
    run(configured(*REVIEWS, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(tmp_path))
    assert cells(tmp_path) == cells(finished)
    assert outcome(tmp_path)["results"] == outcome(finished)["results"]
    for name in ("map.jsonl", "projector_means.tsv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_classifier_whose_loss_is_not_finite_stops_and_keeps_its_batch(folder, tmp_path, configured):
    done = {"mode": "scratch", "share": 0.1, "seed": 0, "labels": 8, "test/accuracy": 0.5}
    (tmp_path / "classifier.jsonl").write_text(json.dumps(done) + "\n")  # the next is that of seed 1
    own = ("task.finetune.modes=[scratch]", "task.finetune.lr=1e38", f"dataset.path={folder}")
    with pytest.raises(
        Diverged, match=r"^loss is (nan|inf) at update \d of the classifier scratch, share 0\.1, seed 1: the "
    ):
        run(configured(*REVIEWS, *own), RunFolder(tmp_path))
    kept = json.loads((tmp_path / "diverged.json").read_text())
    assert (kept["mode"], kept["share"], kept["seed"]) == ("scratch", 0.1, 1) and len(kept["sentences"]) == 8
    assert re.fullmatch(r"loss is (nan|inf) at update \d", kept["cause"])
    assert not RunFolder(tmp_path).results["finished"]


def test_classifiers_of_an_encoder_with_batch_norm_use_the_population(
    folder, tmp_path, monkeypatch, configured
):
    """Whatever is judged with it, and however small a batch of labelled sentences is."""
    small = [key for key in REVIEWS if "filters" not in key and "modes" not in key]
    own = ("model=sentence", "remedy=[batch_norm]", "task.finetune.batch_size=7", f"dataset.path={folder}")
    config = configured(*small, *own)
    seen, real = [], reviews.train

    def watched(classifier, *rest):
        found = real(classifier, *rest)
        seen.append(classifier.encoder.training)
        return found

    monkeypatch.setattr(reviews, "train", watched)
    run(config, RunFolder(tmp_path))
    assert len(seen) == 2 * 5 and not any(seen)
    assert RunFolder(tmp_path).results["finished"]
    task = prepare(config)  # whose population nothing has asked for yet
    means, layer = task.classification.posteriors["train"].mean, task.model.encoder.normalise
    torch.testing.assert_close(means.mean(0), layer.shift.detach(), rtol=0, atol=1e-4)


def test_init_from_restores_exactly_and_gives_the_same_classifiers(
    finished, folder, tmp_path, configured, monkeypatch
):
    own = ("task.finetune.modes=[probe]", f"init_from={finished}", f"dataset.path={folder}")
    task = prepare(configured(*REVIEWS, *own))
    best = checkpoint.load(finished / "checkpoint_best.pt")["model"]
    for name, tensor in task.model.encoder.state_dict().items():
        assert torch.equal(tensor, best[f"encoder.{name}"])
    taken, take = [], runs.load_weights
    monkeypatch.setattr(
        runs, "load_weights", lambda *given, **how: taken.append(how["encoder_only"]) or take(*given, **how)
    )
    run(configured(*REVIEWS, *own), RunFolder(tmp_path))
    assert taken == [True]
    assert cells(tmp_path) == [cell for cell in cells(finished) if cell["mode"] == "probe"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["finished"] and results["updates"] == 0
    assert not (tmp_path / "checkpoint_last.pt").exists()


def test_pretraining_that_goes_on_makes_its_classifiers_anew(finished, folder, tmp_path, configured):
    own = (MODES, f"dataset.path={folder}", "train.epochs=6")
    own += (f"continue_from={finished}", "continue_beta=cycles")
    run(configured(*REVIEWS, *LEARNING, *own), RunFolder(tmp_path))
    new, old = cells(tmp_path), cells(finished)
    assert [cell["mode"] for cell in new] == [cell["mode"] for cell in old]
    scratch = [[cell for cell in trials if cell["mode"] == "scratch"] for trials in (new, old)]
    assert scratch[0] == scratch[1] and new != old
    assert RunFolder(tmp_path).results["updates"] == 1.5 * RunFolder(finished).results["updates"]


def test_a_run_that_only_classified_has_nothing_that_could_go_on(finished, folder, tmp_path, configured):
    own = (*REVIEWS, "task.finetune.modes=[probe]", f"dataset.path={folder}")
    run(configured(*own, f"init_from={finished}"), RunFolder(tmp_path / "probes"))
    config = configured(*own, f"continue_from={tmp_path / 'probes'}", "continue_beta=hold")
    with pytest.raises(FolderError, match="probes has made no updates that could go on"):
        run(config, RunFolder(tmp_path / "new"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            "model.filters=5",
            "is a model of another shape: encoder.first.bias, encoder.first.weight, encoder.",
        ),
        ("schedule=none", "was run with schedule=cyclical, and this run has schedule=none"),
        ("dataset.share.train=0.5", "has another vocabulary.txt: its weights are about other words"),
        ("init_from=/nowhere", "init_from=/nowhere is not the folder of a finished run"),
        ("model=sentence", "was run with model=review, and this run has model=sentence"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(other, said, finished, folder, tmp_path, configured):
    small = [key for key in REVIEWS if other != "model=sentence" or "filters" not in key]
    own = ("task.finetune.modes=[probe]", f"init_from={finished}", f"dataset.path={folder}")
    with pytest.raises(FolderError, match=re.escape(said)):
        run(configured(*small, *own, other), RunFolder(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_scratch_alone_needs_no_pretraining_and_is_the_same_for_every_schedule(
    finished, folder, tmp_path, configured
):
    own = ("task.finetune.modes=[scratch]", "schedule=none", f"dataset.path={folder}")
    run(configured(*REVIEWS, *own), RunFolder(tmp_path))
    assert cells(tmp_path) == [cell for cell in cells(finished) if cell["mode"] == "scratch"]
    assert json.loads((tmp_path / "results.json").read_text())["updates"] == 0
    shown = [name for name in ("map.jsonl", "samples.md") if (tmp_path / name).exists()]
    assert not shown  # of a model that nobody has trained


# ---- the classifiers ----


def test_the_probe_takes_the_best_on_validation_and_the_first_of_equals():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = rng.standard_normal((400, 5))
    features[:, 0] += 2 * labels
    parts = [features[:300], labels[:300], features[300:], labels[300:]]
    alone = [probe(*parts, [penalty]) for penalty in (1e-6, 1e-2, 1.0)]
    chosen = probe(*parts, [1e-6, 1e-2, 1.0])
    assert chosen.score == max(fit.score for fit in alone)
    assert chosen.score.accuracy > 0.75 and abs(chosen.weights[0]) == max(abs(chosen.weights))
    assert chosen.score == pytest.approx(judge(chosen.logits(parts[2]), parts[3]))  # and not of what it fits
    # a class that is as good as told by the first feature is not told by shuffled labels
    shuffled = probe(features[:300], rng.permutation(labels[:300]), features[300:], labels[300:], [1.0])
    assert shuffled.score.accuracy < 0.7


def test_of_probes_that_are_all_right_the_one_with_the_better_fit_is_taken():
    labels = np.array([0, 1] * 10)
    parts = [labels[:, None] - 0.5, labels] * 2
    penalties = [1e-2, 1.0, 1e-1]
    scores = [probe(*parts, [penalty]).score for penalty in penalties]
    assert {score.accuracy for score in scores} == {1} and len({score.fit for score in scores}) == 3
    assert probe(*parts, penalties).penalty == 1.0


def test_a_score_is_the_accuracy_and_then_minus_the_cross_entropy():
    found = judge(np.array([2.0, -1.0, 3.0, -0.5]), np.array([1, 0, 0, 1]))
    nats = [math.log(1 + math.exp(-right)) for right in (2.0, 1.0, -3.0, -0.5)]
    assert found == pytest.approx((0.5, -sum(nats) / 4))
    assert judge(np.zeros(3), np.array([0, 0, 1])).accuracy == 2 / 3  # an untrained layer says class 0
    assert Score(0.6, -2.0) > Score(0.5, -0.1) > Score(0.5, -0.2)


class Reader(nn.Module):
    """An encoder whose mean is the sum of its words' vectors."""

    def __init__(self) -> None:
        super().__init__()
        vectors = 2 * torch.randn(99, 2, generator=torch.Generator().manual_seed(0))
        self.table = nn.Embedding(99, 2, _weight=vectors)

    def forward(self, batch: Batch) -> Gaussian:
        mean = self.table(batch.tokens).sum(1)
        return Gaussian(mean, torch.zeros_like(mean))


@pytest.fixture
def started() -> tuple[Classifier, Probe, Corpus]:
    """A classifier that starts from a probe, and sentences of one word each."""
    corpus = Corpus([[BOS, 4 + n, EOS] for n in range(20)], 99, CPU, [n % 2 for n in range(20)])
    reader, fitted = Reader(), Probe(np.array([0.7, -1.2]), 0.4, 1.0, Score(0.5, -1.0))
    classifier = Classifier(reader, Scaling.of(posteriors(reader, corpus).mean), 2)
    classifier.start_from(fitted)
    return classifier, fitted, corpus


def test_a_classifier_starts_as_the_probe_it_comes_from(started):
    classifier, fitted, corpus = started
    z = posteriors(classifier.encoder, corpus).mean
    found = in_order(classifier, corpus, np.arange(20)).numpy()
    assert found == pytest.approx(fitted.logits(Scaling.of(z)(z)), abs=1e-5)
    loss = classifier.loss(corpus.batch(np.arange(15)), corpus.labels[:15]).item()
    assert loss == pytest.approx(-judge(found[:15], corpus.labels[:15]).fit, abs=1e-5)
    assert abs(z.mean()) > 0.1 and abs(classifier.scale - 1) > 0.1  # so that both matter


def test_rnns_of_a_classifier_train_without_dropout_on_weights_that_are_joined(monkeypatch):
    joined: list[nn.Module] = []
    reader = nn.Sequential(nn.LSTM(3, 4, num_layers=2, dropout=0.5), nn.GRU(4, 2), nn.Dropout(0.5))
    reader = copy.deepcopy(reader.eval())  # after which cuDNN would join the weights at every call
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda rnn: joined.append(rnn))
    Classifier(reader, Scaling(torch.zeros(2), 1.0), 2)
    assert joined == list(reader)[:2]
    assert all(rnn.training and rnn.dropout == 0 for rnn in joined)
    assert not reader[2].training


def taught(started, scores, **values):
    """Training with validations that score so: what each update read, the updates before each validation."""
    classifier, _, corpus = started
    read, made, states, batch = [], [], [], corpus.batch
    corpus.batch = lambda rows: (read.append(rows.tolist()), batch(rows))[1]

    def validate() -> Score:
        made.append(len(read))
        states.append(copy.deepcopy(classifier.state_dict()))
        return Score(*scores[len(made) - 1])

    usual = {"batch_size": 4, "epochs": 2, "least_updates": 12, "checks": 6, "patience": 2, "lr": 1e-2}
    rows = np.arange(1, 20, 2)
    reached, best = train(classifier, corpus, rows, validate, SimpleNamespace(**usual | values), 1e-4, 0)
    assert best == scores[made.index(reached)]
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, states[made.index(reached)][name]), name
    assert not torch.equal(states[0]["encoder.table.weight"], states[1]["encoder.table.weight"])
    return read, made, reached


@pytest.mark.parametrize(
    ("scores", "values", "made", "reached"),
    [
        # better, worse, better, and then twice no better
        ([(0.5, 0), (0.6, 0), (0.5, 0), (0.7, 0), (0.6, 0), (0.7, 0)], {}, [0, 2, 4, 6, 8, 10], 6),
        ([(0.5, 0)] * 4, {"patience": 3}, [0, 2, 4, 6], 0),
        # of equal accuracies the better fit
        ([(0.5, -9), (0.5, -8), (0.5, -9), (0.5, -7)] + [(0.6, -99)] * 3, {}, [0, 2, 4, 6, 8, 10, 12], 8),
        ([(0.1 * n, 0) for n in range(4)], {"least_updates": 4, "checks": 3}, [0, 2, 4, 6], 6),
    ],
)
def test_training_keeps_the_best_weights_and_ends_without_a_gain(scores, values, made, reached, started):
    assert taught(started, scores, **values)[1:] == (made, reached)


def test_a_loss_that_is_not_finite_tells_its_update_and_its_batch(started, monkeypatch):
    classifier, _, corpus = started
    read, loss = [], classifier.loss

    def losing(batch: Batch, labels: np.ndarray) -> torch.Tensor:
        read.append((batch.tokens[:, 1] - 4).tolist())
        return loss(batch, labels) * (math.inf if len(read) == 5 else 1)

    monkeypatch.setattr(classifier, "loss", losing)
    values = SimpleNamespace(batch_size=4, epochs=2, least_updates=0, checks=1, patience=1, lr=1e-2)
    with pytest.raises(Diverged, match=r"^loss is inf at update 4$") as error:
        train(classifier, corpus, np.arange(1, 20, 2), lambda: Score(0.5, 0.0), values, 1e-4, 0)
    assert error.value.rows.tolist() == read[-1] and len(read[-1]) == 4


def test_every_epoch_has_each_labelled_sentence_once_in_another_order(started):
    read, _, _ = taught(started, [(0.1 * n, 0) for n in range(7)])
    epochs = [read[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(np.concatenate(epoch)) == list(range(1, 20, 2)) for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) == 4
    assert [len(batch) for batch in read[:3]] == [4, 4, 2]


def test_the_encoder_and_the_layer_have_their_own_rates(started):
    parameters = dict(started[0].named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    taught(started, [(0.0, 0), (1.0, 0)], epochs=1, batch_size=10, least_updates=1, checks=1)
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in parameters.items()}
    # Adam's first step is as long as the rate
    assert moved == pytest.approx(
        {"encoder.table.weight": 1e-4, "layer.weight": 1e-2, "layer.bias": 1e-2}, rel=1e-2
    )


def test_the_scaling_keeps_the_proportions_of_the_dimensions():
    z = torch.randn(1000, 3) * torch.tensor([5.0, 1.0, 0.1]) + 7
    scaled = Scaling.of(z)(z)
    assert scaled.mean(0) == pytest.approx(0, abs=1e-6) and (scaled**2).mean() == pytest.approx(1, rel=1e-5)
    assert scaled.std(0)[0] / scaled.std(0)[2] == pytest.approx(
        (z[:, 0].std() / z[:, 2].std()).item(), rel=1e-4
    )
    assert Scaling.of(torch.ones(4, 2))(torch.ones(4, 2)).tolist() == [[0.0, 0.0]] * 4


def test_in_order_is_in_the_order_of_the_rows():
    corpus = Corpus([[BOS, *[4 + n] * (n % 7), EOS] for n in range(50)], 99, CPU)
    rows = np.random.default_rng(0).permutation(50)
    assert in_order(lambda batch: batch.lengths, corpus, rows).tolist() == corpus.lengths[rows].tolist()


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
def test_on_real_reviews_a_classifier_beats_the_most_frequent_class_and_shuffled_labels_do_not(
    folder, configured
):
    small = "dataset.share={train:0.02,val:0.02,test:0.03}"
    sizes = ("model.embed=32", "model.filters=32", "model.latent=16", "model.hidden=16")
    settings = ("task.finetune.lr=3e-3", "task.finetune.epochs=4", "task.finetune.checks=4")
    task = prepare(configured("task=yelp", "threads=1", small, *sizes, *settings))
    found = task.classification.measure(Trial("scratch", 1.0, 0))
    majority = task.classification.majority()
    assert 0.58 < majority < 0.63
    assert found["test/accuracy"] > majority + 0.1
    for split in ("train", "val"):
        labels = task.data.corpora[split].labels
        labels[:] = np.random.default_rng(0).permutation(labels)
    shuffled = task.classification.measure(Trial("scratch", 1.0, 0))
    assert abs(shuffled["test/accuracy"] - majority) < 0.05
