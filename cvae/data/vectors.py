"""Word vectors in the text format of GloVe, word2vec and fastText: a word and its numbers a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvae.data.vocabulary import BYTE_ORDER_MARK, Vocabulary
from cvae.errors import UserError

Vectors = tuple[np.ndarray, np.ndarray]  # of words [V, D], and which words [V] have one
CONTEXT_WORDS, REACH = 1000, 5  # commonest words that count as context, places to either side
DIMENSIONS = 100
SMOOTHING = 0.75  # exponent of the context counts (Levy et al. 2015)


def read(path: Path, vocabulary: Vocabulary) -> Vectors:
    """Return the vectors [V, D] of a vocabulary, 0 for words that the file lacks, and which words it has.

    The first line may be word2vec's: the number of words, and D. Raises UserError, naming the file and the
    line, for what cannot be used.
    """
    if not path.is_file():
        raise UserError(f"no word vectors at {path}: it must be a file in GloVe's or word2vec's text format")
    rows: dict[int, np.ndarray] = {}
    width, promised, number = 0, None, 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            word, *values = line.replace(BYTE_ORDER_MARK, "").rstrip("\n ").split(" ")
            if number == 1 and len(values) == 1 and word.isdecimal() and values[0].isdecimal():
                promised, width = int(word), int(values[0])
                continue
            width = width or len(values)
            if len(values) > width and np.isnan(_numbers(values[:-width])).any():
                continue  # a word with spaces in it, as ". . ." of GloVe: no vocabulary has one
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
    vectors = np.zeros((len(vocabulary), width), np.float32)
    vectors[list(rows)] = list(rows.values())
    return vectors, np.any(vectors, axis=1)


def _numbers(values: Sequence[str]) -> np.ndarray:
    """Return the numbers in float32, NaN where one of them is no number."""
    try:
        return np.array(values, np.float32)
    except ValueError:
        return np.array(np.nan)


def cooccurrence(sentences: Sequence[Sequence[int]], words: int, specials: int) -> Vectors:
    """Return vectors [V, D] of words by the words near them, and which words [V] have one; from no file.

    Positive pointwise mutual information with the commonest words at most REACH places away, reduced by a
    truncated SVD: U √Σ, as in Levy et al. (2015). The first `specials` words have none.
    """
    last = min(specials + CONTEXT_WORDS, words)
    flat = np.concatenate([[*sentence, *[0] * REACH] for sentence in sentences]).astype(np.int64)
    pairs = np.zeros((words, last))
    for distance in range(1, REACH + 1):
        for near, far in ((flat[:-distance], flat[distance:]), (flat[distance:], flat[:-distance])):
            inside = (near >= specials) & (far >= specials) & (far < last)
            counts = np.bincount(near[inside] * last + far[inside], minlength=words * last)
            pairs += counts.reshape(words, last)
    context = pairs.sum(0) ** SMOOTHING
    expected = pairs.sum(1, keepdims=True) * (context / max(context.sum(), 1))
    ratio = np.divide(pairs, expected, out=np.ones_like(pairs), where=pairs > 0)
    positive = np.log(ratio).clip(min=0)
    _, axes = np.linalg.eigh(positive.T @ positive)
    axes = axes[:, : -DIMENSIONS - 1 : -1]
    projected = positive @ axes
    lengths = np.linalg.norm(projected, axis=0)
    return (projected / np.sqrt(lengths.clip(min=1e-12))).astype(np.float32), positive.any(1)
