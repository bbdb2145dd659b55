"""The runs of a sweep: their plan, the state of each, the time left, and how they share the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cvae.io import read_json, write_json
from cvae.program import command_line
from cvae.runs.devices import cores, gpus
from cvae.runs.folder import ERROR, RunFolder
from cvae.runs.reader import below, read_metrics

PLAN = "sweep.json"
STATES = ("done", "running", "failed", "stopped", "missing")


@dataclass(frozen=True)
class Job:
    """One run of a sweep; `command` starts or continues it, empty where unknown."""

    folder: RunFolder
    command: str = ""

    @cached_property
    def state(self) -> str:
        """The state of its folder at the first look: see `RunFolder.state`."""
        return self.folder.state

    @cached_property
    def progress(self) -> tuple[int, int | None, float | None]:
        """Steps made, steps in all, and seconds per step; None where unknown yet."""
        results = self.folder.results
        step, total = results.get("step") or 0, results.get("updates")
        if self.state == "done":
            return step, total, results.get("time/training_seconds", 0.0) / max(1, step)
        records = read_metrics(self.folder / "metrics.jsonl")
        timed = [record for record in records if record["step"] and "time/seconds" in record]
        pace = timed[-1]["time/seconds"] / timed[-1]["step"] if timed else None
        return max([step, *(record["step"] for record in records)]), total, pace

    def __str__(self) -> str:
        first_line = self.folder.error.partition("\n")[0]
        details = {"failed": first_line, "missing": self.command}.get(self.state)
        if self.state in ("running", "stopped"):
            step, total, _ = self.progress
            details = f"{step:,} of {total:,} updates" if total else ""
        return f"{self.state} {self.folder}" + (f": {details}" if details else "")


def plan(jobs: Mapping[str, Sequence[str]]) -> None:
    """Add jobs, overrides by folder, to the sweep.json beside each folder, so that missing ones are known."""
    for parent in {Path(folder).parent for folder in jobs}:
        planned = {
            Path(folder).name: command_line("train", *overrides)
            for folder, overrides in jobs.items()
            if Path(folder).parent == parent
        }
        parent.mkdir(parents=True, exist_ok=True)
        write_json(parent / PLAN, (read_json(parent / PLAN) or {}) | planned)


def find_jobs(folders: Iterable[str | Path]) -> list[Job]:
    """Return every job planned, started or failed in or below `folders`, in the order of their paths."""
    commands: dict[Path, str] = {}
    for path in below(folders, "run.json"):
        commands[path.parent] = (read_json(path) or {}).get("command", "")
    for path in below(folders, ERROR):
        commands.setdefault(path.parent, "")
    for path in below(folders, PLAN):
        commands |= {path.parent / name: command for name, command in (read_json(path) or {}).items()}
    return [Job(RunFolder(folder), commands[folder]) for folder in sorted(commands)]


def counted(jobs: Sequence[Job]) -> str:
    """Return how many jobs are in each state, as in "3 done, 1 failed"."""
    states = [job.state for job in jobs]
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)


def seconds_left(jobs: Sequence[Job]) -> float | None:
    """Return the seconds until all jobs but failed ones are done, if as many run at once as now.

    A job without a pace or length of its own has the mean of the others'. None where nothing is known.
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
    """A multirun, from its plan to its summary.

    `jobs` are overrides by folder, none where the sweeper chooses them as it goes, below `place`. `launcher`
    is Hydra's.
    """

    place: Path
    device: str
    launcher: Mapping[str, Any]
    jobs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    jobs_per_gpu: int = 1

    def begin(self) -> None:
        """Write the plan, and divide the cores among the jobs that run at once on this machine."""
        plan(self.jobs)
        if (at_once := self._jobs_at_once()) > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // at_once)))

    def _jobs_at_once(self) -> int:
        """Return how many jobs run at once on this machine; below 2 they follow each other."""
        kind, count = self.launcher["_target_"].rpartition(".")[2], len(self.jobs) or cores()
        if kind == "JoblibLauncher":
            workers = self.launcher["n_jobs"]
            workers = workers if workers > 0 else cores() + 1 + workers
            shared = len(gpus()) * self.jobs_per_gpu if self.device != "cpu" else 0
            return min(count, workers, shared or count)
        return count if kind == "LocalLauncher" else 1

    def end(self) -> bool:
        """Print the state of the jobs; return whether all of them are done."""
        jobs = [Job(RunFolder(folder)) for folder in self.jobs]
        if not jobs and self.place.is_dir():
            jobs = find_jobs([self.place])
        print(f"{len(jobs)} runs: {counted(jobs)}")
        for job in jobs:
            if job.state != "done":
                print(job)
        return bool(jobs) and all(job.state == "done" for job in jobs)
