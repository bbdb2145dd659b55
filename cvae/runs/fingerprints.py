"""The files that a run reads and their fingerprints: a run is its corpus, too. Torch-free.

run.json keeps the sha256 of each: of the corpora by split (and class), of every other file by the key that
names it.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from cvae.config.schema import Config, Files

BESIDE = ("task.references", "task.vectors", "model.vectors")  # keys of files that may lie beside the data
SOURCE = "init_from"
# what runs did not record at first: where it is absent nothing is known of it
CAME_LATER = (*BESIDE, SOURCE)

Prints = dict[str, str | None]  # None: the file is not on this machine


def corpus(config: Config) -> Prints:
    """Of the files of a data set; a generated one has none, and its configuration says what it is."""
    files = config.dataset.files() if isinstance(config.dataset, Files) else {}
    return {name: fingerprint(path) for name, path in files.items()}


def others(config: Config) -> Prints:
    """Of what a run reads beside its corpus: references, word vectors, the weights it starts from."""
    found = {}
    for key in BESIDE:
        group, _, last = key.partition(".")
        if (name := getattr(getattr(config, group), last, None)) is not None:
            found[key] = fingerprint(config.beside_data(name))
    if config.init_from is not None:
        found[SOURCE] = fingerprint(config.source / f"checkpoint_{config.task.reported}.pt")
    return found


def fingerprint(path: Path) -> str | None:
    """The sha256 of a file, None where it cannot be read; a file that has not changed is read once."""
    try:
        about = path.stat()
        return _fingerprint(path, about.st_ino, about.st_size, about.st_ctime_ns)
    except OSError:
        return None


@functools.cache
def _fingerprint(path: Path, *identity: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
