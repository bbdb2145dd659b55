"""task=yelp from labelled files to its results, on small files written here."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cvae import checkpoint, data, figures
from cvae.config import LabelledData, Shares
from cvae.data import files
from cvae.data.text import SPECIALS, Splits
from cvae.folder import RunFolder
from cvae.loop import Loop
from cvae.reading import UserError
from cvae.run import run

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
    path = tmp_path_factory.mktemp("yelp")
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
    for stop in (3, 12):
        train = dataclasses.replace(config.train, stop_after=stop)
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
