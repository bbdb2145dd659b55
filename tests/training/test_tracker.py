"""tracker=trackio: the records of metrics.jsonl, once each; with the real package where it is installed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cvae.cli import precheck
from cvae.config.load import identity
from cvae.errors import UserError
from cvae.runs.folder import RunFolder
from cvae.tasks.language_model import LanguageTask
from cvae.training import tracker
from cvae.training.loop import Loop
from cvae.training.run import run
from cvae.training.tracker import Tracker
from tests.helpers import DEBUG

TINY = (*DEBUG, "train.steps=12", "train.epochs=null", "task.iw_samples=0", "tracker=trackio")


class Crash(Exception):
    """Stands for whatever may end a process."""


class Store:
    """What trackio keeps, in a dict: each run's project, name, configuration and records."""

    def __init__(self) -> None:
        self.runs: dict[str, SimpleNamespace] = {}
        self.made = 0

    def init(self, project, name, config, embed, auto_log_gpu, auto_log_cpu):
        print("* Trackio project initialized")
        assert not (embed or auto_log_gpu or auto_log_cpu)
        self.made += 1
        key = str(self.made)
        made = SimpleNamespace(id=key, project=project, name=name, config=config, records=[], finished=False)
        made.log = lambda values, step: made.records.append({"step": step, **values})
        made.delete = lambda: self.runs.pop(key)
        self.runs[key] = made
        return made

    def finish(self):
        print("* Run finished.")
        list(self.runs.values())[-1].finished = True

    def Api(self):
        def runs(project):
            if all(made.project != project for made in self.runs.values()):
                raise ValueError(f"Project '{project}' does not exist")
            return [made for made in self.runs.values() if made.project == project]

        return SimpleNamespace(runs=runs)


@pytest.fixture(autouse=True)
def nothing_to_look_at(monkeypatch):
    for method in ("page", "preview"):
        monkeypatch.setattr(LanguageTask, method, lambda self: "")


@pytest.fixture
def store(monkeypatch) -> Store:
    made = Store()
    module = SimpleNamespace(init=made.init, finish=made.finish, Api=made.Api, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "trackio", module)
    return made


def records(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if value is not None} for line in lines]


def crash(config, folder: Path, monkeypatch, updates: int) -> None:
    """Run until so many updates are made and nothing of them is saved."""
    original, made = Loop._advance, []

    def crashing(self):
        original(self)
        made.append(1)
        if len(made) == updates:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", crashing)
        with pytest.raises(Crash):
            run(config, RunFolder(folder))


def test_it_gets_the_records_the_name_and_the_configuration(store, tmp_path, configured, capsys, monkeypatch):
    config = dataclasses.replace(configured(*TINY), name="a/b")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "")  # set to nothing, it names no other machine
    run(config, RunFolder(tmp_path / "one"))
    (made,) = store.runs.values()
    assert made.records == records(tmp_path / "one") and made.finished
    assert (made.project, made.name) == ("a-b", "one")
    assert made.config == identity(config.container) | {"folder": str(RunFolder(tmp_path / "one"))}
    assert "* " not in capsys.readouterr().out


def test_a_folder_named_by_a_dot_has_its_own_name(store, tmp_path, configured, monkeypatch):
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    Tracker(RunFolder("."), configured(*TINY), [{"step": 3, "val/ppl": None, "val/kl": 1.5}])
    (made,) = store.runs.values()
    assert (made.name, made.records) == ("one", [{"step": 3, "val/kl": 1.5}])


def test_a_run_that_crashed_goes_on_in_the_same_one_with_each_record_once(
    store, tmp_path, monkeypatch, configured
):
    config = configured(*TINY)
    crash(config, tmp_path / "one", monkeypatch, 9)  # saved after 5
    assert [made.finished for made in store.runs.values()] == [True]
    run(configured(*TINY, "seed=1"), RunFolder(tmp_path / "another"))
    run(config, RunFolder(tmp_path / "one"))
    assert [made.name for made in store.runs.values()] == ["another", "one"]
    for made in store.runs.values():
        assert made.records == records(tmp_path / made.name)
    run(dataclasses.replace(config, overwrite=True), RunFolder(tmp_path / "one"))
    assert [made.name for made in store.runs.values()] == ["another", "one", "one"]  # the old results stay


def test_it_can_begin_in_the_middle_and_is_no_part_of_a_runs_identity(store, tmp_path, configured):
    run(configured(*TINY[:-1], "train.stop_after=6"), RunFolder(tmp_path))
    assert not store.runs
    run(configured(*TINY), RunFolder(tmp_path))
    assert [made.records for made in store.runs.values()] == [records(tmp_path)]
    RunFolder(tmp_path).clear()
    assert not (tmp_path / "tracker.json").exists()


def test_what_keeps_it_from_starting_is_a_sentence_before_training(
    store, tmp_path, monkeypatch, configured, capsys
):
    config = configured(*TINY)

    def refuse(*arguments, **named):
        raise ValueError("Project name\n'x' is not allowed")

    monkeypatch.setattr(sys.modules["trackio"], "init", refuse)
    with pytest.raises(UserError, match=r"^tracker=trackio cannot start: Project name 'x' is not allowed$"):
        run(config, RunFolder(tmp_path / "one"))
    assert RunFolder(tmp_path / "one").results == {}
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "somebody/somewhere")
            with pytest.raises(UserError, match=f"writes to this machine, and {name} names another"):
                run(config, RunFolder(tmp_path / "new"))
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda name: None)
    said = r"^tracker=trackio needs the trackio package: pip install 'cvae-lab\[trackio\]'$"
    with pytest.raises(UserError, match=said):
        run(config, RunFolder(tmp_path / "new"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        precheck.check(["tracker=trackio"])
    assert not (tmp_path / "new").exists() and not (tmp_path / "outputs").exists()


def test_the_real_package_offline(tmp_path, monkeypatch, configured):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    config = configured(*TINY)
    crash(config, tmp_path / "one", monkeypatch, 9)
    run(config, RunFolder(tmp_path / "one"))
    assert SQLiteStorage.get_runs("ptb_debug") == ["one"]
    logs = SQLiteStorage.get_logs("ptb_debug", "one")
    assert [{key: value for key, value in log.items() if key != "timestamp"} for log in logs] == [
        pytest.approx(record) for record in records(tmp_path / "one")
    ]
