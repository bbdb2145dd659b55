"""A run is its corpus, too: fingerprints decide whether it is the same run, and which may be averaged."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cvae.cli import precheck
from cvae.config.schema import Config
from cvae.errors import FolderError, RunsError, UserError
from cvae.report.accuracy import accuracy_table
from cvae.report.figures import curves_figure
from cvae.runs import fingerprints
from cvae.runs.compatibility import refuse_as_source, refuse_other_run, unchecked_files
from cvae.runs.folder import RunFolder
from cvae.runs.provenance import describe
from cvae.runs.reader import find_runs
from scripts import claims, figures, report, table
from tests.helpers import DIALOGS


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settle(folder: Path, config: Config, finished: bool, **data: str) -> RunFolder:
    """What a run leaves in its folder: what it is, the files it read, and whether it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, "config": config.container, "data": data}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "results.json").write_text(json.dumps({"finished": finished, "objective": 1.5}))
    return RunFolder(folder)


@pytest.fixture
def text(tmp_path, monkeypatch, configured) -> Callable[..., Config]:
    """A corpus of one file and one of a folder; the configuration of a run on either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the cat sat\n" * 9)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.txt").write_text("the cat sat\n" * 9)
    (tmp_path / "b" / "test.txt").write_text("a dog\n")
    return lambda path, *more: configured("task=ptb", "dataset=text", f"dataset.path={path}", *more)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_answers_to_its_own_corpus_only(finished, text, tmp_path):
    one = dict.fromkeys(("train", "val", "test"), sha(tmp_path / "a.txt"))
    folder = settle(tmp_path / "run", text("a.txt"), finished, **one)
    check = lambda config: precheck.check_surroundings(config, str(folder.path))  # noqa: E731
    check(text("a.txt"))
    assert folder.finished == finished
    assert unchecked_files(folder, fingerprints.corpus(text("a.txt"))) == ""
    shutil.copy("a.txt", "same words elsewhere.txt")
    check(text("same words elsewhere.txt"))
    with pytest.raises(FolderError, match=r"run was trained on other data: test changed since; .*name=…"):
        check(text("b"))
    (tmp_path / "a.txt").write_text("the cat sat\n" * 8 + "the cat ran\n")
    with pytest.raises(FolderError, match="other data: train and val and test changed"):
        check(text("a.txt"))
    check(text("a.txt", "overwrite=true"))


def test_a_file_of_its_own_for_a_split_that_was_held_out_is_another_corpus(text, tmp_path):
    train = sha(tmp_path / "b" / "train.txt")
    data = {"train": train, "val": train, "test": sha(tmp_path / "b" / "test.txt")}
    folder = settle(tmp_path / "run", text("b"), True, **data)
    refuse_other_run(folder, text("b"))
    (tmp_path / "b" / "valid.txt").write_text("a cat\n")
    with pytest.raises(FolderError, match="other data: val changed since"):
        refuse_other_run(folder, text("b"))


def test_without_its_corpus_a_finished_folder_answers_and_says_so(
    text, tmp_path, monkeypatch, caplog, capsys
):
    caplog.set_level(logging.INFO)
    data = dict.fromkeys(("train", "val", "test"), sha(tmp_path / "a.txt"))
    command = ["task=ptb", "dataset=text", "dataset.path=gone.txt", "hydra.run.dir=run"]
    folder = settle(tmp_path / "run", text("gone.txt"), False, **data)
    with pytest.raises(UserError, match=r"no text at gone\.txt"):
        precheck.check(command)
    settle(folder.path, text("gone.txt"), True, **data)
    assert precheck.check(command) == text("gone.txt")
    said = "corpus not checked: train, val, test not on this machine"
    assert unchecked_files(folder, fingerprints.corpus(text("gone.txt"))) == said
    with pytest.raises(UserError, match=r"no text at gone\.txt"):
        precheck.check([*command, "overwrite=true"])


@pytest.fixture
def dialogs(tmp_path, configured) -> Callable[..., Config]:
    for path in DIALOGS.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    for name in ("references.json", "vectors.txt"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "checkpoint_best.pt").write_bytes(b"weights")
    small = ("embed=5", "utterance=4", "context=6", "topic=2", "latent=3", "prior=4", "decoder=7")
    own = ("task=switchboard", f"dataset.path={tmp_path}", *(f"model.{size}" for size in small))
    return lambda *more: configured(*own, *more)


OTHERS = {
    "task.references": ("references.json", "references.json"),
    "task.vectors": ("vectors.txt", "vectors.txt"),
    "model.vectors": ("vectors.txt", "vectors.txt"),
    "init_from": ("source", "source/checkpoint_best.pt"),
}


@pytest.mark.parametrize("key", OTHERS)
def test_whatever_a_run_reads_is_fingerprinted(key, dialogs, tmp_path, monkeypatch):
    # beside the data is where these files are looked for first, and not where the command is typed
    monkeypatch.chdir(tmp_path if key == "init_from" else tmp_path / "source")
    given, name = OTHERS[key]
    config, path = dialogs(f"{key}={given}"), tmp_path / name
    corpus, others = fingerprints.corpus(config), fingerprints.others(config)
    assert corpus == {split: sha(file) for split, file in config.dataset.files().items()}
    assert others == {key: sha(path)} and fingerprints.others(dialogs()) == {}

    folder = settle(tmp_path / "run", config, True, **corpus, **others)
    refuse_other_run(folder, config)
    before = path.read_bytes()
    path.write_bytes(before[::-1])
    with pytest.raises(FolderError, match=f"other data: {key} changed since"):
        refuse_other_run(folder, config)
    path.unlink()
    refuse_other_run(folder, config)
    assert (
        unchecked_files(folder, fingerprints.others(config))
        == f"corpus not checked: {key} not on this machine"
    )

    path.write_bytes(before)
    old = settle(tmp_path / "old", config, True, **corpus)  # as runs were before they recorded it
    refuse_other_run(old, config)
    assert (
        unchecked_files(old, fingerprints.others(config)) == f"corpus not checked: {key} not in its run.json"
    )
    assert not unchecked_files(old, corpus)
    with pytest.raises(FolderError, match="other data: val changed since"):
        refuse_other_run(settle(tmp_path / "bad", config, True, **{**corpus, "val": "0"}), config)


@pytest.mark.parametrize(("task", "which"), [("toy", "last"), ("ptb", "best")])
def test_of_a_source_the_checkpoint_that_the_task_reports_is_fingerprinted(task, which, tmp_path, configured):
    for name in ("last", "best"):
        (tmp_path / f"checkpoint_{name}.pt").write_text(name)
    prints = fingerprints.others(configured(f"task={task}", f"init_from={tmp_path}"))
    assert prints == {"init_from": sha(tmp_path / f"checkpoint_{which}.pt")}


def test_what_cannot_be_compared_is_named_with_its_reason_and_not_recorded(tmp_path, configured):
    prints = {"train": None, "val": "1", "test": None, "task.vectors": "2", "init_from": "3"}
    describe(RunFolder(tmp_path), configured(), "", prints)
    assert RunFolder(tmp_path).record["data"] == {"val": "1", "task.vectors": "2", "init_from": "3"}
    with pytest.raises(FolderError, match=r"other data: val changed since$"):
        describe(RunFolder(tmp_path), configured(), "", prints | {"val": "2"})
    folder = settle(tmp_path / "old", configured(), True, val="1")
    assert unchecked_files(folder, prints) == (
        "corpus not checked: train, test not on this machine; task.vectors, init_from not in its run.json"
    )


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "metrics.jsonl"])
def test_records_without_a_run_json_are_nobodys(name, tmp_path):
    assert RunFolder(tmp_path).record is None
    (tmp_path / name).touch()
    said = rf"^{tmp_path} holds records of a run but no run\.json that says of which$"
    with pytest.raises(FolderError, match=said):
        _ = RunFolder(tmp_path).record


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"format": 1},
        {"config": {}},
        {"format": 1, "config": []},
        {"format": 1, "config": {}, "data": ["train"]},
    ],
)
def test_a_run_json_that_lacks_a_part_is_of_another_format(record, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        FolderError, match=r"run\.json has format .* of cvae \?; this version reads format 1$"
    ):
        _ = RunFolder(tmp_path).record


def test_other_data_for_a_run_may_lie_at_home(text, tmp_path, monkeypatch):
    folder = settle(tmp_path / "run", text("gone.txt"), True)
    monkeypatch.setenv("HOME", str(tmp_path / "b"))
    assert folder.configuration("cpu", data="~/test.txt").dataset.path == "~/test.txt"
    with pytest.raises(UserError, match="there is no file or folder ~/gone"):
        folder.configuration("cpu", data="~/gone")


def test_a_run_that_only_classifies_takes_the_encoder_of_a_run_of_its_task(tmp_path, configured):
    assert RunFolder(tmp_path / "source").reported == tmp_path / "source" / "checkpoint_best.pt"
    source = settle(tmp_path / "source", configured("task=ptb"), True)
    (source / "checkpoint_best.pt").touch()
    start = f"init_from={source}"
    refuse_as_source(source, configured("task=ptb", start))
    said = rf"^{start} was run with task=ptb, and this run has task=yelp$"
    with pytest.raises(FolderError, match=said):
        refuse_as_source(source, configured("task=yelp", start))
    own = configured("task=yelp")
    for group in ("model", "schedule"):
        other = own.container | {group: own.container[group] | {"name": "other"}}
        (source / "run.json").write_text(json.dumps({"format": 1, "config": other}))
        with pytest.raises(FolderError, match=rf"was run with {group}=other, and this run has {group}="):
            refuse_as_source(source, configured("task=yelp", start))
    (source / "checkpoint_best.pt").rename(source / "checkpoint_last.pt")
    with pytest.raises(FolderError, match=r"was not trained: it has no checkpoint_best\.pt$"):
        refuse_as_source(source, configured("task=ptb", start))


def test_a_tokenizer_of_ones_own_is_fingerprinted(text, tmp_path):
    (tmp_path / "pieces.json").write_text("{}")
    given = ("dataset.tokens=bpe", "dataset.vocabulary=null", "dataset.tokenizer=pieces.json")
    assert fingerprints.others(text("a.txt", *given)) == {"dataset.tokenizer": sha(tmp_path / "pieces.json")}
    assert fingerprints.others(text("a.txt")) == {}


def test_each_pretrained_checkpoint_is_fingerprinted(text, tmp_path):
    for name in ("gpt", "t5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"name": "{name}"}}')
    given = ("model=pretrained", "model.decoder=gpt", "model.encoder=t5", "dataset.tokens=bpe")
    config = text("a.txt", *given, "dataset.vocabulary=null")
    before = fingerprints.others(config)
    assert before.keys() == {"model.decoder", "model.encoder"} and None not in before.values()
    (tmp_path / "t5" / "config.json").write_text('{"name": "t6"}')
    after = fingerprints.others(config)
    assert [key for key in before if after[key] != before[key]] == ["model.encoder"]


def test_a_run_records_them_all(dialogs, tmp_path, monkeypatch):
    from cvae.training import run

    config = dialogs("task.references=references.json", "init_from=source")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "references.json").write_text(
        json.dumps([{"responses": ["yes"], "context": ["yes"]}, {"responses": ["no"], "context": []}])
    )
    monkeypatch.setattr(run, "load_weights", lambda *_, **__: None)
    monkeypatch.setattr(run, "_train", lambda *_: 0.0)
    run.run(config, RunFolder(tmp_path / "run"))
    data = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert set(data) == {"train", "val", "test", "task.references", "init_from"}
    assert data == fingerprints.corpus(config) | fingerprints.others(config)

    monkeypatch.setattr(run, "load_checkpoint", lambda *_: None)
    run.reopen(config, RunFolder(tmp_path / "run"))
    (tmp_path / "references.json").write_text(json.dumps([{"responses": ["yes"], "context": []}]))
    with pytest.raises(FolderError, match=r"other data: task\.references changed since$"):
        run.reopen(config, RunFolder(tmp_path / "run"))


def test_reopening_an_old_run_says_what_is_not_known_of_it(dialogs, tmp_path, monkeypatch, caplog):
    from cvae.training import run

    config = dialogs("task.references=references.json")
    (tmp_path / "references.json").write_text(json.dumps([{"responses": ["yes"], "context": []}]))
    monkeypatch.setattr(run, "load_checkpoint", lambda *_: None)
    folder = settle(tmp_path / "run", config, True, **fingerprints.corpus(config))
    run.reopen(config, folder)
    (record,) = (record for record in caplog.records if record.module == "run")
    assert record.getMessage() == f"{folder}: corpus not checked: task.references not in its run.json"


# ---- what is put together ----


def trained(folder: Path, seed: int, **data: str) -> None:
    """A finished run of task=yelp with a curve and a classifier."""
    place = folder / f"cyclical-{seed}"
    place.mkdir(parents=True)
    config = {"seed": seed, "task": {"name": "yelp"}, "schedule": {"name": "cyclical"}, "dataset": {}}
    (place / "run.json").write_text(json.dumps({"config": config, "data": data}))
    results = {"finished": True, "updates": 8, "test/kl": 0.5, "test/rec": 1.0}
    (place / "results.json").write_text(json.dumps(results))
    (place / "metrics.jsonl").write_text('{"step": 1, "train/kl": 0.5, "val/elbo": -1.5}\n')
    line = {"mode": "probe", "share": 0.1, "seed": 0, "labels": 8, "test/accuracy": 0.5}
    (place / "classifier.jsonl").write_text(json.dumps(line) + "\n")


@pytest.fixture
def two(tmp_path, monkeypatch) -> Path:
    """Two seeds on two corpora, where claims looks for an experiment."""
    monkeypatch.chdir(tmp_path)
    trained(tmp_path / "runs" / "toy", 0, **{"train/0": "a", "val/0": "c"})
    trained(tmp_path / "runs" / "toy", 1, **{"train/0": "b", "val/0": "c"})
    return tmp_path / "runs"


WORKS = {
    "table": lambda folder: table.main([f"{folder}/toy"]),
    "along training": lambda folder: table.main([f"{folder}/toy", "--at", "1", "--columns", "val/elbo"]),
    "accuracy": lambda folder: table.main([f"{folder}/toy", "--accuracy"]),
    "curves": lambda folder: figures.main(["curves", f"{folder}/toy"]),
    "accuracy figure": lambda folder: figures.main(["accuracy", f"{folder}/toy"]),
    "report": lambda folder: report.main([f"{folder}/toy"]),
    "claims": lambda folder: claims.main([str(folder)]),
}


@pytest.mark.parametrize("work", WORKS)
def test_runs_on_two_corpora_are_not_folded(work, two, capsys):
    assert WORKS[work](two) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "cyclical-0" in said and "cyclical-1 cannot be put together: their data differ in train/0" in said


def test_what_is_unknown_is_neither_equal_nor_different(tmp_path):
    for seed, data in enumerate(({"test": "a"}, {"test": "a", "task.references": "b"}, {})):
        trained(tmp_path, seed, **data)
    runs = find_runs([tmp_path])
    curves_figure(runs)
    accuracy_table(runs)
    trained(tmp_path, 3, **{"task.references": "c"})
    (tmp_path / "cyclical-3" / "classifier.jsonl").unlink()
    accuracy_table(find_runs([tmp_path]))  # what has no classifiers may have read anything
    with pytest.raises(
        RunsError, match=r"cyclical-1 and .*cyclical-3 .*: their data differ in task.references"
    ):
        curves_figure(find_runs([tmp_path]))
