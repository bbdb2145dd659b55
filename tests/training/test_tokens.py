"""Runs with characters and pieces: trained once, measured per word, ranked where nothing is unknown."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import datasets
import pytest

from cvae.data.vocabulary import Pieces
from cvae.errors import UserError
from cvae.report.tables import results_table
from cvae.runs.folder import RunFolder
from cvae.runs.reader import find_runs
from cvae.training.run import run

pytest.importorskip("tokenizers")
LINES = [
    f"{who} {adjective} {animal} saw it"
    for who in ("the", "a", "my", "no")
    for adjective in ("old", "red", "wild")
    for animal in ("cat", "dog", "fox", "hen")
]
SIZES = ("model.embed=4", "model.hidden=6", "model.latent=2", "task.iw_samples=3", "task.iw_sentences=5")
SIZES += (
    "train.batch_size=8",
    "train.epochs=null",
    "train.validate_every=4",
    "threads=1",
    "train.log_every=1",
)
PIECES = ("dataset.tokens=bpe", "dataset.vocabulary=270")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The overrides of a run on a small corpus whose three splits have the same words."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    corpus = tmp_path_factory.mktemp("corpus")
    for name, lines in (("train", LINES), ("valid", LINES[::5]), ("test", LINES[::7])):
        (corpus / f"{name}.txt").write_text("\n".join(lines))
    return "task=ptb", "dataset=text", f"dataset.path={corpus}", *SIZES


@pytest.fixture(scope="module")
def runs(tmp_path_factory, command, configured):
    """The folder of a run with each kind of tokens."""
    folder = tmp_path_factory.mktemp("runs")
    for name, extra in (("words", ()), ("chars", ("dataset.tokens=chars",)), ("bpe", PIECES)):
        run(configured(*command, *extra, "train.steps=4"), RunFolder(folder / name))
    return folder


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_tokenizer_is_trained_once_and_the_run_goes_on_bit_for_bit(
    tmp_path, command, configured, monkeypatch
):
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    run(configured(*command, *PIECES, "train.steps=8"), whole)
    run(configured(*command, *PIECES, "train.steps=8", "train.stop_after=4"), cut)

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Pieces, "trained", refuse)
    run(configured(*command, *PIECES, "train.steps=8"), cut)
    for name in ("tokenizer.json", "vocabulary.txt"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    first, second = ({k: v for k, v in results(f).items() if "time/" not in k} for f in (whole, cut))
    assert first == second
    (cut / "tokenizer.json").unlink()
    (cut / "results.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read: No such file"):
        run(configured(*command, *PIECES, "train.steps=8"), cut)


def test_nothing_of_the_old_run_stays_where_another_overwrites_it(runs, tmp_path, command, configured):
    folder = RunFolder(shutil.copytree(runs / "bpe", tmp_path / "run"))
    run(configured(*command, "train.steps=4", "overwrite=true"), folder)
    names = [
        {path.name.partition(".out.")[0] for path in at.iterdir()} for at in (folder.path, runs / "words")
    ]
    assert names[0] == names[1]
    assert (folder / "vocabulary.txt").read_bytes() == (runs / "words" / "vocabulary.txt").read_bytes()


@pytest.mark.parametrize("tokens", ["words", "chars", "bpe"])
def test_perplexity_per_word_counts_the_words_of_the_text(runs, tokens):
    found = results(runs / tokens)
    for name, nats in (("word_ppl", "elbo"), ("iw_word_ppl", "iw_nll")):
        # five words and the end in every sentence
        assert found[f"test/{name}"] == pytest.approx(math.exp(abs(found[f"test/{nats}"]) / 6), rel=1e-6)
    assert (found["test/ppl"] == pytest.approx(found["test/word_ppl"])) == (tokens == "words")
    assert found["data/test/unknown_share"] == 0


def test_runs_with_other_tokens_rank_by_word_unless_a_token_is_unknown(runs, command, configured):
    columns = ["test/ppl", "test/word_ppl", "test/elbo"]
    table = results_table(find_runs([runs]), (), columns)
    for name in ("ppl", "iw_ppl"):  # of refined posteriors, as remedy=[semi_amortized] measures them
        refined = [
            dataclasses.replace(
                run, results=run.results | {f"test/refined_{name}": run.results[f"test/{name}"]}
            )
            for run in find_runs([runs])
        ]
        assert not any(row[-1].best for row in results_table(refined, (), [f"test/refined_{name}"]).body)
    best = [[cell.best for cell in row[-3:]] for row in table.body]
    assert [sum(marks) for marks in zip(*best, strict=True)] == [0, 1, 1]
    assert table.notes[-1].startswith(
        "ppl and iw_ppl are of tokens and not in bold: the runs differ in dataset."
    )
    assert {"test/word_ppl", "test/iw_word_ppl"} <= set(results_table(find_runs([runs]), ()).head)
    run(configured(*command, "dataset.vocabulary=4", "train.steps=4"), RunFolder(runs / "few"))
    table = results_table(find_runs([runs]), (), columns)
    assert table.head[-1] == "data/test/unknown_share"
    assert not any(getattr(cell, "best", False) for row in table.body for cell in row)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("dataset.tokens=bpe",), "needs dataset.vocabulary, how many pieces, or a dataset.tokenizer"),
        (
            ("dataset.tokens=bpe", "dataset.vocabulary=255"),
            "bpe begins with 256 bytes: dataset",
        ),
        (("dataset.tokenizer=a.json",), "dataset.tokenizer is for dataset.tokens=bpe, found words"),
        ((*PIECES, "dataset.tokenizer=a.json"), "has its pieces: leave out dataset.vocabulary"),
        (("dataset.tokens=letters",), "dataset.tokens must be"),
    ],
)
def test_tokens_that_contradict_each_other_are_refused(command, configured, values, sentence):
    with pytest.raises(UserError, match=sentence):
        configured(*command, *values, "train.steps=4")


def test_a_piece_for_each_byte_is_enough(command, configured):
    configured(*command, "dataset.tokens=bpe", "dataset.vocabulary=256", "train.steps=4")
