"""Word vectors in the text format of GloVe, word2vec and fastText: a word and its numbers a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvae.data.text import MARK, Vocabulary
from cvae.errors import UserError

Vectors = tuple[np.ndarray, np.ndarray]  # of words [V, D], and which words [V] have one


def read(path: Path, vocabulary: Vocabulary) -> Vectors:
    """The vectors [V, D] of a vocabulary, and which words [V] the file has; the others are 0.

    The first line may be word2vec's, two whole numbers: how many words there are, and D. Raises UserError
    naming the file, and the line, for what cannot be used.
    """
    if not path.is_file():
        raise UserError(f"no word vectors at {path}: it must be a file in GloVe's or word2vec's text format")
    rows: dict[int, np.ndarray] = {}
    width, promised, number = 0, None, 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            word, *values = line.replace(MARK, "").rstrip("\n ").split(" ")
            if number == 1 and len(values) == 1 and word.isdecimal() and values[0].isdecimal():
                promised, width = int(word), int(values[0])
                continue
            width = width or len(values)
            row = _numbers(values) if word in vocabulary.index else None
            if not len(values) == width > 1 or (row is not None and not np.isfinite(row).all()):
                raise UserError(f"{path}, line {number}: a word and {max(width, 2)} numbers expected")
            if row is not None:
                rows[vocabulary.index[word]] = row
    if promised is not None and promised != number - 1:
        raise UserError(
            f"{path} has {number - 1:,} words, and its first line says {promised:,}: is it whole?"
        )
    if not rows:
        raise UserError(f"{path} has none of the {len(vocabulary):,} words")
    found = np.zeros((len(vocabulary), width), np.float32)
    found[list(rows)] = list(rows.values())
    return found, found.any(1)


def _numbers(values: Sequence[str]) -> np.ndarray:
    """NaN where one of them is no number."""
    try:
        return np.array(values, np.float32)
    except ValueError:
        return np.array(np.nan)


CONTEXTS, REACH, WIDTH = 1000, 5, 100  # words that count as company, places to either side, dimensions
SMOOTHING = 0.75  # the exponent that makes rare company count less (Levy et al. 2015)


def cooccurrence(sentences: Sequence[Sequence[int]], words: int, specials: int) -> Vectors:
    """Vectors [V, D] of words by the company they keep, and which words [V] have one; no download needed.

    Positive pointwise mutual information with the commonest words, at most REACH places away in a sentence,
    reduced by a truncated SVD; U √Σ as in Levy et al. (2015). The first `specials` words have none.
    """
    last = min(specials + CONTEXTS, words)
    flat = np.concatenate([[*sentence, *[0] * REACH] for sentence in sentences]).astype(np.int64)
    pairs = np.zeros((words, last))
    for distance in range(1, REACH + 1):
        for near, far in ((flat[:-distance], flat[distance:]), (flat[distance:], flat[:-distance])):
            inside = (near >= specials) & (far >= specials) & (far < last)
            met = np.bincount(near[inside] * last + far[inside], minlength=words * last)
            pairs += met.reshape(words, last)
    company = pairs.sum(0) ** SMOOTHING
    expected = pairs.sum(1, keepdims=True) * (company / max(company.sum(), 1))
    ratio = np.divide(pairs, expected, out=np.ones_like(pairs), where=pairs > 0)
    positive = np.log(ratio).clip(min=0)
    _, axes = np.linalg.eigh(positive.T @ positive)
    axes = axes[:, : -WIDTH - 1 : -1]
    lengths = np.linalg.norm(positive @ axes, axis=0)
    found = (positive @ axes) / np.sqrt(lengths.clip(min=1e-12))
    return found.astype(np.float32), positive.any(1)
