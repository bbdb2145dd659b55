"""JSON, and files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from hydra.utils import to_absolute_path

from cvae.errors import FolderError


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError, saying what is wrong, for any other text."""
    try:
        value = json.loads(text, parse_int=_whole)
        if b"\\ud" in (text.encode() if isinstance(text, str) else text).lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text has half a character in it, a surrogate without its other half") from None
    return value


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= 300 else float(digits)  # infinite, as 1e999 is


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None without a file. Raises FolderError for a broken file."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise FolderError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def sha256(path: Path) -> str:
    """Return the sha256 of a file, or of the names and sha256 of a folder's files. Raises OSError.

    An unchanged file is read once.
    """
    if path.is_dir():
        lines = [f"{sha256(file)} {file.name}" for file in sorted(path.iterdir()) if file.is_file()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_ctime_ns)


@functools.cache
def _sha256(path: Path, *stat: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | memoryview, previous: Path | None = None) -> None:
    """Write a file so that `path` always holds the complete old or the complete new content.

    The old file becomes `previous`. Raises OSError, with the old file still in place.
    """
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()  # an incomplete file only fills the disk
        raise
    if previous is not None and path.exists():
        path.replace(previous)
    draft.replace(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object as `write_atomically` does."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record as a line of JSON and flush it to the disk."""
    with path.open("ab") as file:
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def cut_unfinished(path: Path) -> None:
    """Remove an unfinished last line from a file of records."""
    if not path.exists():
        return
    whole, _, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        with path.open("ab") as file:
            file.truncate(len(whole) + 1 if whole else 0)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def not_numbers(record: dict[str, Any], *also: str) -> str:
    """Return what is wrong where a measure of a record, or a key of `also`, is neither number nor null."""
    for key, value in record.items():
        if ("/" in key or key in also) and not (value is None or is_number(value)):
            return f"{key} must be a number, found {str(value)[:40]!r}"
    return ""


def located(path: str) -> Path:
    """Return a path with `~` expanded, relative to the folder where the command was started.

    With hydra.job.chdir=true that is not the current folder.
    """
    given = Path(path).expanduser()
    absolute = Path(to_absolute_path(str(given)))
    return given if absolute == given.absolute() else absolute
