"""Fingerprints of the files that a run reads: its corpus is part of what it is. Torch-free.

run.json keeps the sha256 of each file: of the corpus by split (and class), of others by the key that names
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cvae.config.schema import Config, Files
from cvae.io import located, sha256
from cvae.runs import hub
from cvae.runs.folder import WEIGHTS

BESIDE = ("task.references", "task.vectors", "model.vectors")  # keys of files that may lie beside the data
PRETRAINED = ("model.decoder", "model.encoder")  # of model=pretrained: checkpoints

Fingerprints = Mapping[str, str | None]  # None: the file is not on this machine


def of_config(config: Config) -> Fingerprints:
    """Return the fingerprints of all files that a configuration names."""
    return {**corpus(config), **others(config)}


def corpus(config: Config) -> Fingerprints:
    """Return those of the corpus; none for a generated one, which its configuration determines."""
    files = config.dataset.files() if isinstance(config.dataset, Files) else {}
    return {name: fingerprint(path) for name, path in files.items()}


def others(config: Config) -> Fingerprints:
    """Return those of references, word vectors, the tokenizer, and checkpoints that the run starts from."""
    prints = {}
    for key in BESIDE:
        group, _, last = key.partition(".")
        if (name := getattr(getattr(config, group), last, None)) is not None:
            prints[key] = fingerprint(config.beside_data(name))
    if (tokenizer := getattr(config.dataset, "tokenizer", None)) is not None:
        prints["dataset.tokenizer"] = fingerprint(located(tokenizer))
    for key in PRETRAINED:
        if (name := getattr(config.model, key.removeprefix("model."), None)) and isinstance(name, str):
            prints[key] = fingerprint(hub.cached(name))
    if config.init_from is not None:
        weights = f"checkpoint_{config.task.reported}.pt"
        source = hub.cached(config.init_from)
        prints["init_from"] = fingerprint(source / WEIGHTS) or fingerprint(source / weights)
    if config.continue_from is not None:
        prints["continue_from"] = fingerprint(config.source / "checkpoint_last.pt")
    return prints


def fingerprint(path: Path) -> str | None:
    """Return the sha256 of a file, None where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return None
