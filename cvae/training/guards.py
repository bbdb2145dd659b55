"""What surrounds a run: its log file, and errors of its disk in one sentence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cvae.errors import FolderError
from cvae.runs.folder import RunFolder

log = logging.getLogger("cvae")


@contextmanager
def disk_errors(folder: RunFolder) -> Iterator[None]:
    """Turn an OSError into a FolderError that says what is saved: a full disk, a limit, a deleted folder."""
    hook = threading.excepthook
    # TensorBoard's writing thread would print a traceback of an error that is raised here, too
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else hook(args)
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        kept = [name for name in ("last", "previous") if (folder / f"checkpoint_{name}.pt").exists()]
        state = (
            f"checkpoint_{kept[0]}.pt is intact: the same command continues from it"
            if kept
            else "nothing is saved"
        )
        raise FolderError(f"{folder} cannot be written: {what}{error.strerror or error}; {state}") from None
    finally:
        threading.excepthook = hook


@contextmanager
def log_file(folder: RunFolder) -> Iterator[None]:
    """Write what the run logs to train.log too, and the error that ends it also to error.txt."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    # a full disk is reported by what cannot be saved
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        folder.fail(error)
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # of a full disk
            handler.close()
