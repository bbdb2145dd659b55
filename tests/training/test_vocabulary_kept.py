"""init_from on another corpus: the old vocabulary stays, and what it does not know is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch

from cvae.cli import precheck
from cvae.errors import FolderError, UserError
from cvae.runs.folder import RunFolder
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint
from cvae.training.run import prepare, reopen, run
from cvae.training.transfer import load_weights, stored_vocabulary, vocabulary_of

OLD = [f"{who} {what} saw it" for who in ("the", "a", "my", "no") for what in ("cat", "dog", "fox", "hen")]
NEW = [f"{who} {what} saw it" for who in ("the", "a", "some") for what in ("cat", "gnu", "<unk>", "gnu gnu")]
SIZES = ("model.embed=4", "model.hidden=6", "model.latent=2", "task.iw_samples=0", "train.batch_size=4")
SIZES += ("train.steps=4", "train.epochs=null", "train.validate_every=2", "threads=1")


@pytest.fixture(scope="module", autouse=True)
def nothing_to_look_at(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        for method in ("page", "preview"):
            patch.setattr(LanguageTask, method, lambda self: "")
        yield


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Two folders of splits."""
    path = tmp_path_factory.mktemp("corpora")
    for name, lines in (("old", OLD), ("new", NEW)):
        (path / name).mkdir()
        for split, own in (("train", lines), ("valid", lines[:4]), ("test", lines[4:8])):
            (path / name / f"{split}.txt").write_text("\n".join(own) + "\n")
    return path


@pytest.fixture(scope="module")
def on(corpora, configured):
    """`on("new", ...)` is the configuration of a run on that corpus."""
    return lambda name, *own: configured(
        "task=ptb", "dataset=text", f"dataset.path={corpora / name}", "dataset.min_count=1", *SIZES, *own
    )


@pytest.fixture(scope="module")
def source(on, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source")
    run(on("old"), RunFolder(path))
    return path


def notes(folder: Path) -> list[str]:
    return json.loads((folder / "results.json").read_text())["notes"]


def test_the_vocabulary_stays_and_what_is_unknown_is_said(on, source, tmp_path):
    run(on("new", f"init_from={source}", "lr.value=1e-9", "train.stop_after=1"), RunFolder(tmp_path))
    assert (tmp_path / "vocabulary.txt").read_bytes() == (source / "vocabulary.txt").read_bytes()
    before, after = (checkpoint.load(f / "checkpoint_last.pt")["model"] for f in (source, tmp_path))
    theirs = checkpoint.load(source / "checkpoint_best.pt")["model"]
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[name], theirs[name], atol=1e-6) for name in theirs)
    # 4 of the 12 sentences begin with "some"; each animal but cat is unknown, and one of them is two words
    start, _, unknown = notes(tmp_path)[-1].partition(": unknown to it are ")
    assert start == f"the vocabulary of {source} is kept, 14 tokens"
    assert unknown.startswith("31.37% of train, 23.53% of val, 23.53% of test; most often ")
    assert unknown.endswith("'gnu' (15), 'some' (4)")
    results = RunFolder(tmp_path).results
    assert results["data/train/unknown_share"] == pytest.approx(16 / 51)


def test_it_resumes_and_is_opened_when_the_source_is_gone(on, source, tmp_path):
    gone = shutil.copytree(source, tmp_path / "source")
    command = (f"init_from={gone}",)
    run(on("new", *command), RunFolder(tmp_path / "whole"))
    run(on("new", *command, "train.stop_after=2"), RunFolder(tmp_path / "stopped"))
    config = on("new", *command)
    (gone / "checkpoint_best.pt").write_bytes(b"another run, later")
    reopen(config, RunFolder(tmp_path / "whole"))
    shutil.rmtree(gone)
    precheck.check_surroundings(config, str(tmp_path / "stopped"))
    run(config, RunFolder(tmp_path / "stopped"))
    folders = (tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = (checkpoint.load(folder / "checkpoint_last.pt") for folder in folders)
    assert all(torch.equal(whole["model"][name], stopped["model"][name]) for name in whole["model"])
    assert notes(tmp_path / "stopped") == notes(tmp_path / "whole")
    task = reopen(config, RunFolder(tmp_path / "stopped"))
    assert task.data.vocabulary.text == (source / "vocabulary.txt").read_text()
    with pytest.raises(FolderError, match="is not the folder of a finished run"):
        precheck.check_surroundings(config, str(tmp_path / "new"))


def test_bounds_of_the_vocabulary_do_not_replace_it(on, source, tmp_path):
    run(on("new", f"init_from={source}", "dataset.vocabulary=3", "train.stop_after=1"), RunFolder(tmp_path))
    assert (tmp_path / "vocabulary.txt").read_bytes() == (source / "vocabulary.txt").read_bytes()


def test_a_text_that_is_known_whole(on, source, tmp_path):
    run(on("old", f"init_from={source}", "seed=2", "train.stop_after=1"), RunFolder(tmp_path))
    assert notes(tmp_path)[-1].endswith("unknown to it are 0.00% of train, 0.00% of val, 0.00% of test")


def test_a_tokenizer_stays_too(on, tmp_path):
    pytest.importorskip("tokenizers")
    pieces = ("dataset.tokens=bpe", "dataset.vocabulary=270")
    run(on("old", *pieces), RunFolder(tmp_path / "old"))
    start = on("new", "dataset.tokens=bpe", "dataset.vocabulary=300", f"init_from={tmp_path / 'old'}")
    run(start, RunFolder(tmp_path / "new"))
    old, new = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("old", "new"))
    assert old == new
    assert "unknown to it are 0.00% of train" in notes(tmp_path / "new")[-1]
    longer = (*pieces, "train.steps=6", f"continue_from={tmp_path / 'old'}", "continue_beta=hold")
    run(on("old", *longer), RunFolder(tmp_path / "longer"))
    assert (tmp_path / "longer" / "tokenizer.json").read_bytes() == old
    assert not any("is kept" in note for note in notes(tmp_path / "longer"))  # its corpus is the same


@pytest.mark.parametrize(
    ("own", "change", "sentence"),
    [
        (("dataset.tokens=chars",), None, "has dataset.tokens=words, and this run has chars"),
        ((), lambda folder: (folder / "vocabulary.txt").unlink(), "has no vocabulary to keep: No such file"),
        (
            (),
            lambda at: (at / "vocabulary.txt").rename(at / "words") and (at / "vocabulary.txt").mkdir(),
            "has no vocabulary to keep: Is a directory",
        ),
        ((), lambda at: (at / "checkpoint_best.pt").unlink(), "was not trained: it has no checkpoint_best"),
        (("model.hidden=7",), None, "is a model of another shape: "),
    ],
)
def test_what_does_not_fit_is_a_sentence(own, change, sentence, on, source, tmp_path):
    other = shutil.copytree(source, tmp_path / "source")
    if change is not None:
        change(other)
    with pytest.raises(UserError, match=f"^init_from={re.escape(str(other))} {sentence}"):
        run(on("new", f"init_from={other}", *own), RunFolder(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_continued_needs_its_vocabulary_too(on, source, tmp_path):
    other = shutil.copytree(source, tmp_path / "source")
    (other / "vocabulary.txt").unlink()
    config = on("old", f"continue_from={other}", "continue_beta=hold", "train.steps=6")
    with pytest.raises(
        FolderError, match=f"^continue_from={re.escape(str(other))} has no vocabulary to keep"
    ):
        run(config, RunFolder(tmp_path / "new"))


def test_the_tokens_of_a_run_from_before_there_was_a_choice_are_words(on, source, tmp_path):
    folder = RunFolder(shutil.copytree(source, tmp_path / "source"))
    record = folder.record
    del record["config"]["dataset"]["tokens"]
    (folder / "run.json").write_text(json.dumps(record))
    words = vocabulary_of(folder, on("new", f"init_from={folder}"))
    assert words.text == (source / "vocabulary.txt").read_text()


def test_a_folder_whose_vocabulary_is_gone_has_none_to_go_on_with(on, source, tmp_path):
    folder = RunFolder(shutil.copytree(source, tmp_path / "run"))
    assert stored_vocabulary(folder, on("old")).text == (source / "vocabulary.txt").read_text()
    (folder / "vocabulary.txt").unlink()
    assert stored_vocabulary(folder, on("old")) is None


def test_without_a_known_vocabulary_the_words_are_others(on, source):
    """As of a library call that hands none over."""
    task = prepare(on("new", f"init_from={source}"))
    said = f"^init_from={source} has another vocabulary.txt: its weights are about other words$"
    with pytest.raises(FolderError, match=said):
        load_weights(RunFolder(source), task, False)
