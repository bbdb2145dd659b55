"""The folder is the run: whose it is, whether it is finished, and who may write to it now. Torch-free."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import subprocess
import time
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cvae import __version__
from cvae.config.load import completed, identity, load
from cvae.config.schema import Config, reported
from cvae.errors import FolderError, UserError
from cvae.io import located, not_numbers, read_json, write_atomically
from cvae.runs import fingerprints

FORMAT = 1
ERROR = "error.txt"
OURS = (
    "run.json",
    "results.json",
    ERROR,
    "*.jsonl",
    "checkpoint_*.pt",
    "vocabulary.txt",
    "samples.md",
    "accuracy.md",
    "diverged.json",
    "train.log",
    "events.out.tfevents.*",
    "*.png",
    "projector_*",
    "*.tmp",
)


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with null for numbers that are not finite, such as exp of a large KL."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


class RunFolder:
    """One run's folder: `run.json` says whose it is, `results.json` what came out."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    def __str__(self) -> str:
        with contextlib.suppress(ValueError):
            return str(self.path.resolve().relative_to(located(".").resolve()))
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any] | None:
        """What `run.json` holds, None for a folder without a run. Raises FolderError if unusable."""
        found = read_json(self / "run.json")
        if found is None:
            if (self / "checkpoint_last.pt").exists() or (self / "metrics.jsonl").exists():
                raise FolderError(f"{self} holds records of a run but no run.json that says of which")
            return None
        whole = all(isinstance(found.get(key, {}), dict) for key in ("config", "data"))
        if found.get("format") != FORMAT or "config" not in found or not whole:
            raise FolderError(
                f"{self / 'run.json'} has format {found.get('format')!r} of cvae"
                f" {found.get('versions', {}).get('cvae', '?')}; this version reads format {FORMAT}"
            )
        return found

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return any((self / f"checkpoint_{name}.pt").exists() for name in ("last", "previous"))

    @property
    def reported(self) -> Path:
        """The checkpoint whose numbers and sentences the run's results are, as its task says."""
        return self / f"checkpoint_{reported(self.record['config'])}.pt"

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds so far; empty before the first result. FolderError where broken."""
        found = read_json(self / "results.json") or {}
        if wrong := not_numbers(found, "step", "updates", "objective"):
            raise FolderError(f"{self / 'results.json'}: {wrong}")
        return found

    @property
    def error(self) -> str:
        """The first line of what ended the last start, empty where nothing did."""
        return self.error_text.partition("\n")[0]

    @property
    def error_text(self) -> str:
        """All of it, with its traceback where it is no sentence."""
        try:
            return (self / ERROR).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    @property
    def busy(self) -> bool:
        """Whether a process is writing to the folder now."""
        if not (self / ".lock").exists():
            return False
        try:
            with FileLock(self / ".lock", timeout=0):
                return False
        except Timeout:
            return True

    @property
    def state(self) -> str:
        """`done`, `running`, `failed`, `stopped` (it can go on) or `missing`."""
        if self.results.get("finished"):
            return "done"
        if self.busy:
            return "running"
        return "failed" if self.error else "stopped" if (self / "run.json").exists() else "missing"

    def configuration(self, device: str, data: str | None = None, **task: Any) -> Config:
        """The run's own, on this machine's device and data location, with some of the task's keys changed.

        Raises FolderError where there is no run, UserError where its data are generated and `data` is given.
        """
        if (record := self.record) is None:
            raise FolderError(f"{self} is not a run folder: it has no run.json")
        try:
            config = load(completed(record["config"]))
        except UserError as error:
            raise FolderError(f"{self / 'run.json'}: {'; '.join(str(error).splitlines())}") from None
        changed: dict[str, Any] = {"device": device, "task": dataclasses.replace(config.task, **task)}
        if data is not None:
            if not hasattr(config.dataset, "path"):
                raise UserError(f"--data: the dataset {config.dataset.name} of this run is generated")
            changed["dataset"] = dataclasses.replace(config.dataset, path=data)
        return dataclasses.replace(config, **changed)

    def refuse_as_source(self, config: Config) -> None:
        """Raises FolderError where `init_from` is this folder and no finished run that fits is in it.

        What is only classified must have been pre-trained as this run says.
        """
        if (record := self.record) is None or not self.results.get("finished"):
            raise FolderError(f"init_from={self} is not the folder of a finished run")
        if not self.reported.exists():
            raise FolderError(f"init_from={self} was not trained: it has no {self.reported.name}")
        for group in () if config.pretrains else ("task", "model", "schedule"):
            there, here = record["config"][group]["name"], config.container[group]["name"]
            if there != here:
                raise FolderError(
                    f"init_from={self} was run with {group}={there}, and this run has {group}={here}"
                )

    def refuse_other(self, config: Config) -> None:
        """Raises FolderError, naming the keys or files that differ, where the folder holds another run."""
        if config.overwrite or (record := self.record) is None:
            return
        there, here = identity(record["config"]), identity(config.container)
        differing = [
            f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
            for key in sorted(there.keys() | here.keys())
            if there.get(key, "absent") != here.get(key, "absent")
        ]
        if differing:
            raise FolderError(
                f"{self} holds a different run: {'; '.join(differing)}."
                " Give this one another name=…, or overwrite=true to lose that one"
            )
        self.refuse_other_data(
            fingerprints.corpus(config) | fingerprints.others(config),
            "; give a run on these another name=…, or overwrite=true to lose that one",
        )

    def refuse_other_data(self, data: fingerprints.Prints, advice: str = "") -> None:
        """Raises FolderError where fingerprints are not those the run began with; None passes.

        So does what runs did not record at first and this one has not.
        """
        before = (self.record or {}).get("data", {})
        changed = [
            name
            for name, digest in data.items()
            if digest is not None
            and digest != before.get(name, digest if name in fingerprints.CAME_LATER else "")
        ]
        if changed:
            files = " and ".join(changed)
            raise FolderError(f"{self} was trained on other data: {files} changed since{advice}")

    def unchecked(self, data: fingerprints.Prints) -> str:
        """Which files cannot be compared with those that the run read, and why; empty for none."""
        before = (self.record or {}).get("data", {})
        absent = [name for name, digest in data.items() if digest is None]
        unknown = [name for name, digest in data.items() if digest is not None and name not in before]
        told = [f"{', '.join(absent)} not on this machine"] * bool(absent)
        told += [f"{', '.join(unknown)} not in its run.json"] * bool(unknown)
        return f"corpus not checked: {'; '.join(told)}" if told else ""

    def answers(self, config: Config) -> bool:
        """Whether the run is finished and the command has nothing to do but say so."""
        return not config.overwrite and bool(self.results.get("finished"))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out; the system drops the lock of a process that dies."""
        lock = FileLock(self / ".lock", timeout=1)  # longer than `busy` takes to look
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            self._lock = (self / ".lock").stat().st_ino
        except Timeout:
            raise FolderError(f"{self} is being written by another process") from None
        except OSError as error:
            raise FolderError(f"{self} cannot be written: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()
            self._lock = None

    @property
    def lost(self) -> bool:
        """Whether this process holds the lock of a folder that is not the one of this path any more."""
        try:
            return self._lock is not None and self._lock != (self / ".lock").stat().st_ino
        except OSError:
            return True

    def refuse_lost(self) -> None:
        """Raises FolderError where the folder was deleted, or another one stands in its place."""
        if self.lost:
            raise FolderError(
                f"{self} cannot be written: it was deleted or replaced since this run began; nothing is saved"
            )

    def refuse_impossible(self) -> None:
        """Raises FolderError where the folder cannot be made; leaves nothing behind."""
        missing = []
        try:
            missing += [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"{self} cannot be made: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                for path in missing:
                    path.rmdir()

    def clear(self) -> None:
        """Removes what a run leaves, and nothing else that may be in the folder."""
        for pattern in OURS:
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self / ".hydra", ignore_errors=True)

    def describe(self, config: Config, command: str, data: fingerprints.Prints) -> None:
        """Writes `run.json`: all that is needed to repeat the run. Raises FolderError on other data."""
        if self.record is not None:
            self.refuse_other_data(data)
            return
        about = {
            "format": FORMAT,
            "config": config.container,
            "command": command,
            "versions": versions(),
            "git": git_commit(),
            "data": {name: digest for name, digest in data.items() if digest is not None},
        }
        write_atomically(self / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def write_diverged(self, about: dict[str, Any]) -> None:
        """Writes `diverged.json`: where a number was not finite, and the sentences that led to it."""
        write_atomically(self / "diverged.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")

    def finish(self, results: dict[str, Any]) -> None:
        """Writes `results.json`. Raises FolderError where the folder is not there any more."""
        self.refuse_lost()
        write_atomically(self / "results.json", json.dumps(finite(results), indent=1, allow_nan=False) + "\n")

    def fail(self, error: Exception) -> None:
        """Leaves what ended this start in train.log and, until the next one, in error.txt.

        A UserError or OSError is a sentence; anything else is followed by its traceback.
        """
        text = str(error) or type(error).__name__
        if not isinstance(error, UserError | OSError):
            text = f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}".rstrip()
        if self.lost:
            return
        with contextlib.suppress(OSError):  # a full disk must not hide what happened
            self.path.mkdir(parents=True, exist_ok=True)
            with (self / "train.log").open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            write_atomically(self / ERROR, f"{text}\n")

    def discard_if_empty(self) -> None:
        """Removes the folder, and the empty folders above it, that Hydra made for a refused run."""
        with contextlib.suppress(OSError):
            for path in (self.path, *list(self.path.parents)[:2]):
                path.rmdir()


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    import platform

    names = ("torch", "numpy", "hydra-core", "datasets", "scikit-learn", "sacrebleu")
    found = {"python": platform.python_version(), "cvae": __version__}
    return found | {name: metadata.version(name) for name in names}


def git_commit() -> str | None:
    """The commit of this source tree, with `+` where it has uncommitted changes; None outside git."""
    root = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", at=root)
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no", at=root) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str, at: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout.strip()
