"""Checkpoints: written whole or not at all, read without executing anything that is in them."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvae import __version__
from cvae.config.load import identity
from cvae.errors import CheckpointError
from cvae.io import write_atomically
from cvae.models.normalisation import without_running_values

log = logging.getLogger("cvae")

FORMAT = 1


def save(path: Path, content: dict[str, Any], keep: bool = False) -> None:
    """Writes plain containers and tensors, so that `path` is always a complete file.

    With `keep` the file that stood there before becomes the previous one. Raises OSError, with the old file
    still in its place, where the new one cannot be written.
    """
    whole = io.BytesIO()  # torch's own writer ends in C++ on a full disk
    torch.save({"format": FORMAT, "version": __version__, **content}, whole)
    write_atomically(path, whole.getbuffer(), previous(path) if keep else None)


def previous(path: Path) -> Path:
    """Where the file goes that a newer one takes the place of."""
    return path.with_name(path.name.replace("last", "previous"))


def latest(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """What `path` holds or, where it cannot be used, what the previous file does; None where neither is.

    Raises CheckpointError where there are files and none can be used to go on with this run.
    """
    refusal = None
    for candidate in (path, previous(path)):
        if candidate.exists():
            try:
                found = load(candidate, config)
                if "optimizer" not in found:
                    raise CheckpointError(f"{candidate} has weights only: training cannot go on from it")
            except CheckpointError as error:
                refusal = refusal or error
                continue
            if refusal is not None:
                log.warning(f"warning: {refusal}; going on from {candidate.name}, step {found['step']}")
            return found
    if refusal is not None:
        raise refusal
    return None


def restore(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Gives a model its weights. Raises CheckpointError for those of another model."""
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has the weights of another model: {_first(error)}") from None


def _first(error: Exception) -> str:
    """The first thing that torch names below its headline."""
    return " ".join(str(error).split("\n\t")[:2][-1].split())


def load(path: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content, tensors on the CPU; with `config` it must be that run's.

    Raises CheckpointError naming the file and what is wrong with it. The zip's checksums come first: torch
    reads a file with flipped bits without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} does not match its checksum")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # what other programs pack, zipfile refuses in many ways
        raise CheckpointError(f"{path} is not a usable checkpoint: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the bytes of a stranger lead to; torch's advice is to execute them
        raise CheckpointError(
            f"{path} is not a usable checkpoint: it holds other things than weights and plain values"
        ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        written = found.get("version", "?") if isinstance(found, dict) else "?"
        raise CheckpointError(
            f"{path} was written in another format, by cvae {written}; this is cvae {__version__}"
        )
    if config is not None and identity(found.get("config", {})) != identity(config):
        raise CheckpointError(f"{path} is of another run: its configuration is not the folder's")
    if isinstance(found.get("model"), dict) and without_running_values(found["model"]):
        log.warning(
            f"warning: {path} holds running statistics of model.batch_norm, which lag the encoder: those of"
            " the training sentences under its weights take their place"
        )
    return found
