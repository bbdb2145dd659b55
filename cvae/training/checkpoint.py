"""Checkpoints: written whole or not at all, read without executing anything in them."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvae import __version__
from cvae.config.load import identity
from cvae.errors import CheckpointError, in_a_line
from cvae.io import read_json, write_atomically
from cvae.models.normalisation import without_running_values

log = logging.getLogger("cvae")

CHECKPOINT_FORMAT = 1


def save(path: Path, content: dict[str, Any], keep: bool = False) -> None:
    """Write plain containers and tensors, so that `path` is a complete file at any time.

    With `keep` the old file becomes the previous checkpoint. Raises OSError, with the old file still in
    place, where the new one cannot be written.
    """
    buffer = io.BytesIO()  # torch's own file writer aborts in C++ on a full disk
    torch.save({"format": CHECKPOINT_FORMAT, "version": __version__, **content}, buffer)
    write_atomically(path, buffer.getbuffer(), previous(path) if keep else None)


def save_last(path: Path, content: dict[str, Any], count: int | None) -> None:
    """Write the last checkpoint; keep the one before, and `count` older ones (`retire`)."""
    if count != 0:
        retire(previous(path), count, content["step"])
    save(path, content, keep=True)


def previous(path: Path) -> Path:
    """Return the path of the previous checkpoint, kept until a newer one is complete."""
    return path.with_name(path.name.replace("last", "previous"))


def retire(path: Path, count: int | None, step: int) -> None:
    """Rename a checkpoint that is about to be replaced to checkpoint_<its step>.pt.

    Of those so named before `step` the `count` newest stay, all where that is null.
    """
    with suppress(Exception):  # an unusable one is left to be replaced
        own = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["step"]
        path.replace(path.with_name(f"checkpoint_{own:d}.pt"))
    if count is None:
        return
    numbers = (file.stem.removeprefix("checkpoint_") for file in path.parent.glob("checkpoint_*.pt"))
    earlier = sorted(int(number) for number in numbers if number.isdecimal() and int(number) < step)
    for number in earlier[: max(0, len(earlier) - count)]:
        path.with_name(f"checkpoint_{number}.pt").unlink()


def latest(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the content of `path`, or of the previous checkpoint if `path` is unusable; None without files.

    Raises CheckpointError where this run can continue from neither.
    """
    refusal = None
    for candidate in filter(Path.exists, (path, previous(path))):
        try:
            content = load(candidate, config)
            if "optimizer" not in content:
                raise CheckpointError(f"{candidate} has weights only: training cannot continue from it")
        except CheckpointError as error:
            refusal = refusal or error
            continue
        if refusal is not None:
            log.warning(f"warning: {refusal}; continuing from {candidate.name}, step {content['step']}")
        return content
    if refusal is not None:
        raise refusal
    return None


def restore(module: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Load weights into a model; `path` names their file. Raises CheckpointError if they do not fit."""
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        # torch lists the mismatches below a headline
        first = " ".join(str(error).split("\n\t")[:2][-1].split())
        raise CheckpointError(f"{path} has the weights of another model: {first}") from None


def load(path: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of a checkpoint, tensors on the CPU; with `config` it must be that run's.

    Safetensors are weights only. Raises CheckpointError with the file and what is wrong with it.
    """
    if path.suffix == ".safetensors":
        return {"model": _safetensors(path)}
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # any error that foreign bytes cause; torch's message advises to execute them
        raise CheckpointError(
            f"{path} is not a usable checkpoint: it holds other things than weights and plain values"
        ) from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        version = content.get("version", "?") if isinstance(content, dict) else "?"
        raise CheckpointError(
            f"{path} was written in another format, by cvae {version}; this is cvae {__version__}"
        )
    if config is not None and identity(content.get("config", {})) != identity(config):
        raise CheckpointError(f"{path} is of another run: its configuration is not the folder's")
    if isinstance(content.get("model"), dict) and without_running_values(content["model"]):
        log.warning(
            f"warning: {path} holds running statistics of model.batch_norm, which lag the encoder; they are"
            " replaced by the statistics of the training sentences under its weights"
        )
    return content


def _safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a file. Raises CheckpointError unless all of it is there."""
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        weights = load(content)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # of Rust, and for types that torch lacks
        raise CheckpointError(f"{path} is no usable file of safetensors: {in_a_line(error)}") from None
    digest = (read_json(path.with_name("run.json")) or {}).get("weights")
    if digest not in (None, hashlib.sha256(content).hexdigest()):
        raise CheckpointError(f"{path} has changed: its sha256 is not the one in run.json")
    return weights


def _check_archive(path: Path) -> None:
    """Raise CheckpointError unless the zip's checksums are right: torch reads flipped bits silently."""
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"{broken} does not match its checksum")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # zipfile refuses other programs' archives in many ways
        raise CheckpointError(f"{path} is not a usable checkpoint: {in_a_line(error)}") from None
