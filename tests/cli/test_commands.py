"""evaluate, table, status and publish on run folders."""

from __future__ import annotations

import argparse
import json
import math
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

from cvae.cli import arguments, status
from cvae.cli import figures as figures_command
from cvae.errors import RunsError, UserError
from cvae.evaluation import chat, projector, samples
from cvae.io import read_json
from cvae.report import figures
from cvae.report.formats import Cell, Table
from cvae.report.page import along_training, sentences_html, shared_settings
from cvae.report.tables import default_columns, direction, naming, results_table, rows, scalar_cell
from cvae.runs.folder import RunFolder
from cvae.runs.provenance import describe
from cvae.runs.reader import Run, differing_keys, find_runs
from cvae.runs.sweeps import find_jobs, plan, seconds_left
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint
from cvae.training.run import reopen, run
from tests.helpers import ROOT, script

TRAIN = ROOT / "train.py"
SIZES = (
    "train.steps=20",
    "train.log_every=5",
    "train.validate_every=10",
    "dataset.draws=2",
    "task.samples=10",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, configured) -> Path:
    """Two schedules, two seeds, and a third schedule that is not finished."""
    folder = tmp_path_factory.mktemp("outputs") / "toy"
    for schedule, seed in (("constant", 0), ("constant", 1), ("cyclical", 0), ("cyclical", 1)):
        config = configured(f"schedule={schedule}", f"seed={seed}", *SIZES)
        run(config, RunFolder(folder / f"{schedule}-{seed}"))
    config = configured("schedule=monotonic", "train.stop_after=12", *SIZES)
    run(config, RunFolder(folder / "monotonic-0"))
    return folder


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluate_prints_what_training_recorded(split, runs, capsys):
    folder = runs / "cyclical-1"
    assert script("evaluate").main([str(folder), split]) == 0
    results = json.loads((folder / "results.json").read_text())
    recorded = {key: value for key, value in results.items() if key.startswith(f"{split}/")}
    assert json.loads(capsys.readouterr().out) == recorded


def test_the_results_of_an_older_toy_are_of_its_best_checkpoint(runs, tmp_path, capsys):
    folder = Path(shutil.copytree(runs / "constant-0", tmp_path / "old"))
    results = json.loads((folder / "results.json").read_text())
    assert results.pop("checkpoint") == "last"  # which older ones do not say
    (folder / "results.json").write_text(json.dumps(results))
    assert script("evaluate").main([str(folder), "val"]) == 0
    said = "of checkpoint_last.pt; results.json is of checkpoint_best.pt\n"
    assert capsys.readouterr().err == said


def test_evaluate_weighs_as_many_samples_and_sentences_as_asked(runs, capsys):
    evaluate, folder = script("evaluate").main, str(runs / "cyclical-1")
    found = []
    for flags in (["--iw-samples", "7", "--iw-sentences", "all"], ["--chunk", "3", "--iw-sentences", "6"]):
        assert evaluate([folder, *flags]) == 0
        values = json.loads(capsys.readouterr().out)
        found.append(tuple(values[f"test/iw_{name}"] for name in ("samples", "sentences", "chunk")))
    assert found == [(7, 20, 1000), (50, 6, 3)]
    for flags in (["--iw-samples", "0"], ["--iw-sentences", "many"], ["--chunk", "-1"]):
        with pytest.raises(SystemExit):
            evaluate([folder, *flags])
        assert f"argument {flags[0]}: invalid" in capsys.readouterr().err


def test_paths_are_tracked_and_kl_by_dimension_is_a_result_only(runs):
    for run_folder in (runs / "constant-0", runs / "cyclical-1"):
        (found,) = find_runs([run_folder])
        for name in ("mi", "au", "path_a", "path_a_prior", "path_b"):
            assert list(found.series(f"val/{name}")[0]) == [10, 20]
        assert found.at("test/iw_nll", 20) == found.results["test/iw_nll"]
        assert not [key for record in found.metrics for key in record if "kl_dim" in key]
        dimensions = [found.results[f"test/kl_dim/0{place}"] for place in range(2)]
        assert sum(dimensions) == pytest.approx(found.results["test/kl"])
        assert found.results["test/mi_examples"] == 10


def test_evaluate_refuses_in_a_sentence(runs, tmp_path, capsys):
    evaluate = script("evaluate").main
    assert evaluate([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert evaluate([str(runs / "constant-0"), "--data", "elsewhere"]) == 1
    assert capsys.readouterr().err == "--data: the dataset toy of this run is generated\n"


def test_evaluate_refuses_a_corpus_that_has_changed(tmp_path, configured, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("train", "valid", "test"):
        (corpus / f"{name}.txt").write_text("the cat sat\na dog ran off\n" * 4)
    sizes = ("model.embed=4", "model.hidden=4", "model.latent=2", "train.epochs=1")
    folder = tmp_path / "run"
    run(configured("task=ptb", f"dataset.path={corpus}", *sizes), RunFolder(folder))
    evaluate = script("evaluate").main
    assert evaluate([str(folder)]) == 0
    moved = corpus.rename(tmp_path / "moved")
    assert evaluate([str(folder), "test", "--data", str(moved)]) == 0
    assert script("sample").main([str(folder), "neighbours", "the cat sat", "--data", str(moved)]) == 0
    assert evaluate([str(folder)]) == 1
    assert f"no data at {corpus}" in capsys.readouterr().err
    for command in ("evaluate", "sample"):
        assert script(command).main([str(folder), "--data", str(corpus)]) == 1
        assert capsys.readouterr().err == f"--data: there is no file or folder {corpus}\n"
    (moved / "test.txt").write_text("the cat sat\n")
    assert evaluate([str(folder), "test", "--data", str(moved)]) == 1
    assert "other data: test changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "allowed", "refused", "name", "limits"),
    [
        (arguments.share, ("1e-9", "1"), ("0", "1.0001", "nan"), "share", "above 0 and at most 1"),
        (arguments.temperature, ("0", "1e9"), ("-0.1", "inf", "nan"), "temperature", "0 or above"),
        (arguments.seed, ("0", str(2**63 - 1)), ("-1", str(2**63), "1.0"), "seed", "from 0 to 2^63 - 1"),
        (arguments.count, ("1", "1000000"), ("0", "1000001", "1.0"), "count", "from 1 to 1,000,000"),
        (figures_command.dpi, ("10", "1200"), ("9", "1201", "10.5"), "dpi", "from 10 to 1200"),
    ],
)
def test_numbers_of_the_command_line_have_the_limits_that_their_sentence_says(
    kind, allowed, refused, name, limits
):
    limits = f"a whole number {limits}" if limits.startswith("from") else limits
    for text in allowed:
        assert kind(text) == type(kind(text))(text)
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError) as refusal:
            kind(text)
        assert str(refusal.value) == f"invalid {name} value: '{text}', must be {limits}"


def test_a_checkpoint_is_the_best_the_last_or_one_of_a_step():
    for text in ("best", "last", "0", "9" * 18):
        assert arguments.which(text) == text
    for text in ("previous", "", "-1", "1.0", "9" * 19):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^invalid checkpoint: '{text}', must be best"):
            arguments.which(text)


def test_a_row_is_what_differs_and_seeds_are_folded(runs, capsys):
    found = find_runs([runs])
    assert differing_keys(found) == ["schedule.name"]
    assert script("table").main([str(runs)]) == 0
    head, _, *body, between, note = capsys.readouterr().out.splitlines()
    assert head.startswith("| schedule.name | n | test/elbo | test/rec | test/kl |")
    assert (between, note) == ("", f"- stopped {runs / 'monotonic-0'}: 12 of 20 updates")
    names, counts = zip(*(line.split(" | ")[:2] for line in body), strict=True)
    assert names == ("| constant", "| monotonic", "| cyclical")
    assert counts == ("2", "0 of 1", "2")
    elbos = [run.results["test/elbo"] for run in found if run.group[0] == "constant"]
    mean = sum(elbos) / 2
    std = math.sqrt(sum((elbo - mean) ** 2 for elbo in elbos))
    assert f"{mean:.2f} ± {std:.2f}" in body[0]
    assert "| – |" in body[1]


def faked(folder: Path, place: str, seed: int, **schedule) -> None:
    """A run folder with nothing but a configuration in it."""
    config = {"seed": seed, "task": {"name": "toy"}, "schedule": {"name": "cyclical"} | schedule}
    (folder / place).mkdir(parents=True)
    (folder / place / "run.json").write_text(json.dumps({"config": config}))


def reported(folder: Path, place: str, seed: int, results: dict[str, float], **schedule) -> None:
    """A finished run with these results."""
    faked(folder, place, seed, **schedule)
    (folder / place / "results.json").write_text(json.dumps({"finished": True} | results))


def test_the_best_is_bold_where_better_is_defined_and_formats_agree(tmp_path, capsys):
    for seed, ppl in ((0, 99.0), (1, 101.0)):
        results = {"test/ppl": ppl, "test/elbo": -4.0, "test/kl": 1.0}
        reported(tmp_path, f"a{seed}", seed, results, name="constant")
    reported(tmp_path, "b", 0, {"test/ppl": 102.0, "test/elbo": -3.0, "test/kl": 2.0})
    table, columns = script("table").main, ["--columns", "test/ppl", "test/elbo", "test/kl"]
    said = {}
    for kind in ("markdown", "csv", "latex"):
        assert table([str(tmp_path), *columns, "--format", kind]) == 0
        out, err = capsys.readouterr()
        said[kind] = out.splitlines()
        assert err == ""  # there is nothing to say of the runs
    assert said["markdown"][2:] == [
        "| constant | 2 | **100.0 ± 1.4** | -4.00 ± 0.00 | 1.00 ± 0.00 |",
        "| cyclical | 1 | 102.0 | **-3.00** | 2.00 |",
    ]
    assert said["csv"] == [
        "schedule.name,n,test/ppl,test/ppl std,test/elbo,test/elbo std,test/kl,test/kl std",
        "constant,2,100.0,1.4142135623730951,-4.0,0.0,1.0,0.0",
        "cyclical,1,102.0,,-3.0,,2.0,",
    ]
    assert r"constant & 2 & \textbf{100.0 $\pm$ 1.4} & -4.00 $\pm$ 0.00 & 1.00 $\pm$ 0.00 \\" in said["latex"]


def test_what_is_said_of_the_runs_is_beside_a_csv_and_below_the_other_tables(tmp_path, capsys):
    reported(tmp_path, "a", 0, {"test/ppl": 99.0}, name="constant")
    reported(tmp_path, "b", 1, {"finished": False, "step": 3, "updates": 9})
    said = {}
    for kind in ("markdown", "csv"):
        assert script("table").main([str(tmp_path), "--columns", "test/ppl", "--format", kind]) == 0
        said[kind] = capsys.readouterr()
    (note,) = said["csv"].err.splitlines()
    assert str(tmp_path / "b") in note and note not in said["csv"].out
    assert said["markdown"].out.endswith(f"- {note}\n") and said["markdown"].err == ""


@pytest.mark.parametrize(
    ("dataset", "prints", "why"),
    [
        ({"sampler": "bucketed"}, {"init_from": "c", "continue_from": "d"}, ""),
        ({"consecutive": True, "max_words": 9}, {}, ""),
        ({"vocabulary": 3}, {}, "dataset.vocabulary"),
        ({"min_count": 2, "longest": 20}, {}, "dataset.longest, dataset.min_count"),
        ({}, {"test": "b"}, "the file of test"),
        ({}, {"references": "b"}, "the file of references"),
        ({}, {"train/0": "b", "val": "b"}, "the file of train/0, the file of val"),
    ],
)
def test_nothing_is_bold_across_vocabularies_or_corpora(dataset, prints, why, tmp_path, capsys):
    columns = ["--columns", "test/ppl", "test/elbo"]
    for seed, (ppl, part, data) in enumerate(((9.0, {}, {}), (8.0, dataset, prints))):
        reported(
            tmp_path,
            str(seed),
            seed,
            {"test/ppl": ppl, "test/elbo": -1.0, "test/kl": 1.0},
            name=("constant", "cyclical")[seed],
        )
        path = tmp_path / str(seed) / "run.json"
        content = json.loads(path.read_text())
        content["config"]["dataset"] = {"name": "text", "path": str(seed), "sampler": "equal_length"} | part
        path.write_text(json.dumps(content | {"data": {"train": "a", "val": "a", "test": "a"} | data}))
    assert script("table").main([str(tmp_path), "--columns", "test/kl"]) == 0
    assert "in bold" not in capsys.readouterr().out  # of no KL is said that it is the best
    assert script("table").main([str(tmp_path), *columns]) == 0
    said = capsys.readouterr().out
    assert ("**8.00**" in said) == (not why)
    if why:
        assert said.splitlines()[-1] == f"- nothing is in bold: the runs differ in {why}"
    # a run without these measures, and one that is not finished, take part in no comparison
    for seed, results in ((2, {}), (3, {"finished": False, "test/ppl": 1.0})):
        reported(tmp_path, f"{seed}", seed, results, name="monotonic")
    script("table").main([str(tmp_path), *columns])
    said = capsys.readouterr().out
    assert ("**8.00**" in said) == (not why) and "| 1 of 2 |" in said


def told(tokens: str, task: str = "ptb", **results: float | None) -> Run:
    """A finished run whose sentences are cut into such tokens, with results of test."""
    config = {"schedule": {"name": "none"}, "task": {"name": task}, "dataset": {"tokens": tokens}}
    found = {f"test/{name}": value for name, value in results.items() if name != "unknown"}
    found |= {"data/test/unknown_share": results["unknown"]} if "unknown" in results else {}
    return Run(Path(tokens), config, [], {}, {"finished": True, "time/training_seconds": 9.0} | found)


SHARE = "data/test/unknown_share"


@pytest.mark.parametrize(
    ("unknown", "more", "shown"),
    [
        ({"unknown": 0.0}, [], []),
        ({"unknown": 0.0}, [SHARE], [SHARE]),
        ({"unknown": 0.1}, [], [SHARE]),
        ({"unknown": 0.1}, [SHARE], [SHARE]),
        ({}, [], [SHARE]),  # an older run, which may have unknown tokens
    ],
)
def test_runs_with_other_tokens_rank_by_word_where_their_shares_say_so(unknown, more, shown):
    columns = ["test/word_ppl", "time/training_seconds", *more]  # time has no share, and needs none
    runs = [told("chars", word_ppl=9.0, unknown=0.0), told("words", word_ppl=8.0, **unknown)]
    table = results_table(runs, (), columns)
    assert table.head == ["dataset.tokens", "n", *columns[:2], *shown]
    assert [row[2].best for row in table.body] == [False, unknown == {"unknown": 0.0}]


@pytest.mark.parametrize(
    ("task", "names", "other"),
    [
        (
            "switchboard",
            ("elbo", "rec_ppl", "act_hit_minus_permuted"),
            ("elbo", "rec_ppl", "act_hit_minus_permuted"),
        ),
        ("ptb", ("ppl", "iw_ppl", "elbo"), ("word_ppl", "iw_word_ppl", "elbo")),
    ],
)
def test_across_tokens_the_columns_of_a_task_are_of_words(task, names, other):
    results = dict.fromkeys((*names, *other, "word_ppl", "refined_kl"), 3.0)
    one, two = told("words", task, **results), told("chars", task, **results)
    for runs, found in (([one], names), ([one, two], other)):
        assert default_columns(runs, every=False) == [f"test/{name}" for name in found]
        dialogs = {"rec_ppl", "act_hit_minus_permuted"}
        assert set(default_columns(runs, every=True)) == {f"test/{name}" for name in results.keys() - dialogs}


BOUND = ["elbo", "rec", "kl", "ppl", "word_ppl", "iw_nll", "iw_ppl", "iw_word_ppl"]
EVERY = [
    *BOUND,
    *["mi", "au", "accuracy", "prior_gap", "path_a", "path_a_prior", "path_b"],
    *(f"refined_{n}" for n in BOUND),
]
JUDGED = [
    f"{n}_minus_permuted"
    for n in ["act_hit", "bleu4_f1", "sacrebleu_f1", "a_bow_f1", "e_bow_f1", "greedy_f1"]
]
DIVERSITY = ["act_hit", "acts", "distinct2", "distinct2_context"]


@pytest.mark.parametrize(
    ("task", "own"),
    [
        ("toy", ["elbo", "rec", "kl", "mi", "accuracy", "prior_gap", "path_a"]),
        ("ptb", ["ppl", "iw_ppl", "elbo", "rec", "kl", "mi", "au", "path_a"]),
        ("switchboard", ["elbo", "rec", "kl", "rec_ppl", "path_a", *JUDGED, *DIVERSITY]),
    ],
)
def test_a_table_has_the_measures_of_the_task_or_all_of_val_and_test(task, own):
    run = told("words", task, **dict.fromkeys([*EVERY, "rec_ppl", *JUDGED, *DIVERSITY], 1.0))
    run = replace(run, results=run.results | {f"val/{name}": 1.0 for name in EVERY})
    assert default_columns([run], every=False) == [f"test/{name}" for name in own]
    every = [f"{split}/{name}" for split in ("val", "test") for name in EVERY]
    assert default_columns([run], every=True) == every


@pytest.mark.parametrize("key", ["tokens", "tokenizer", "vocabulary", "min_count", None])
def test_across_vocabularies_sentences_and_words_rank_and_tokens_do_not(key):
    names = ["elbo", "ppl", "iw_ppl", "refined_ppl", "refined_iw_ppl", "word_ppl", "iw_word_ppl"]
    runs = []
    for number, schedule in enumerate(("constant", "cyclical")):
        run = told("words", unknown=0.0, **dict.fromkeys(names, 9.0 - number))
        dataset = run.config["dataset"] | ({key: str(number)} if key else {})
        config = run.config | {"schedule": {"name": schedule}, "dataset": dataset}
        data = {} if key else {"dataset.tokenizer": str(number)}  # of one name and other content
        runs.append(replace(run, config=config, data=data))
    table = results_table(runs, (), [f"test/{name}" for name in names])
    cells = zip(*(row[-len(names) :] for row in table.body), strict=True)
    ranked = [name for name, column in zip(names, cells, strict=True) if any(cell.best for cell in column)]
    assert ranked == ["elbo", "word_ppl", "iw_word_ppl"]


def test_other_units_and_answerers_have_rows_of_their_own(tmp_path, capsys):
    for schedule, rec in (("constant", 5.0), ("cyclical", 4.0)):
        for seed in (0, 1):
            results = {"test/rec": rec, "test/authors/rec": rec + 0.5 + seed, "test/random/acts": 3.0 + seed}
            reported(tmp_path, f"{schedule}{seed}", seed, results | {"test/acts": rec}, name=schedule)
    table = script("table").main
    assert table([str(tmp_path), "--columns", "test/rec", "test/acts"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| schedule.name | of | n | test/rec | test/acts |",
        "| --- | --- | --- | --- | --- |",
        "| constant | model | 2 | 5.00 ± 0.00 | 5.00 ± 0.00 |",
        "| cyclical | model | 2 | **4.00 ± 0.00** | 4.00 ± 0.00 |",
        "| – | random | 2 | – | 3.50 ± 0.71 |",
        "| constant | authors' unit | 2 | 6.00 ± 0.71 | – |",
        "| cyclical | authors' unit | 2 | **5.00 ± 0.71** | – |",
    ]
    assert table([str(tmp_path), "--columns", "test/rec", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[::4] == [
        "schedule.name,of,n,test/rec,test/rec std",
        "cyclical,authors' unit,2,5.0,0.7071067811865476",
    ]
    assert table([str(tmp_path / "constant0"), "--columns", "test/acts"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["| model | 1 | 5.00 |", "| random | 1 | 3.00 |"]


def test_a_failing_run_leaves_its_error_until_a_good_start(tmp_path, configured, monkeypatch, capsys):
    folder, config = RunFolder(tmp_path / "run"), configured(*SIZES, "train.stop_after=5")
    with monkeypatch.context() as patch:
        patch.setattr("cvae.training.loop.Loop.run", lambda loop, recorder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config, folder)
    assert folder.state == "failed"
    assert folder.error.splitlines()[0] == "ZeroDivisionError: division by zero"
    assert "Traceback" in (folder / "error.txt").read_text()
    assert "division by zero" in (folder / "train.log").read_text()
    assert script("table").main([str(tmp_path), "--at", "1"]) == 0
    assert f"- failed {folder}: ZeroDivisionError: division by zero" in capsys.readouterr().out
    run(config, folder)
    assert (folder.state, folder.error) == ("stopped", "")
    with folder.held():
        assert folder.state == "running"
        folder.fail(UserError("no data"))  # of another start in the same folder
        assert (folder.state, folder.error) == ("running", "no data\n")
    assert folder.state == "failed"


def test_an_error_is_kept_where_there_is_no_folder_yet(tmp_path):
    folder = RunFolder(tmp_path / "not" / "yet")
    folder.fail(UserError("no data"))
    assert folder.error == "no data\n"
    log = (folder / "train.log").read_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d no data\n", log)
    RunFolder(tmp_path).fail(OSError())  # which says nothing
    assert RunFolder(tmp_path).error == "OSError\n"


def test_an_error_is_kept_where_the_folder_of_the_start_before_was_deleted(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        pass
    shutil.rmtree(folder.path)
    folder.fail(UserError("no data"))
    assert folder.error == "no data\n"


def test_status_counts_runs_and_says_when_they_end(tmp_path, capsys, monkeypatch):
    noon = SimpleNamespace(now=lambda: datetime(2026, 3, 1, 12))  # a Sunday
    monkeypatch.setattr(status, "datetime", noon)
    plan({str(tmp_path / name): [f"a={name}"] for name in "abcde"})
    reported(tmp_path, "a", 0, {"updates": 100, "step": 100, "time/training_seconds": 3600.0})
    reported(tmp_path, "b", 0, {"updates": 140, "step": 0, "finished": False})
    timed = [{"step": 20, "time/seconds": 20 * 99.0}, {"step": 40, "time/seconds": 40 * 72.0}, {"step": 50}]
    (tmp_path / "b" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in timed))
    reported(tmp_path, "c", 0, {"updates": 120, "step": 0, "finished": False})
    (tmp_path / "c" / "metrics.jsonl").write_text('{"step": 0, "time/seconds": 9.0}\n')
    RunFolder(tmp_path / "d").fail(UserError("no such file"))
    with RunFolder(tmp_path / "b").held():
        # b: 90 updates of 72 s; c and e: 120 each, of e the mean of the others', of (36 + 72) / 2 s; d only
        # when started again
        assert seconds_left(find_jobs([tmp_path])) == pytest.approx(90 * 72 + 2 * 120 * 54)
        assert script("status").main([str(tmp_path)]) == 0
    counts, end, *lines = capsys.readouterr().out.splitlines()
    assert counts == "5 runs: 1 done, 1 running, 1 failed, 1 stopped, 1 missing"
    assert end == "about 5:24:00 left, until Sun 17:24"
    assert lines == [
        f"running {tmp_path}/b: 50 of 140 updates",
        f"stopped {tmp_path}/c: 0 of 120 updates",
        f"failed {tmp_path}/d: no such file",
        f"missing {tmp_path}/e: python train.py a=e",
    ]
    assert seconds_left(find_jobs([tmp_path])) is None


def test_status_says_that_a_run_is_at_its_end(tmp_path, capsys, monkeypatch):
    """It has made its updates and measures what it has learnt."""
    monkeypatch.setattr(status, "datetime", SimpleNamespace(now=lambda: datetime(2026, 3, 1, 12)))
    monkeypatch.setattr(status, "seconds_left", lambda jobs: 0.0)
    faked(tmp_path, "a", 0)
    assert script("status").main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "about 00:00 left, until Sun 12:00"


def test_status_says_where_there_is_neither_a_run_nor_a_plan(tmp_path, capsys):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    assert script("status").main([str(folder) for folder in folders]) == 1
    said = f"{folders[0]}, {folders[1]}: no run found, and no sweep.json that plans one\n"
    assert capsys.readouterr() == ("", said)


def test_a_sweep_ends_no_sooner_than_its_longest_run():
    def job(state: str, step: int, total: int | None, pace: float | None) -> SimpleNamespace:
        return SimpleNamespace(state=state, progress=(step, total, pace))

    running = [job("running", 90, 100, 2.0), job("running", 0, 100, 8.0)]
    assert seconds_left(running) == 800
    assert seconds_left([*running, job("stopped", 40, 100, 20.0)]) == (20 + 800 + 1200) / 2
    assert seconds_left([*running, job("failed", 0, 100, 99.0)]) == 800
    # where no job has a length, a pace, or runs, nothing is known
    assert seconds_left([job("running", 90, None, 2.0)]) is None
    assert seconds_left([job("running", 90, 100, None)]) is None
    assert seconds_left([job("stopped", 90, 100, 2.0)]) is None
    bare = job("running", 0, None, None)
    assert seconds_left([running[0], bare]) == 200  # in the length and at the pace of the other


def test_the_table_along_training_averages_the_window_before_a_step(runs, capsys):
    found = [run for run in find_runs([runs]) if run.group[0] == "cyclical"]
    records = [record for run in found for record in run.metrics if record["step"] in (15, 19)]
    expected = [sum(r["train/kl"] for r in records[i : i + 2]) / 2 for i in (0, 2)]
    for window in (9, 10):  # not the record at 10
        assert scalar_cell(found, "train/kl", 20, window).values == pytest.approx(expected)
    assert scalar_cell(found, "train/kl", 20, 11).values != pytest.approx(expected)
    (stopped,) = (run for run in find_runs([runs]) if run.group[0] == "monotonic")
    assert [len(scalar_cell([stopped], "train/kl", step, 5).values) for step in (10, 11, 12)] == [1, 1, 0]
    said = []
    for flags in ([], ["--window", "1000"], ["--window", "5"]):
        assert script("table").main([str(runs), "--at", "10", "20", *flags]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2] and "| monotonic | 0 of 1 | train/kl |" in said[0]


def test_other_settings_of_one_schedule_are_other_rows_and_a_seed_counts_once(tmp_path):
    faked(tmp_path, "a", 0, cycles=2)
    faked(tmp_path, "b", 1, cycles=2)
    faked(tmp_path, "c", 0, cycles=4)
    faked(tmp_path, "d", 0, name="constant")
    found = find_runs([tmp_path])
    assert differing_keys(found) == ["schedule.name", "schedule.cycles"]
    counts = {names: len(members) for names, members in rows(found, ()).items()}
    assert counts == {("cyclical", "2"): 2, ("cyclical", "4"): 1, ("constant", "–"): 1}
    faked(tmp_path, "e", 1, cycles=2)
    with pytest.raises(RunsError, match="both have seed 1"):
        rows(find_runs([tmp_path]), ())


def test_up_to_three_keys_have_a_column_each_and_more_share_one(tmp_path):
    for number, more in enumerate([{}, {"cycles": 2}, {"ratio": 0.2}, {"shape": "cosine"}, {"stop": 0.5}]):
        faked(tmp_path, f"{number}", 0, **more)
        keys = naming(find_runs([tmp_path]))
        whole = [f"schedule.{key}" for key in ("cycles", "ratio", "shape")[:number]]
        assert sorted(keys) == (whole if number < 4 else ["changed"])
        found = find_runs([tmp_path])
        other = replace(found[0], config=found[0].config | {"schedule": {"name": "constant"}})
        assert naming([*found, other]) == ["schedule.name", *keys]  # it is named apart


def test_published_copies_are_read_only_where_they_are_asked_for(tmp_path):
    faked(tmp_path, "outputs/toy/a", 0)
    faked(tmp_path, "outputs/published/toy/a", 0)
    assert len(find_runs([tmp_path / "outputs"])) == 1
    assert len(find_runs([tmp_path / "outputs" / "published"])) == 1


@pytest.mark.parametrize(
    ("sign", "keys"),
    [
        (1, "test/elbo val/refined_elbo test/iw_elbo test/bleu4_f1_minus_permuted test/accuracy/probe/0.1"),
        (-1, "test/rec test/ppl val/refined_rec test/refined_iw_nll test/iw_ppl test/rec_ppl"),
        (-1, "test/word_ppl test/iw_word_ppl test/iw_nll val/refined_word_ppl val/refined_iw_word_ppl"),
        (
            0,
            "test/kl test/mi test/au test/accuracy test/path_a test/refined_kl test/bleu4_f1 time/relative",
        ),
    ],
)
def test_which_way_a_measure_is_better(sign, keys):
    assert {key: direction(key) for key in keys.split()} == dict.fromkeys(keys.split(), sign)


def test_a_cell_says_mean_and_sample_deviation():
    assert str(Cell((1.0, 2.0, 3.0))) == "2.00 ± 1.00"
    assert (str(Cell((101.26,))), str(Cell((-101.26,)))) == ("101.3", "-101.3")
    assert str(Cell((-0.001, -0.003))) == "0.00 ± 0.00"  # no sign without a number
    assert str(Cell(())) == "–"


def test_a_cell_of_what_overflows_and_of_what_nearly_does():
    assert str(Cell((math.inf,))) == str(Cell((math.inf, math.inf))) == str(Cell((math.inf, 3.0))) == "∞"
    assert str(Cell((1e200, 3e200))) == "2.00e+200 ± 1.41e+200"
    assert (str(Cell((1.5e9,))), str(Cell((1e9,)))) == ("1.50e+09", "1.00e+09")
    assert str(Cell((-1.5e30,))) == "-1.50e+30"  # an ELBO
    assert str(Cell((9.99e8,))) == "999000000.0"


def test_latex_gets_no_character_that_it_would_read_otherwise_or_does_not_have():
    marks = r"%&#_${}" + "\\^†–~β<>±∞≯≈✓✗"
    head, *_ = (line for line in Table([marks], [["a"]]).latex().splitlines() if line.endswith(r" \\"))
    assert head == (
        r"\%\&\#\_\$\{\}\textbackslash{}\^{}\dag{}--$\sim$$\beta$"
        r"$<$$>$$\pm$$\infty$$\not>$$\approx$$\checkmark$$\times$ \\"
    )
    assert str(Cell((1.5e9, 1.5e9 + 2))) == "1.50e+09 ± 1.41e+00"  # written as the mean is, however small
    assert str(Cell((1e9 - 3, 1e9 - 1))) == "999999998.0 ± 1.4"


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ((), ","),
        ((2.0,), "2.0,"),
        ((1.0, 3.0), f"2.0,{math.sqrt(2)}"),
        ((math.inf, 3.0), "inf,"),
        ((math.inf,), "inf,"),
    ],
)
def test_csv_has_the_mean_and_a_std_where_there_is_one(values, numbers):
    head, row = Table(["a", "kl"], [["x", Cell(values)]]).csv().splitlines()
    assert (head, row) == ("a,kl,kl std", f"x,{numbers}")


def test_the_best_is_none_that_overflows(tmp_path, capsys):
    reported(tmp_path, "a", 0, {"test/ppl": None, "test/kl": 9.0}, name="constant")
    reported(tmp_path, "b", 0, {"test/ppl": 102.0, "test/kl": None})
    assert script("table").main([str(tmp_path), "--columns", "test/ppl", "test/kl"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| constant | 1 | ∞ | 9.00 |",
        "| cyclical | 1 | **102.0** | – |",
    ]


def test_publishing_keeps_means_and_validations_and_drops_places(runs, tmp_path, capsys):
    assert script("publish").main([str(runs), "--to", str(tmp_path), "--thin", "2"]) == 0
    (original,) = find_runs([runs / "constant-0"])
    (copy,) = find_runs([tmp_path / "toy" / "constant-0"])
    assert copy.results == original.results
    steps, rec = original.series("train/rec")
    assert list(copy.series("train/rec")[0]) == [0, 10, 19]
    varied = [{"step": n, "train/rec": 1.0 * n, "train/beta": n / 8, "train/lr": n / 4} for n in range(5)]
    thin = list(script("publish").thinned(varied, 2))
    assert [list(record.values()) for record in thin] == [
        *([0, 0.0, 0.0, 0.0], [2, 1.5, 0.25, 0.5], [4, 3.5, 0.5, 1.0])
    ]
    assert copy.series("train/rec")[1][1] == pytest.approx(rec[(steps > 0) & (steps <= 10)].mean(), rel=1e-5)
    assert copy.series("val/kl")[1] == pytest.approx(original.series("val/kl")[1], rel=1e-5)
    assert sorted(copy.latents) == sorted(original.latents)
    assert "path" not in copy.config["dataset"]


def test_a_published_run_names_no_place_of_this_machine(tmp_path):
    config = {"seed": 0, "task": {"name": "ptb"}, "schedule": {"name": "constant"}}
    config["dataset"] = {"name": "ptb", "path": "/home/me/ptb"}
    folder = tmp_path / "ptb" / "a"
    folder.mkdir(parents=True)
    about = {"config": config, "command": "python train.py dataset.path=/home/me/ptb"}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "results.json").write_text('{"finished": true}')
    beside = ("latents.jsonl", "classifier.jsonl", "map.jsonl", "samples.md")
    for name in (*beside, "train.log"):
        (folder / name).write_text(f"the {name}\n" if name == "samples.md" else "")
    values = [
        {"train/rec": 1.0000004},
        {"train/rec": 2.0, "train/kl": None, "train/mi": 5.0},
        {"train/rec": 4.0, "train/kl": 3.0},
    ]
    records = [{"step": step} | more for step, more in enumerate(values, start=1)]
    records.insert(1, {"step": 1, "val/kl": 0.12345678, "val/mi": 1.2345678e-7})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert script("publish").main([str(tmp_path / "ptb"), "--to", str(tmp_path / "to")]) == 0
    target = tmp_path / "to" / "ptb" / "a"
    copy = (target / "run.json").read_text()
    assert "/home/me" not in copy and json.loads(copy)["config"]["dataset"] == {"name": "ptb"}
    kept = {"run.json", "results.json", "metrics.jsonl", *beside}
    assert {path.name for path in target.iterdir()} == kept
    assert (target / "samples.md").read_text() == "the samples.md\n"
    assert [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "val/kl": 0.123457, "val/mi": 1.23457e-7},
        # two records, where no number of them is asked for; the means are of those that have a measure
        {"step": 2, "train/rec": 1.5, "train/mi": 5.0},
        {"step": 3, "train/rec": 4.0, "train/kl": 3.0},
    ]


def test_a_run_that_is_not_finished_is_left_out_of_what_is_published(runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "toy")
    (begun, *others) = find_runs([tmp_path / "toy"])
    (begun.folder / "results.json").unlink()
    finished = [run for run in others if run.results.get("finished")]
    assert len(finished) > 1
    assert script("publish").main([str(tmp_path / "toy"), "--to", str(tmp_path / "to")]) == 0
    assert f"{begun.folder}: not finished, left out" in capsys.readouterr().err
    assert [run.folder.name for run in find_runs([tmp_path / "to"])] == [run.folder.name for run in finished]


class Balanced(HTMLParser):
    """Fails on tags that do not match, and collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words = ""

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_report_is_one_page_with_tables_figures_sentences_and_failures(runs, tmp_path, capsys):
    folder = tmp_path / "toy"
    shutil.copytree(runs, folder)
    plan({str(folder / "gone"): ["schedule=<none>"]})
    RunFolder(folder / "broken").fail(UserError("no <data> at all"))
    assert script("report").main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = Balanced()
    page.feed((folder / "report.html").read_text())
    assert page.open == []
    assert len(page.loaded) == 3
    assert all(uri.startswith("data:image/png;base64,") for uri in page.loaded)
    shared = shared_settings(find_runs([folder]))
    assert shared["dataset.draws"] == 2 and not {"seed", "schedule.name"} & shared.keys()
    mean = find_runs([folder / "cyclical-0", folder / "cyclical-1"])
    for words in (
        "7 runs: 4 done, 1 failed, 1 stopped, 1 missing",
        "no <data> at all",
        "python train.py 'schedule=<none>'",
        f"{sum(one.results['test/rec'] for one in mean) / 2:.2f}",
        "constant, seed 0",
        "z from the prior",
        "dataset.draws: 2",
    ):
        assert words in page.words


def test_the_report_looks_at_quarters_of_the_longest_run(tmp_path):
    for seed, updates in enumerate((8, 40)):
        reported(tmp_path, str(seed), seed, {"updates": updates})
        records = [{"step": step, "train/rec": 1.0} for step in range(updates)]
        path = tmp_path / str(seed) / "metrics.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    caption, table = along_training(find_runs([tmp_path]))
    assert table.head[-4:] == ["10", "20", "30", "40"] and "10 updates" in caption


# ---- which checkpoint a task reports ----

TINY = ("experiment=ptb_debug", "train.steps=20", "train.validate_every=10", "dataset.sentences=60")


@pytest.fixture(params=[(SIZES, "last", 20), (TINY, "best", 10)])
def worse(request, tmp_path, configured, monkeypatch) -> tuple[Path, str, int]:
    """A run whose first validation is its best, the checkpoint that its task reports, and its step."""
    overrides, which, step = request.param
    scores = iter((1.0, 2.0))
    monkeypatch.setattr(LanguageTask, "score", lambda self, found: next(scores))
    assert run(configured(*overrides), RunFolder(tmp_path)) == {"best": 1.0, "last": 2.0}[which]
    return tmp_path, which, step


def test_results_and_sentences_are_of_the_checkpoint_that_the_task_reports(worse):
    folder, which, step = worse
    (found,) = find_runs([folder])
    assert found.at("val/rec", 10) != found.at("val/rec", 20)
    validated = next(r for r in found.metrics if r["step"] == step and "val/rec" in r)
    names = [key for key in validated if key.startswith("val/")]
    assert {key: found.results[key] for key in names} == {key: validated[key] for key in names}
    assert found.results["checkpoint"] == which
    assert found.results["objective"] == {"best": 1.0, "last": 2.0}[which]
    shown = {key.split("/", 1)[1] for key in found.metrics[-1] if key.startswith(f"{which}/")}
    assert shown == {f"{split}/{name}" for split in ("val", "test") for name in ("elbo", "rec", "kl", "ppl")}
    assert found.metrics[-1][f"{which}/val/rec"] == found.results["val/rec"]
    task = reopen(RunFolder(folder).configuration("cpu"), RunFolder(folder), which)
    assert (folder / "samples.md").read_text() == task.page()


def test_scripts_open_the_checkpoint_that_the_task_reports(worse, monkeypatch, capsys):
    folder, which, _ = worse
    opened, load = [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path, *more: opened.append(path.name) or load(path, *more))
    capsys.readouterr()
    assert script("evaluate").main([str(folder), "val"]) == 0
    said, results = capsys.readouterr(), RunFolder(folder).results
    assert json.loads(said.out) == {key: v for key, v in results.items() if key.startswith("val/")}
    assert script("sample").main([str(folder), "prior", "--count", "2"]) == 0
    assert (said.err, opened) == ("", [f"checkpoint_{which}.pt"] * 2)
    other = {"best": "last", "last": "best"}[which]
    assert script("evaluate").main([str(folder), "val", "--checkpoint", other]) == 0
    assert f"of checkpoint_{other}.pt; results.json is of checkpoint_{which}.pt" in capsys.readouterr().err


def test_a_toy_folder_that_holds_the_best_checkpoints_numbers_is_read_as_of_its_end(tmp_path, capsys):
    results = {"val/rec": 2.2, "test/rec": 2.2, "test/iw_nll": 2.3, "objective": 2.3, "step": 9}
    reported(tmp_path, "old", 0, results)
    records = [{"step": 5, "val/rec": 2.2, "test/rec": 2.3}, {"step": 7, "train/rec": 2.0}]
    # of one record, what is neither split's stays out
    measured = {"step": 9, "val/rec": 0.9, "epoch/rec": 1.1}
    records += [measured, {"step": 9, "test/rec": 2.2}, {"step": 9, "best/test/rec": 2.2}]
    (tmp_path / "old" / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (old,) = find_runs([tmp_path])
    assert old.results == {"finished": True, "step": 9, "val/rec": 0.9, "test/rec": 0.9}
    assert list(old.metrics) == records[:3]  # without those of the best checkpoint
    assert script("table").main([str(tmp_path)]) == 0
    table, note = capsys.readouterr().out.split("\n\n")
    assert "| 1 | 0.90 |" in table
    assert (
        note
        == "- val/* and test/* are of the last validation, at 9; results.json has those of the best one\n"
    )
    assert script("publish").main([str(tmp_path / "old"), "--to", str(tmp_path / "copy")]) == 0
    assert read_json(tmp_path / "copy" / "old" / "results.json") == {"finished": True} | results


def test_the_published_toy_runs_are_those_of_the_end_of_training(capsys):
    assert script("table").main([str(ROOT / "outputs" / "published" / "toy"), "--columns", "test/rec"]) == 0
    assert capsys.readouterr().out.splitlines()[2:5] == [
        "| constant | 3 | 2.14 ± 0.14 |",
        "| monotonic | 3 | 1.72 ± 0.13 |",
        "| cyclical | 3 | **0.93 ± 0.05** |",
    ]


def test_scripts_name_what_is_missing(tmp_path, capsys):
    for name in ("table", "publish", "report", "status"):
        assert script(name).main([str(tmp_path / "nowhere")]) == 1
        assert "no such folder" in capsys.readouterr().err


# ---- words are not markup ----

MARKUP = ["__init__", "**", "*a*", "``", "''", "`", "<b>x</b>", "<unk>", "&lt;", "#", "1.", "-", "|", "$x$"]
MARKUP += ["\\n", "\\", "[a](b)", "~~c~~", "the"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(MARKUP), min_size=1, max_size=6).map(" ".join), st.booleans())
def test_words_are_shown_as_they_are_wherever_markdown_is_read(words, first):
    said = f"{words} zq" if first else f"zq {words}"  # only so often in a page as it is said
    found = {
        "prior": [said],
        "reconstructions": [{"sentence": said, "reconstruction": said}],
        "interpolation": {"from": said, "to": said, "places": [{"share": 0.5, "sentence": said}]},
        "neighbours": [{"sentence": said, "nearest": [{"distance": 1.0, "sentence": said}]}],
    }
    one = chat.Said(said, said)
    dialogs = {"answers": [chat.Conversation("music", [("A", said)], "B", one, [one])]}
    for text, count in ((samples.markdown(found), 8), (chat.page(dialogs, samples.literal), 5)):
        for page in (markdown_to_safe_html(text), sentences_html(text)):
            reader = Balanced()
            reader.feed(page)
            assert reader.words.count(said) == reader.words.count("zq") == count
    assert samples.text(found).count(said) == 8  # on a terminal nothing is marked


def test_a_table_and_a_figure_show_values_as_they_are(tmp_path, capsys):
    for name in ("a", "b"):
        reported(tmp_path, name, 0, {"test/kl": 1.0, "test/rec": 2.0})
        record = read_json(tmp_path / name / "run.json")
        record["config"]["init_from"] = f"{name}|{{x}}$_^$\\"
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    assert script("table").main([str(tmp_path)]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert {len(re.split(r"(?<!\\)\|", row)) for row in (head, rule, *rows)} == {6}
    assert script("table").main([str(tmp_path), "--format", "latex"]) == 0
    assert r"a|\{x\}\$\_\^{}\$\textbackslash{} & 1 & 2.00" in capsys.readouterr().out
    figure = figures.rate_figure(find_runs([tmp_path]))
    figure.savefig(tmp_path / "rate.png")  # a formula that is none would end here
    assert any(r"=b|{x}\$_^\$" in text.get_text() for text in figure.legends[0].texts)


def test_a_line_of_the_projector_is_a_sentence(tmp_path):
    means = np.array([[0.0, -1.23456], [12345.6, 2.0], [1e-7, 0.5]])
    projector.write(tmp_path, means, ["a\tb", "", "c\nd"], ["x", "y\tz", "of a\nclass"])
    lines = (tmp_path / "projector_sentences.tsv").read_text().splitlines()
    assert lines == ["sentence\tlabel", "a b\tx", "(no words)\ty z", "c d\tof a class"]
    rows = (tmp_path / "projector_means.tsv").read_text().splitlines()
    assert rows == ["0\t-1.235", "1.235e+04\t2", "1e-07\t0.5"]


def test_a_map_that_is_there_is_not_made_again(tmp_path):
    means = np.random.default_rng(0).standard_normal((6, 3))
    projector.write_map(tmp_path, means, np.array([0, 1] * 3), ["bad", "good"])
    content = (tmp_path / "map.jsonl").read_text()
    points = list(map(json.loads, content.splitlines()))
    assert [(point["label"], point["class"]) for point in points] == [(0, "bad"), (1, "good")] * 3
    projector.write_map(tmp_path, means[:4], np.array([1, 0, 1, 0]), ["bad", "good"])
    assert (tmp_path / "map.jsonl").read_text() == content


@pytest.mark.parametrize(("count", "perplexity"), [(6, 5 / 3), (90, 89 / 3), (91, 30), (200, 30)])
def test_a_map_is_scikit_learns_from_the_principal_components(count, perplexity, tmp_path, monkeypatch):
    class Map:
        def __init__(self, **how):
            assert how == {"init": "pca", "random_state": 0, "perplexity": pytest.approx(perplexity)}

        def fit_transform(self, means):
            return means[:, 1:] / 3

    monkeypatch.setattr("sklearn.manifold.TSNE", Map)
    means = np.arange(3.0 * count).reshape(count, 3)
    projector.write_map(tmp_path, means, np.arange(count) % 2, ["bad", "good"])
    points = list(map(json.loads, (tmp_path / "map.jsonl").read_text().splitlines()))
    assert len(points) == count
    assert points[1] == {"x": 1.3333, "y": 1.6667, "label": 1, "class": "good"}


def test_the_sentences_of_a_run_on_code_are_shown_as_they_are(tmp_path, configured):
    (tmp_path / "code.txt").write_text("def __init__ ( self , *args* )\n" * 40)
    own = ("task=ptb", "dataset=text", f"dataset.path={tmp_path / 'code.txt'}", "train.steps=4", "threads=1")
    sizes = ("model.embed=4", "model.hidden=4", "model.latent=2", "task.iw_samples=2")
    run(configured(*own, *sizes), RunFolder(tmp_path / "run"))
    record = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[-1])
    for text in (record["text"], (tmp_path / "run" / "samples.md").read_text()):
        for page in (markdown_to_safe_html(text), sentences_html(text)):
            reader = Balanced()
            reader.feed(page)
            assert reader.words.count("def __init__ ( self , *args* )") >= 2


@pytest.mark.parametrize(
    ("mode", "shown"),
    [("reconstruct", ["reconstructions"]), ("all", ["prior", "reconstructions", "interpolation"])],
)
def test_sample_shows_what_its_mode_says(mode, shown, runs, capsys):
    assert script("sample").main([str(runs / "constant-0"), mode, "--count", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == shown and len(found["reconstructions"]) == 2


# ---- bad input to scripts ----


@pytest.mark.parametrize(
    "command",
    [
        "sample RUN reconstruct --split held",
        "sample RUN neighbours --split held",
        'sample RUN neighbours "1 0" --split held',
        "evaluate RUN held",
    ],
)
def test_a_split_that_a_run_does_not_have_is_refused(command, runs, capsys):
    name, _, *arguments = shlex.split(command)
    assert script(name).main([str(runs / "constant-0"), *arguments]) == 1
    assert capsys.readouterr().err.endswith("constant-0 has no split held: train, val, test\n")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("sample RUN prior --split val", "--split: not read by prior"),
        ("sample RUN prior --answers 2", "--answers: not read by prior"),
        ("sample RUN neighbours --longest 9 --no-unk", "--no-unk and --longest: not read by neighbours"),
        ("sample RUN reconstruct a --count 3", "--count: not read by reconstruct with sentences"),
        (
            "sample RUN reconstruct a --seed 0",
            "--seed: reconstruct with sentences draws nothing without --temp",
        ),
        (
            "sample RUN arithmetic a --from 0 --to 1 --split val",
            "--split: not read by arithmetic with sentences",
        ),
        ("sample RUN interpolate a b --split val", "--split: not read by interpolate"),
        ("sample RUN --top-p 1", "--top-p is for drawn words: give --temperature too"),
        ("table RUN --accuracy --columns test/kl", "--columns: not read by --accuracy"),
        ("table RUN --accuracy --at 3", "argument --at: not allowed with argument --accuracy"),
        ("table RUN --window 9", "--window: read only with --at"),
        (
            "table RUN --at 9 --columns all test/kl",
            "--columns all stands for measures of results.json: with --at, name",
        ),
        ("figures 3", "figure 3 needs a folder with runs, for instance outputs/toy"),
        ("figures 2 RUN", "figure 2 is drawn without runs: leave out the folders; --to says where to write"),
        ("figures animation RUN --dpi 99", "--dpi: not read by animation"),
    ],
)
def test_what_would_not_be_read_is_refused(command, sentence, capsys):
    name, *arguments = shlex.split(command)
    with pytest.raises(SystemExit, match="2"):
        script(name).main(arguments)
    assert capsys.readouterr().err.startswith(f"cvae {name}: {sentence}")


def test_an_importance_weighted_likelihood_that_is_not_measured_is_refused(tmp_path, configured, capsys):
    for name, key in (("ae", "schedule=none"), ("unweighted", "task.iw_samples=0")):
        (tmp_path / name).mkdir()
        describe(RunFolder(tmp_path / name), configured(key, *SIZES), "", {})
        for flag in ("--iw-sentences", "--chunk"):
            assert script("evaluate").main([str(tmp_path / name), flag, "3"]) == 1
    assert script("evaluate").main([str(tmp_path / "unweighted")]) == 1  # for another reason
    *first, third, fourth, fifth = capsys.readouterr().err.splitlines()
    none = f"{tmp_path / 'ae'}: schedule=none has no likelihood to estimate, leave out --iw-* and --chunk"
    assert first == [none, none]
    unweighted = f"{tmp_path / 'unweighted'}: the run has task.iw_samples=0, so give --iw-samples too"
    assert [third, fourth] == [unweighted, unweighted]
    missing = tmp_path / "unweighted" / "checkpoint_last.pt"
    assert fifth == f"{missing} cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("table {runs} --columns checkpoint", "checkpoint is no number: last"),
        ("figures 2 --dpi 100000", "argument --dpi: invalid dpi value: '100000'"),
        ("figures 2 --dpi 1", "argument --dpi: invalid dpi value: '1'"),
        ("sample {runs} --count 1000000000000", "argument --count: invalid count value: '1000000000000'"),
        ("kill toy --to {file}/below", "Not a directory"),
        ("kill toy --to {new} --record {runs}", "cannot be read: "),
        ("bench foo.bar=1 --parts", "unknown key foo (keys: continue_beta,"),
        ("bench threads=² --parts", "threads=² cannot be read: write key=value"),
        ("bench --threads 99999999999", "argument --threads: invalid count value: '99999999999'"),
        ("publish {runs} --to {runs}/..", "would be replaced by its own thinned copy"),
        ("publish {runs}/constant-0/.. --to {runs}/..", "would be replaced by its own thinned copy"),
    ],
)
def test_what_a_script_cannot_do_ends_in_a_sentence(command, said, runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = {"runs": runs, "file": tmp_path / "file", "new": tmp_path / "new"}
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    name, *arguments = (word.format(**places) for word in shlex.split(command))
    try:
        status = script(name).main(arguments)
    except SystemExit as ended:
        status = ended.code
    last = capsys.readouterr().err.splitlines()[-1]
    assert status in (1, 2) and said in last
    assert before == {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", [None, b"\xff broken \xfe\nTraceback"])
def test_an_error_txt_that_cannot_be_read_hides_nothing(content, tmp_path, capsys):
    faked(tmp_path, "a", 0)
    path = tmp_path / "a" / "error.txt"
    path.mkdir() if content is None else path.write_bytes(content)
    assert script("status").main([str(tmp_path)]) == 0
    said = f"stopped {tmp_path}/a" if content is None else f"failed {tmp_path}/a: � broken �"
    assert capsys.readouterr().out.splitlines()[1] == said
    page = tmp_path / "new" / "folder" / "a.html"
    assert script("report").main([str(tmp_path), "--to", str(page)]) == 0
    assert page.is_file()


@pytest.mark.parametrize(
    "path", [TRAIN, *sorted((ROOT / "scripts").glob("*.py"))], ids=lambda path: path.stem
)
def test_a_script_uses_the_cvae_of_its_own_checkout(path, tmp_path, monkeypatch):
    """Whichever is installed, or first on the path."""
    for place in ("here", "other"):
        (tmp_path / place / "cvae").mkdir(parents=True)
        (tmp_path / place / "cvae" / "__init__.py").write_text(f"raise ImportError('the one {place}')")
    copy = tmp_path / "here" / path.relative_to(ROOT)
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(path, copy)
    for name in [name for name in sys.modules if name.partition(".")[0] == "cvae"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), *sys.path])
    if "from cvae" in path.read_text() and "__main__" in path.read_text():
        with pytest.raises(ImportError, match="the one here"):
            runpy.run_path(str(copy))
