"""Checkpoints: written whole or not at all, read without executing anything that is in them."""

from __future__ import annotations

import io
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cvae import __version__
from cvae.reading import UserError

log = logging.getLogger("cvae")

FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint cannot be used."""


def save(path: Path, content: dict[str, Any], keep: bool = False) -> None:
    """Writes plain containers and tensors, so that `path` is always a complete file.

    With `keep` the file that stood there before becomes the previous one. Raises OSError, with the old file
    still in its place, where the new one cannot be written.
    """
    whole = io.BytesIO()  # torch's own writer ends in C++ on a full disk
    torch.save({"format": FORMAT, "version": __version__, **content}, whole)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(whole.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)  # a part of a checkpoint only fills the disk
        raise
    if keep and path.exists():
        path.replace(previous(path))
    draft.replace(path)


def previous(path: Path) -> Path:
    """Where the file goes that a newer one takes the place of."""
    return path.with_name(path.name.replace("last", "previous"))


def latest(path: Path) -> dict[str, Any] | None:
    """What `path` holds or, where it cannot be used, what the previous file does; None where neither is.

    Raises CheckpointError where there are files and none can be used.
    """
    refusal = None
    for candidate in (path, previous(path)):
        if candidate.exists():
            try:
                found = load(candidate)
            except CheckpointError as error:
                refusal = refusal or error
                continue
            if refusal is not None:
                log.warning(f"warning: {refusal}; going on from {candidate.name}, step {found['step']}")
            return found
    if refusal is not None:
        raise refusal
    return None


def load(path: Path) -> dict[str, Any]:
    """The content, tensors on the CPU. Raises CheckpointError naming the file and what is wrong with it.

    The zip's checksums come first: torch reads a file with flipped bits without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise CheckpointError(f"{path} is damaged: {broken} does not match its checksum")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} is not a usable checkpoint: {first}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        written = found.get("version", "?") if isinstance(found, dict) else "?"
        raise CheckpointError(
            f"{path} was written in another format, by cvae {written}; this is cvae {__version__}"
        )
    return found
