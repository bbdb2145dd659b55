"""Checkpoints: written whole or not at all, read without executing anything that is in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from cvae import __version__
from cvae.reading import UserError

FORMAT = 1


class CheckpointError(UserError):
    """A checkpoint cannot be used."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes plain containers and tensors, so that `path` is always a complete file."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        torch.save({"format": FORMAT, "version": __version__, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


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
