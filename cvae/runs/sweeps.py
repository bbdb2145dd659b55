"""The runs of a sweep: the plan it leaves beside their folders, what became of each, and when it will end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cvae.io import read_json, write_atomically
from cvae.program import command_line
from cvae.runs.folder import ERROR, RunFolder
from cvae.runs.reader import below, read_metrics

PLAN = "sweep.json"
STATES = ("done", "running", "failed", "stopped", "missing")


@dataclass(frozen=True)
class Job:
    """One run of a sweep; `command` starts it or goes on with it, empty where nothing says it."""

    folder: RunFolder
    command: str = ""

    @cached_property
    def state(self) -> str:
        """As of the first look: see `RunFolder.state`."""
        return self.folder.state

    @cached_property
    def progress(self) -> tuple[int, int | None, float | None]:
        """Updates made, of how many, and the seconds that one takes; None where nothing says it yet."""
        results = self.folder.results
        step, total = results.get("step") or 0, results.get("updates")
        if self.state == "done":
            return step, total, results.get("time/training_seconds", 0.0) / max(1, step)
        records = read_metrics(self.folder / "metrics.jsonl")
        timed = [record for record in records if record["step"] and "time/seconds" in record]
        pace = timed[-1]["time/seconds"] / timed[-1]["step"] if timed else None
        return max([step, *(record["step"] for record in records)]), total, pace

    def __str__(self) -> str:
        said = {"failed": self.folder.error, "missing": self.command}.get(self.state, "")
        if self.state in ("running", "stopped"):
            step, total, _ = self.progress
            said = f"{step:,} of {total:,} updates" if total else ""
        return f"{self.state} {self.folder}" + (f": {said}" if said else "")


def plan(jobs: Mapping[str, Sequence[str]]) -> None:
    """Adds jobs, overrides by folder, to the sweep.json beside each folder: how missing ones are known."""
    for parent in {Path(folder).parent for folder in jobs}:
        own = {
            Path(folder).name: command_line("train", *overrides)
            for folder, overrides in jobs.items()
            if Path(folder).parent == parent
        }
        parent.mkdir(parents=True, exist_ok=True)
        known = read_json(parent / PLAN) or {}
        write_atomically(parent / PLAN, json.dumps(known | own, indent=1, ensure_ascii=False) + "\n")


def find_jobs(folders: Iterable[str | Path]) -> list[Job]:
    """Every job planned, started or failed in or below `folders`, in the order of their paths."""
    found: dict[Path, str] = {}
    for path in below(folders, "run.json"):
        found[path.parent] = (read_json(path) or {}).get("command", "")
    for path in below(folders, ERROR):
        found.setdefault(path.parent, "")
    for path in below(folders, PLAN):
        found |= {path.parent / name: command for name, command in (read_json(path) or {}).items()}
    return [Job(RunFolder(folder), found[folder]) for folder in sorted(found)]


def counted(jobs: Sequence[Job]) -> str:
    """How many jobs there are in each state."""
    states = [job.state for job in jobs]
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)


def seconds_left(jobs: Sequence[Job]) -> float | None:
    """Until all but failed ones are done, if as many go on at once as do now; None where nothing tells.

    A job's pace is its own, or where it has none the mean of the others'; its length likewise.
    """
    paces = [pace for job in jobs if (pace := job.progress[2])]
    totals = [total for job in jobs if (total := job.progress[1])]
    running = [job for job in jobs if job.state == "running"]
    if not (running and paces and totals):
        return None

    def left(job: Job) -> float:
        step, total, pace = job.progress
        return ((total or sum(totals) / len(totals)) - step) * (pace or sum(paces) / len(paces))

    pending = sum(left(job) for job in jobs if job.state not in ("done", "failed"))
    return max(pending / len(running), *(left(job) for job in running))


@dataclass(frozen=True)
class Sweep:
    """A multirun from its start to its last lines.

    `jobs` are overrides by folder; none where the sweeper chooses them on the way, below `place`. `launcher`
    is Hydra's.
    """

    place: Path
    device: str
    launcher: Mapping[str, Any]
    jobs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def begin(self) -> None:
        """Leaves the plan, and divides the cores among jobs that run at the same time on this machine."""
        plan(self.jobs)
        if (together := self._together()) > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // together)))

    def _together(self) -> int:
        """How many jobs run at the same time on this machine."""
        kind, count = self.launcher["_target_"].rpartition(".")[2], len(self.jobs) or cores()
        if kind == "JoblibLauncher":
            wish = self.launcher["n_jobs"]
            wish = wish if wish > 0 else max(1, cores() + 1 + wish)
            return min(count, wish, len(gpus()) or count if self.device != "cpu" else count)
        return count if kind == "LocalLauncher" else 1

    def end(self) -> bool:
        """Prints what became of the jobs; whether all of them are done."""
        jobs = [Job(RunFolder(folder)) for folder in self.jobs]
        if not jobs and self.place.is_dir():
            jobs = find_jobs([self.place])
        print(f"{len(jobs)} runs: {counted(jobs)}")
        for job in jobs:
            if job.state != "done":
                print(job)
        return bool(jobs) and all(job.state == "done" for job in jobs)


@contextmanager
def alone_on_gpu(device: str, launcher: Mapping[str, Any]) -> Iterator[None]:
    """In a joblib sweep, where there are GPUs: waits for one that no other job has, and torch sees no other.

    Once torch has begun, a process cannot change its GPU, so its later jobs wait for the same one.
    """
    mine = gpus() if launcher["_target_"].endswith("JoblibLauncher") and device != "cpu" else []
    while mine and (lock := _first_free(mine)) is None:
        time.sleep(1)
    with lock if mine else nullcontext():
        yield


def _first_free(choice: Sequence[str]) -> FileLock | None:
    """The lock of the first GPU that no other job has, the only one torch will see; None if all are taken."""
    for gpu in choice:
        lock = FileLock(Path(tempfile.gettempdir()) / f"cvae-{gpu}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return lock
    return None


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES or else nvidia-smi names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        given = ",".join(subprocess.run(query, capture_output=True, text=True).stdout.split())
    return [gpu for gpu in (given or "").split(",") if gpu]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
