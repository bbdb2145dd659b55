"""task=yelp from labelled files to its results, on small files written here."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae import checkpoint, data, figures
from cvae.classification import Scaling, in_order, probe
from cvae.config import LabelledData, Shares
from cvae.data import files
from cvae.data.labels import held_out, stratified, without_words
from cvae.data.text import BOS, EOS, SPECIALS, Corpus, Splits
from cvae.figures import ORDER
from cvae.folder import Diverged, FolderError, RunFolder
from cvae.loop import Loop
from cvae.reading import UserError
from cvae.run import prepare, reopen, run
from cvae.runs import find_runs
from cvae.scores import accuracy_table
from cvae.tasks import reviews
from cvae.tasks.reviews import Cell

quick = settings(max_examples=50, deadline=None)
CPU = torch.device("cpu")
SUBJECTS = ["the food", "the service", "this place", "my waiter", "a room", "our table"]
WORDS = (["awful", "rude", "cold", "dirty"], ["great", "friendly", "warm", "clean"])
SMALL = (
    "task=yelp",
    "model.embed=6",
    "model.filters=4",
    "model.latent=3",
    "model.hidden=8",
    "train.epochs=2",
    "train.batch_size=8",
    "train.log_every=4",
    "train.save_every=5",
    "dataset.share={train:1.0,val:1.0,test:1.0}",
    "dataset.min_count=1",
    "task.mi_examples=10",
    "task.path_sentences=4",
    "task.iw_samples=2",
    "task.iw_sentences=4",
    "task.finetune.modes=[]",
    "task.finetune.shares=[0.1,0.5,1.0]",
    "task.finetune.seeds=2",
    "task.finetune.val_least=6",
    "task.finetune.penalties=[0.1,10.0]",
    "task.finetune.batch_size=8",
    "task.finetune.epochs=1",
    "task.finetune.least_updates=4",
    "task.finetune.checks=2",
    "task.finetune.map_sentences=12",
)


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


def described(folder: Path, least: int = 1, **shares: float) -> LabelledData:
    """The configuration that reads a folder."""
    share = Shares(**({"train": 1.0, "val": 1.0, "test": 1.0} | shares))
    return LabelledData(
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


def test_a_share_is_said_and_recorded(folder, tmp_path, monkeypatch, configured):
    assert data.build(described(folder), CPU).notes == ()
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])
    shares = ("dataset.share.train=0.5", "dataset.share.test=0.125")
    config = configured(*SMALL, *shares, f"dataset.path={folder}", "train.epochs=null", "train.steps=4")
    run(config, RunFolder(tmp_path))
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert notes == [
        "train: 40 sentences, the first 50 % of each class's file (dataset.share.train)",
        "test: 5 sentences, the first 12.5 % of each class's file (dataset.share.test)",
    ]
    assert all(note in (tmp_path / "train.log").read_text() for note in notes)


@pytest.mark.parametrize("name", ["sentiment.train.2", "sentiment.dev.neutral", "sentiment.test.02"])
def test_a_third_class_is_refused(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "reviews")
    for other in ("sentiment.train.0.gz", "sentiment.train.1~", "sentiment.all.2", name):
        (tmp_path / "reviews" / other).write_text("so so\n")
    with pytest.raises(UserError, match=rf"{name} is a class of its own: task=yelp tells two apart"):
        files.labelled(described(tmp_path / "reviews"))
    (tmp_path / "reviews" / name).unlink()
    files.labelled(described(tmp_path / "reviews"))


def test_a_share_of_nothing_is_refused_by_file_and_key(folder):
    with pytest.raises(
        UserError, match=r"sentiment\.dev\.0 has 10 sentences: dataset\.share\.val=0\.05 takes"
    ):
        files.labelled(described(folder, val=0.05))


def test_words_rarer_than_min_count_in_the_used_share_are_unknown(folder):
    words = data.build(described(folder, least=16), CPU).vocabulary.words
    sentences = files.labelled(described(folder))[0]["train"]
    flat = [word for row in sentences for word in row]
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


@pytest.mark.parametrize("more", [(), ("schedule=none",), ("model=sentence", "remedy=[word_dropout]")])
def test_pretraining_that_is_stopped_anywhere_is_that_which_was_not(
    more, folder, tmp_path, monkeypatch, configured
):
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])
    small = [key for key in SMALL if "model=sentence" not in more or "filters" not in key]
    config = configured(*small, *more, f"dataset.path={folder}")
    run(config, RunFolder(tmp_path / "whole"))
    train = dataclasses.replace(config.train, stop_after=7)
    run(dataclasses.replace(config, train=train), RunFolder(tmp_path / "parts"))
    advance = Loop._advance

    def crashing(self):
        advance(self)
        if self.step == 17:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", crashing)
        with pytest.raises(ZeroDivisionError):
            run(config, RunFolder(tmp_path / "parts"))
    run(config, RunFolder(tmp_path / "parts"))
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


# ---- the second stage ----

MODES = "task.finetune.modes=[probe,finetune,scratch]"
LEARNING = ("lr.value=0.01", "train.epochs=4")


def cells(path: Path) -> list[dict]:
    """The classifiers of a run, without what they took."""
    lines = (path / "classifier.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory, configured) -> Path:
    """A run of both stages."""
    path = tmp_path_factory.mktemp("fertig é ")
    run(configured(*SMALL, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(path))
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


def test_the_validation_set_grows_with_the_labels_between_its_bounds():
    labels = np.repeat([0, 1], [40, 60])
    assert [len(held_out(labels, count, 10, seed=0)) for count in (2, 30, 500)] == [10, 30, 100]
    assert labels[held_out(labels, 30, 10, seed=0)].mean() == pytest.approx(0.6)


def test_dropping_words_keeps_labels_order_and_at_least_one_word():
    rng = np.random.default_rng(1)
    sentences = [[BOS, *rng.integers(4, 99, n).tolist(), EOS] for n in [1] * 20 + [30] * 20]
    corpus = Corpus(sentences, 99, CPU, [0] * 20 + [1] * 20)
    less = without_words(corpus, 0.5, 99)
    assert less.labels.tolist() == corpus.labels.tolist()
    kept = [less.batch(np.array([n])).tokens[0].tolist() for n in range(40)]
    for before, after in zip(sentences, kept, strict=True):
        remaining = iter(before)
        assert all(word in remaining for word in after) and len(after) >= 3
    assert sum(map(len, kept[20:])) == pytest.approx(20 * 17, rel=0.1)
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
    for schedule in ("none", "monotonic"):
        config = configured(*SMALL, MODES, f"schedule={schedule}", f"dataset.path={folder}")
        task = prepare(config)
        assert list(task.cells()) == [(c["mode"], c["share"], c["seed"]) for c in found]
        rows = {cell: task.sets(cell) for cell in task.cells()}
        first = prepare(configured(*SMALL, MODES, f"dataset.path={folder}"))
        for cell in first.cells():
            for one, other in zip(rows[cell], first.sets(cell), strict=True):
                assert (one == other).all()


def test_a_probe_leaves_the_encoder_as_it_was_and_fine_tuning_leaves_the_pretrained_one(
    finished, folder, configured, monkeypatch
):
    task = reopen(configured(*SMALL, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(finished))
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    trained = []
    original = reviews.train

    def watching(classifier, *arguments):
        trained.append(
            (classifier.encoder, {k: v.clone() for k, v in classifier.encoder.state_dict().items()})
        )
        return original(classifier, *arguments)

    monkeypatch.setattr(reviews, "train", watching)
    for cell in task.cells():
        task.measure(cell)
        assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
        assert bool(trained) == (cell.mode != "probe")
    # a fine-tuned encoder starts as the pre-trained one and does not stay it, another starts anew
    moved = []
    for cell, (encoder, start) in zip((c for c in task.cells() if c.mode != "probe"), trained, strict=True):
        same = all(torch.equal(start[name], before[f"encoder.{name}"]) for name in start)
        assert same == (cell.mode == "finetune")
        moved.append(
            any(not torch.equal(tensor, start[name]) for name, tensor in encoder.state_dict().items())
        )
    assert any(moved)


def test_the_record_has_what_results_and_the_table_say(finished):
    results = json.loads((finished / "results.json").read_text())
    found = cells(finished)
    values = [c["test/accuracy"] for c in found if (c["mode"], c["share"]) == ("finetune", 0.1)]
    assert results["test/accuracy/finetune/0.1"] == pytest.approx(np.mean(values))
    assert results["test/accuracy_std/finetune/0.1"] == pytest.approx(np.std(values, ddof=1))
    assert results["labels/0.5"] == 40 and results["test/majority"] == 0.6
    assert {"test/accuracy_sample/probe/1", "test/accuracy_dropped/probe/1"} <= results.keys()
    table = accuracy_table(find_runs([finished]), ORDER)
    assert table.head == ["classifier", "schedule", "10 % (8)", "50 % (40)", "100 % (80)"]
    rows = {tuple(row[:2]): row[2:] for row in table.body}
    assert rows["finetune", "cyclical"][0].mean == pytest.approx(100 * np.mean(values))
    assert len(rows["probe on a sample of z", "cyclical"][0].values) == 2
    assert ("scratch", "–") in rows


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
    assert "projector_sentences.tsv" in (finished / "projector_config.pbtxt").read_text()


@pytest.mark.parametrize("killed", [0, 8, 12])
def test_the_second_stage_goes_on_after_any_classifier(
    killed, finished, folder, tmp_path, monkeypatch, configured
):
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])
    for path in finished.iterdir():
        if path.name not in ("classifier.jsonl", "results.json", ".lock", "map.jsonl"):
            shutil.copy(path, tmp_path / path.name)
    lines = (finished / "classifier.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "classifier.jsonl").write_bytes(b"".join(lines[:killed]) + lines[killed][:30])
    run(configured(*SMALL, MODES, *LEARNING, f"dataset.path={folder}"), RunFolder(tmp_path))
    assert cells(tmp_path) == cells(finished)
    assert outcome(tmp_path)["results"] == outcome(finished)["results"]
    for name in ("map.jsonl", "projector_means.tsv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_classifier_whose_loss_is_not_finite_stops_and_keeps_its_batch(folder, tmp_path, configured):
    own = ("task.finetune.modes=[scratch]", "task.finetune.lr=1e38", f"dataset.path={folder}")
    with pytest.raises(
        Diverged, match=r"^loss is (nan|inf) at update \d of the classifier scratch, share 0\.1, "
    ):
        run(configured(*SMALL, *own), RunFolder(tmp_path))
    kept = json.loads((tmp_path / "diverged.json").read_text())
    assert (kept["mode"], kept["seed"]) == ("scratch", 0) and len(kept["sentences"]) == 8
    assert not RunFolder(tmp_path).results["finished"]


def test_init_from_restores_exactly_and_gives_the_same_classifiers(
    finished, folder, tmp_path, monkeypatch, configured
):
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])
    own = ("task.finetune.modes=[probe]", f"init_from={finished}", f"dataset.path={folder}")
    task = prepare(configured(*SMALL, *own))
    best = checkpoint.load(finished / "checkpoint_best.pt")["model"]
    for name, tensor in task.model.encoder.state_dict().items():
        assert torch.equal(tensor, best[f"encoder.{name}"])
    run(configured(*SMALL, *own), RunFolder(tmp_path))
    assert cells(tmp_path) == [cell for cell in cells(finished) if cell["mode"] == "probe"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["finished"] and results["updates"] == 0
    assert not (tmp_path / "checkpoint_last.pt").exists()


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
    small = [key for key in SMALL if other != "model=sentence" or "filters" not in key]
    own = ("task.finetune.modes=[probe]", f"init_from={finished}", f"dataset.path={folder}")
    with pytest.raises(FolderError, match=re.escape(said)):
        run(configured(*small, *own, other), RunFolder(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_scratch_alone_needs_no_pretraining_and_is_the_same_for_every_schedule(
    finished, folder, tmp_path, monkeypatch, configured
):
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])
    own = ("task.finetune.modes=[scratch]", "schedule=none", f"dataset.path={folder}")
    run(configured(*SMALL, *own), RunFolder(tmp_path))
    assert cells(tmp_path) == [cell for cell in cells(finished) if cell["mode"] == "scratch"]
    assert json.loads((tmp_path / "results.json").read_text())["updates"] == 0


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
    # a class that is as good as told by the first feature is not told by shuffled labels
    shuffled = probe(features[:300], rng.permutation(labels[:300]), features[300:], labels[300:], [1.0])
    assert shuffled.score.accuracy < 0.7


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
    found = task.measure(Cell("scratch", 1.0, 0))
    majority = task.majority()
    assert 0.58 < majority < 0.63
    assert found["test/accuracy"] > majority + 0.1
    for split in ("train", "val"):
        labels = task.data.corpora[split].labels
        labels[:] = np.random.default_rng(0).permutation(labels)
    shuffled = task.measure(Cell("scratch", 1.0, 0))
    assert abs(shuffled["test/accuracy"] - majority) < 0.05
