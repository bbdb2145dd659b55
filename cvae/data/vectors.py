"""Word vectors in GloVe's text format: a word and its numbers a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cvae.data.text import Vocabulary
from cvae.reading import UserError


def read(path: Path, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """The vectors [V, D] of a vocabulary, and which words [V] the file has; the others are 0.

    Raises UserError naming the file, and the line, for what cannot be used.
    """
    if not path.is_file():
        raise UserError(f"no word vectors at {path}: it must be a file in GloVe's text format")
    rows: dict[int, np.ndarray] = {}
    width = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            word, *values = line.rstrip("\n ").split(" ")
            width = width or len(values)
            try:
                row = np.array(values, np.float32)
            except ValueError:
                row = np.empty(0)
            if not len(row) == width > 1 or not np.isfinite(row).all():
                raise UserError(f"{path}, line {number}: a word and {max(width, 2)} numbers expected")
            if word in vocabulary.index:
                rows[vocabulary.index[word]] = row
    if not rows:
        raise UserError(f"{path} has none of the {len(vocabulary):,} words")
    found = np.zeros((len(vocabulary), width), np.float32)
    found[list(rows)] = list(rows.values())
    return found, found.any(1)
