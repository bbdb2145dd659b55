"""Sweeps from the command line: repeated, killed in the middle, with jobs that fail, and in parallel."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from cvae.cli import train
from cvae.errors import FolderError, UserError
from cvae.runs import sweeps
from cvae.runs.folder import RunFolder
from cvae.runs.sweeps import Sweep, find_jobs
from cvae.training.run import run
from tests.forked import Forks, Process
from tests.helpers import ROOT

SWEEP = (
    "-m",
    "schedule=constant,cyclical",
    "name=sweep",
    "train.steps=60",
    "train.log_every=1",
    "train.validate_every=30",
    "dataset.draws=2",
    "task.samples=10",
    "hydra.sweep.dir=out puts",  # a space, as folders of real people have
)


def start(cwd: Path, *overrides: str, sweep: tuple[str, ...]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *sweep, *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def forked(forks: Forks, cwd: Path, *overrides: str) -> Process:
    """Start SWEEP without waiting for imports."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return forks.start(ROOT / "train.py", *SWEEP, *overrides, cwd=cwd, environment=environment)


def folders(cwd: Path) -> dict[str, Path]:
    """The run folders of a sweep by their schedule."""
    found = list((cwd / "out puts" / "sweep").glob("*/run.json"))
    return {json.loads(path.read_text())["config"]["schedule"]["name"]: path.parent for path in found}


def test_a_killed_sweep_started_again_does_only_what_is_missing(tmp_path, forks):
    killed = forked(forks, tmp_path)
    deadline = time.monotonic() + 300
    while "cyclical" not in folders(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    first = folders(tmp_path)["constant"]
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

    again = forked(forks, tmp_path)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert output.count("already finished") == 1
    assert before == {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    assert all(json.loads((f / "results.json").read_text())["finished"] for f in folders(tmp_path).values())

    repeated = forked(forks, tmp_path)
    output, errors = repeated.communicate()
    assert repeated.returncode == 0, errors
    assert output.count("already finished") == 2


DIVERGED = r"(rec|kl|loss|gradient norm) is (nan|inf) at step \d+ "


def test_failing_jobs_neither_stop_the_others_nor_hide(tmp_path, forks):
    sweep = forked(forks, tmp_path, "lr.value=1e30,1e-3,1e29", "schedule=constant", "train.steps=30")
    output, errors = sweep.communicate()
    assert sweep.returncode == 1
    assert "Traceback" not in errors
    *before, counts, first, second = output.splitlines()
    assert sum(re.search(DIVERGED, line) is not None for line in before) == 2
    assert counts == "3 runs: 1 done, 2 failed"
    runs = {p.parent: json.loads(p.read_text()) for p in (tmp_path / "out puts").rglob("results.json")}
    failed = sorted(folder for folder, results in runs.items() if not results["finished"])
    assert len(runs) == 3
    assert len(failed) == 2
    for folder in failed:
        error = (folder / "error.txt").read_text().rstrip()
        assert re.match(DIVERGED, error)
        assert error in (folder / "train.log").read_text()
        assert f"failed {folder.relative_to(tmp_path)}: {error}" in (first, second)


def test_a_parallel_sweep_trains_what_it_can_and_says_what_could_not_start(tmp_path, configured):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("the cat sat\na dog ran off\n" * 4)
    sizes = ("model.embed=4", "model.hidden=4", "model.latent=2", "train.epochs=2", "task.iw_samples=2")
    command = ("task=ptb", "threads=1", f"dataset.path={tmp_path}", *sizes)
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "dataset.max_words=20,3")
    sweep = start(tmp_path, "-m", *command, *parallel, sweep=())
    output, _ = sweep.communicate()
    assert sweep.returncode == 1
    counts, failed = output.splitlines()[-2:]
    assert counts == "2 runs: 1 done, 1 failed"
    state, folder, *error = failed.split()
    assert (state, error[-4:]) == ("failed", ["words,", "dataset.max_words", "allows", "3"])
    assert (tmp_path / folder.rstrip(":") / "train.log").read_text().rstrip().endswith("allows 3")
    alone = RunFolder(tmp_path / "alone")
    run(configured(*command, "dataset.max_words=20"), alone)
    (parallel_run,) = (tmp_path / "outputs").rglob("*max_words-20*")
    assert RunFolder(parallel_run).results["test/elbo"] == alone.results["test/elbo"]


def test_a_job_that_fails_before_it_has_a_record_leaves_its_error(tmp_path, forks):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("the cat sat\na dog ran off\n" * 4)
    own = (
        "task=ptb",
        "schedule=constant",
        "task.iw_samples=2",
        f"dataset.path={tmp_path}",
    )
    sizes = ("model.embed=4", "model.hidden=4", "model.latent=2", "train.steps=2", "train.validate_every=2")
    command = ("-m", *own, *sizes, "dataset.max_words=3,20", "name=sweep", "hydra.sweep.dir=out puts")
    sweep = forks.start(ROOT / "train.py", *command, cwd=tmp_path, environment=dict(os.environ))
    output, errors = sweep.communicate()
    assert sweep.returncode == 1, errors
    assert "2 runs: 1 done, 1 failed" in output, errors
    (folder,) = (tmp_path / "out puts").rglob("*max_words-3*")
    assert not (folder / "run.json").exists()
    assert RunFolder(folder).error.endswith("dataset.max_words allows 3\n")


@dataclass
class Machine:
    """Cores and GPUs that are not there, and how many jobs run at once on them."""

    cores: int
    gpus: str | None
    threads: str


@pytest.mark.parametrize(
    ("launcher", "machine"),
    [
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, Machine(16, "", "4")),  # four jobs, four cores each
        ({"_target_": "x.JoblibLauncher", "n_jobs": 2}, Machine(16, "", "8")),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -3}, Machine(4, "", "2")),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, Machine(2, "", "1")),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, Machine(16, "0,1", "8")),  # one job on each GPU
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, Machine(16, "-1", "4")),  # no GPU
        ({"_target_": "x.JoblibLauncher", "n_jobs": -9}, Machine(4, "", "unset")),
        ({"_target_": "x.LocalLauncher"}, Machine(16, "", "4")),
        ({"_target_": "x.LocalLauncher"}, Machine(3, "", "1")),
        ({"_target_": "x.BasicLauncher"}, Machine(16, "", "unset")),
        ({"_target_": "x.SlurmLauncher"}, Machine(16, "", "unset")),
    ],
)
def test_cores_are_divided_among_jobs_that_run_at_once(launcher, machine, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "cores", lambda: machine.cores)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", machine.gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    jobs = {str(tmp_path / "name" / letter): [f"a={letter}"] for letter in "abcd"}
    Sweep(tmp_path / "name", "auto", launcher, jobs).begin()
    assert os.environ.get("OMP_NUM_THREADS", "unset") == machine.threads
    assert [(job.state, job.command) for job in find_jobs([tmp_path])] == [
        ("missing", f"python train.py a={letter}") for letter in "abcd"
    ]


@pytest.mark.parametrize(
    ("own", "threads"),
    [
        ({}, "8"),
        ({"jobs_per_gpu": 2}, "4"),
        ({"device": "cpu"}, "4"),
        ({"device": "cpu", "jobs": {}}, "2"),  # of a search, which may have as many as there are cores
    ],
)
def test_gpus_bound_the_jobs_at_once_unless_these_are_on_the_cpu(own, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    launcher = {"_target_": "x.JoblibLauncher", "n_jobs": 8}
    jobs = {str(tmp_path / letter): [f"a={letter}"] for letter in "abcd"}
    Sweep(**({"place": tmp_path, "device": "auto", "launcher": launcher, "jobs": jobs} | own)).begin()
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_a_plan_is_added_to_and_tells_more_than_a_run(tmp_path):
    sweeps.plan({str(tmp_path / "a" / "x"): ["seed=1"]})
    sweeps.plan({str(tmp_path / "a" / "y"): ["seed=2"], str(tmp_path / "b" / "x"): ["seed=3"]})
    for place in ("a/x", "a/z"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "run.json").write_text(json.dumps({"command": f"that of {place}"}))
    RunFolder(tmp_path / "c").fail(ValueError("no folder yet"))
    commands = ["seed=1", "seed=2", "that of a/z", "seed=3", ""]
    jobs = find_jobs([tmp_path])
    assert [job.folder.path.relative_to(tmp_path).as_posix() for job in jobs] == [
        "a/x",
        "a/y",
        "a/z",
        "b/x",
        "c",
    ]
    assert [job.command.removeprefix("python train.py ") for job in jobs] == commands


@pytest.mark.parametrize(
    ("results", "progress"),
    [
        ({"finished": True, "step": 0, "updates": 0}, (0, 0, 0.0)),
        ({"finished": True, "step": 40, "updates": 90, "time/training_seconds": 80.0}, (40, 90, 2.0)),
        ({"finished": False, "step": 3, "updates": 90}, (5, 90, 4.0)),
        ({"finished": False, "step": 7, "updates": 90}, (7, 90, 4.0)),  # saved since the last record
    ],
)
def test_progress_is_what_was_saved_or_recorded_and_the_pace_is_of_updates_made(results, progress, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "time/seconds": 20.0}\n')
    RunFolder(tmp_path).write_results(results)
    (job,) = find_jobs([tmp_path])
    assert job.progress == progress
    if results["finished"]:
        with RunFolder(tmp_path).held():  # as who looks at it again does
            assert RunFolder(tmp_path).state == "done"


def test_a_number_of_threads_that_the_user_gives_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    jobs = {str(tmp_path / letter): [f"a={letter}"] for letter in "ab"}
    Sweep(tmp_path, "cpu", {"_target_": "x.LocalLauncher"}, jobs).begin()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_sweep_that_ends_before_any_job_says_why(tmp_path, monkeypatch, capsys):
    """Cleaning up must not hide the cause: there is no folder yet, or an empty one, or a broken plan."""

    def fails(job: object) -> None:
        raise ZeroDivisionError("the cause")

    launcher = {"_target_": "x.BasicLauncher"}
    monkeypatch.setenv("PYTHONPATH", "first")
    (tmp_path / "neighbour").mkdir()
    (tmp_path / "neighbour" / "run.json").write_text("{}")  # of another sweep
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "none", tmp_path / "empty", tmp_path / "broken"):
        monkeypatch.setattr(train, "check", lambda *_, place=place: Sweep(place, "cpu", launcher))
        if place.name == "broken":
            place.mkdir()
            (place / "sweep.json").write_text("[1]")
        monkeypatch.setattr(sys, "argv", ["train.py"])
        monkeypatch.setattr(train, "_hydra", fails)
        with pytest.raises(ZeroDivisionError, match="the cause"):
            train.main(["-m"])
        monkeypatch.setattr(train, "_hydra", lambda job: None)
        assert train.main(["-m"]) == 1
    said = capsys.readouterr()
    assert said.err.count("must hold a JSON object") == len(said.err.splitlines()) == 2
    assert said.out == "0 runs: \n" * 4  # and nothing of its neighbour
    # what a launcher starts has the cvae of this checkout before any other
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_a_sweep_is_done_where_all_its_jobs_are_and_the_others_are_named(tmp_path, capsys):
    for name, finished in (("a", True), ("b", False), ("c", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        RunFolder(tmp_path / name).write_results({"finished": finished})
    for names, done, said in (
        ("ac", True, "2 runs: 2 done\n"),
        ("ab", False, f"2 runs: 1 done, 1 stopped\nstopped {tmp_path / 'b'}"),
        ("b", False, f"1 runs: 1 stopped\nstopped {tmp_path / 'b'}"),
    ):
        jobs = {str(tmp_path / name): [] for name in names}
        assert Sweep(tmp_path, "cpu", {"_target_": "x.BasicLauncher"}, jobs).end() is done
        assert capsys.readouterr().out.startswith(said)


def test_a_plan_that_is_broken_ends_the_command_in_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.json").write_text("[1]")
    sweep = Sweep(tmp_path, "cpu", {"_target_": "x.BasicLauncher"}, {str(tmp_path / "a"): ["seed=0"]})
    monkeypatch.setattr(train, "check", lambda *_: sweep)
    monkeypatch.setattr(train, "_hydra", lambda job: None)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert train.main(["-m"]) == 1
    assert "sweep.json must hold a JSON object, found list" in capsys.readouterr().err
    assert os.environ["PYTHONPATH"] == str(ROOT)  # an empty entry would be the folder that one is in


def test_a_finished_job_answers_with_its_objective_and_not_to_another(
    tmp_path, configured, monkeypatch, caplog
):
    """As a search asks for it, which goes by the objective."""
    hydra = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path)), launcher={"_target_": "x.BasicLauncher"}
    )
    monkeypatch.setattr(train.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(train, "_train", lambda *given: 7.5)
    record = {"format": 1, "config": configured("seed=4").container}
    (tmp_path / "run.json").write_text(json.dumps(record))
    RunFolder(tmp_path).write_results({"finished": True, "objective": 1.5})
    caplog.set_level("INFO")
    assert train._run(None, configured("seed=4")) == 1.5
    with pytest.raises(FolderError, match="seed is 4 there and 5 here"):
        train._run(None, configured("seed=5"))
    assert train._run(None, configured("seed=5", "overwrite=true")) == 7.5
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert train._run(None, configured("seed=4")) is None
    finished = f"{tmp_path} is already finished; overwrite=true runs it again"
    assert caplog.messages == [finished]  # which rank 0 says
    elsewhere = configured("task=ptb", "dataset.path=nowhere")
    (tmp_path / "run.json").write_text(json.dumps(record | {"config": elsewhere.container}))
    monkeypatch.delenv("RANK")
    assert train._run(None, elsewhere) == 1.5
    absent = "corpus not checked: train, val, test not on this machine"
    assert caplog.messages[1:] == [f"{finished} ({absent})"]


@pytest.mark.parametrize(("rank", "said"), [("0", "no data"), ("1", "rank 1: no data")])
def test_a_mistake_ends_each_process_in_its_sentence_and_no_other_job(rank, said, configured, monkeypatch):
    def fails(*given: object) -> None:
        raise UserError("no data")

    monkeypatch.setattr(train, "_run", fails)
    monkeypatch.setattr(train.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.RUN))
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        train.run(OmegaConf.create(), configured("seed=4"))
    assert ended.value.code == said
    monkeypatch.setattr(train.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.MULTIRUN))
    with pytest.raises(UserError, match=r"^no data$"):
        train.run(OmegaConf.create(), configured("seed=4"))


@pytest.mark.parametrize(
    ("rank", "mode", "known", "before", "error", "left"),
    [
        ("0", RunMode.RUN, False, "", UserError("no data"), ""),  # there is no run to leave it in
        ("0", RunMode.RUN, True, "", UserError("no data"), "no data\n"),
        ("1", RunMode.RUN, True, "", UserError("no data"), ""),  # the folder is rank 0's
        ("0", RunMode.MULTIRUN, False, "", UserError("no data"), "no data\n"),
        ("0", RunMode.MULTIRUN, True, "", FolderError("holds another run"), ""),  # which fares well
        ("0", RunMode.MULTIRUN, True, "no disk\n", UserError("no data"), "no disk\n"),  # said by the run
    ],
)
def test_an_error_is_left_in_the_folder_of_a_run_unless_it_is_about_the_folder(
    rank, mode, known, before, error, left, tmp_path, configured, monkeypatch, caplog
):
    def fails(*given: object) -> None:
        raise error

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("cvae.training.run.run", fails)
    hydra = OmegaConf.create({"mode": mode, "overrides": {"task": ["seed=4"]}})
    monkeypatch.setattr(train.HydraConfig, "get", lambda: hydra)
    if known:
        (tmp_path / "run.json").write_text('{"format": 1, "config": {}}')
    if before:
        (tmp_path / "error.txt").write_text(before)
    with pytest.raises(type(error)):
        train._train(configured("seed=4"), RunFolder(tmp_path), OmegaConf.create())
    assert RunFolder(tmp_path).error == left
    assert (f"{tmp_path}: {error}" in caplog.text) == (mode == RunMode.MULTIRUN)


def test_a_search_has_a_storage_and_goes_on_from_it(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    short = ("train.steps=20", "train.validate_every=10", "dataset.draws=2", "task.samples=10", "threads=1")
    search = ("-m", "name=search", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1")
    stored = ("hydra.sweeper.storage=sqlite:///x.db", "hydra.sweeper.study_name=s", "seed=int(interval(0,9))")
    completed = "select count(*) from trials where state = 'COMPLETE'"
    for number in (1, 2):
        sweep = start(tmp_path, *short, *stored, sweep=search)
        _, errors = sweep.communicate()
        assert sweep.returncode == 0, errors
        with sqlite3.connect(tmp_path / "x.db") as study:
            assert study.execute(completed).fetchone() == (number,)
