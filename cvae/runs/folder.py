"""The folder is the run: whose it is, how far it has come, and what is written there. Torch-free."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout

from cvae.config.load import completed, load
from cvae.config.schema import ARCHITECTURE, Config, Files, reported
from cvae.errors import FolderError, UserError
from cvae.io import located, not_numbers, read_json, write_atomically
from cvae.runs.lock import FolderLock

RECORD_FORMAT = 1
ERROR = "error.txt"
WEIGHTS = "model.safetensors"  # in place of checkpoints where a run was exported
# what an exported model is read from; beside these it has a README.md
EXPORTED = ["run.json", "results.json", "vocabulary.txt", "tokenizer.json", ARCHITECTURE, WEIGHTS]
# all that a run leaves beside .hydra
FILES = [ERROR, "run.json", "results.json", "diverged.json", "vocabulary.txt", "samples.md", "accuracy.md"]
FILES += ["train.log", "*.jsonl", "checkpoint_*.pt", "events.out.tfevents.*", "projector_*", "*.png"]
FILES += ["tokenizer.json", ARCHITECTURE, "tracker.json", "*.tmp"]


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with null for numbers that are not finite, such as exp of a large KL."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def described(error: Exception) -> str:
    """Return an error as text: a UserError or OSError is a sentence, another is followed by its traceback."""
    if isinstance(error, UserError | OSError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}".rstrip()


class RunFolder:
    """One run's folder: `run.json` says which run it is, `results.json` what came out."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lock = FolderLock(self.path)

    def __str__(self) -> str:
        with contextlib.suppress(ValueError):
            return str(self.path.resolve().relative_to(located(".").resolve()))
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any] | None:
        """The content of `run.json`, None for a folder without a run. Raises FolderError if unusable."""
        record = read_json(self / "run.json")
        if record is None:
            if (self / "checkpoint_last.pt").exists() or (self / "metrics.jsonl").exists():
                raise FolderError(f"{self} holds records of a run but no run.json that says of which")
            return None
        whole = all(isinstance(record.get(key, {}), dict) for key in ("config", "data"))
        if record.get("format") != RECORD_FORMAT or "config" not in record or not whole:
            raise FolderError(
                f"{self / 'run.json'} has format {record.get('format')!r} of cvae"
                f" {record.get('versions', {}).get('cvae', '?')}; this version reads format {RECORD_FORMAT}"
            )
        return record

    @property
    def results(self) -> dict[str, Any]:
        """The content of `results.json`, empty before the first result. Raises FolderError if broken."""
        results = read_json(self / "results.json") or {}
        if wrong := not_numbers(results, "step", "updates", "objective"):
            raise FolderError(f"{self / 'results.json'}: {wrong}")
        return results

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return bool(self.results.get("finished"))

    @property
    def state(self) -> str:
        """`done`, `running`, `failed`, `stopped` (it can continue) or `missing`."""
        if self.finished:
            return "done"
        if self.lock.busy:
            return "running"
        return "failed" if self.error else "stopped" if (self / "run.json").exists() else "missing"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return any((self / f"checkpoint_{name}.pt").exists() for name in ("last", "previous"))

    @property
    def exported(self) -> bool:
        """Whether this is a run for others to use: its weights are safetensors, and nothing else is read."""
        return (self / WEIGHTS).exists()

    @property
    def reported(self) -> Path:
        """The weights that the run's results and sentences are of; of an exported run those it has."""
        return self.weights(None)

    def weights(self, which: str | None) -> Path:
        """Return the path of the best or last weights, by default of the reported ones.

        Raises FolderError where the run was exported with others.
        """
        record = self.record or {}
        if not self.exported:
            return self / f"checkpoint_{which or reported(record.get('config', {}))}.pt"
        if which not in (None, record.get("checkpoint")):
            raise FolderError(
                f"{self} was exported with the {record.get('checkpoint')} weights, not the {which}"
            )
        return self / WEIGHTS

    def configuration(self, device: str, data: str | None = None, **task: Any) -> Config:
        """Return the run's configuration for this machine's device and data, with keys of its task changed.

        Raises FolderError where there is no run, UserError where `data` is absent or the data are generated.
        """
        if (record := self.record) is None:
            raise FolderError(f"{self} is not a run folder: it has no run.json")
        try:
            config = load(completed(record["config"]))
        except UserError as error:
            raise FolderError(f"{self / 'run.json'}: {'; '.join(str(error).splitlines())}") from None
        changed: dict[str, Any] = {"device": device, "task": dataclasses.replace(config.task, **task)}
        if data is not None:
            if not isinstance(config.dataset, Files):
                raise UserError(f"--data: the dataset {config.dataset.name} of this run is generated")
            if not located(data).exists():
                raise UserError(f"--data: there is no file or folder {data}")
            changed["dataset"] = dataclasses.replace(config.dataset, path=data)
        return dataclasses.replace(config, **changed)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock. Raises FolderError where another process does, or on an OSError."""
        try:
            with self.lock.held():
                yield
        except Timeout:
            raise FolderError(f"{self} is being written by another process") from None
        except OSError as error:
            raise FolderError(f"{self} cannot be written: {error.strerror}") from None

    def refuse_lost(self) -> None:
        """Raise FolderError where the folder was deleted, or replaced by another."""
        if self.lock.lost:
            raise FolderError(
                f"{self} cannot be written: it was deleted or replaced since this run began; nothing is saved"
            )

    def write_results(self, results: dict[str, Any]) -> None:
        """Write `results.json`. Raises FolderError where the folder was deleted or replaced."""
        self.refuse_lost()
        write_atomically(self / "results.json", json.dumps(finite(results), indent=1, allow_nan=False) + "\n")

    @property
    def error(self) -> str:
        """What ended the last start, with its traceback unless it is a sentence; empty for nothing."""
        with contextlib.suppress(OSError):
            return (self / ERROR).read_text(encoding="utf-8", errors="replace")
        return ""

    def fail(self, error: Exception) -> None:
        """Write what ends this start to train.log and to error.txt, where it stays until the next start."""
        if self.lock.lost:
            return
        text = described(error)
        with contextlib.suppress(OSError):  # a full disk must not hide the error
            self.path.mkdir(parents=True, exist_ok=True)
            with (self / "train.log").open("a", encoding="utf-8") as log:
                log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            write_atomically(self / ERROR, f"{text}\n")

    def clear(self) -> None:
        """Remove what a run leaves, and nothing else that may be in the folder."""
        for pattern in FILES:
            for path in self.path.glob(pattern):
                path.unlink()
        shutil.rmtree(self / ".hydra", ignore_errors=True)


def refuse_impossible(folder: RunFolder) -> None:
    """Raise FolderError where the folder cannot be made. Nothing is made: another process may be at it."""
    try:
        missing = [path for path in (folder.path, *folder.path.parents) if not _exists(path)]
        place = missing[-1].parent if missing else folder.path
        if not place.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if missing and not os.access(place, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        for path in missing:
            _exists(place / path.name)  # a name may be too long
    except OSError as error:
        raise FolderError(f"{folder} cannot be made: {error.strerror}") from None


def _exists(path: Path) -> bool:
    """Return whether there is anything of this name. Raises OSError for what no file can be called."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def discard_if_empty(folder: RunFolder) -> None:
    """Remove the folder, and the empty folders above it, that Hydra made for a refused run."""
    with contextlib.suppress(OSError):
        for path in (folder.path, *list(folder.path.parents)[:2]):
            path.rmdir()
