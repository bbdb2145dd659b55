"""Sweeps from the command line: repeated, killed in the middle, and with a job that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SWEEP = (
    "-m",
    "schedule=constant,cyclical",
    "name=sweep",
    "train.steps=300",
    "train.log_every=1",
    "train.validate_every=100",
    "dataset.draws=2",
    "task.samples=10",
    "hydra.sweep.dir=out puts",  # a space, as folders of real people have
)


def start(cwd: Path, *overrides: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *SWEEP, *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def folders(cwd: Path) -> dict[str, Path]:
    """The run folders of a sweep by their schedule."""
    found = (cwd / "out puts" / "sweep").glob("*/run.json")
    return {json.loads(path.read_text())["config"]["schedule"]["name"]: path.parent for path in found}


def test_a_killed_sweep_started_again_does_only_what_is_missing(tmp_path):
    killed = start(tmp_path)
    deadline = time.monotonic() + 300
    while "cyclical" not in folders(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    first = folders(tmp_path)["constant"]
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

    again = start(tmp_path)
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert output.count("already finished") == 1
    assert before == {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    assert all(json.loads((f / "results.json").read_text())["finished"] for f in folders(tmp_path).values())

    repeated = start(tmp_path)
    output, errors = repeated.communicate()
    assert repeated.returncode == 0, errors
    assert output.count("already finished") == 2


def test_failing_jobs_neither_stop_the_others_nor_hide(tmp_path):
    sweep = start(tmp_path, "lr.value=1e30,1e-3,1e29", "schedule=constant", "train.steps=30")
    output, errors = sweep.communicate()
    assert sweep.returncode == 1
    assert output.count("not finite at step") == 2
    assert "Traceback" not in errors
    runs = {p.parent: json.loads(p.read_text()) for p in (tmp_path / "out puts").rglob("results.json")}
    finished = {folder for folder, results in runs.items() if results["finished"]}
    assert len(runs) == 3
    assert len(finished) == 1
    assert all("not finite" in (failed / "train.log").read_text() for failed in set(runs) - finished)
