"""Texts as compact numbers in host memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae.data.parallel import in_chunks
from cvae.data.vocabulary import RESERVED, UNK, WHY_RESERVED, Vocabulary, words_of
from cvae.errors import UserError

TENSOR_TYPES = {"h": torch.int16, "i": torch.int32}  # by type code of an array


class Numbers(NamedTuple):
    """A split in host memory: flat tokens; of each sentence length, words and, if any, label; all `<unk>`."""

    tokens: Tensor
    lengths: np.ndarray
    words: np.ndarray
    labels: np.ndarray
    unknown: int

    @classmethod
    def of(
        cls,
        tokens: array,
        lengths: Sequence[int],
        words: Sequence[int] | None,
        labels: Sequence[int] | np.ndarray,
    ) -> Numbers:
        """Return numbers in the smallest types; by default a sentence's tokens are its words."""
        flat = torch.frombuffer(tokens, dtype=TENSOR_TYPES[tokens.typecode])
        sizes = compact(np.array(lengths))
        of_each = sizes - 2 if words is None else compact(np.array(words))
        return cls(flat, sizes, of_each, np.array(labels, dtype=np.int64), int((flat == UNK).sum()))


class Encoded(NamedTuple):
    """Sentences as numbers: their flat tokens and, of each, the length, the words and a hash of these."""

    tokens: array
    lengths: array
    words: array
    hashes: array

    @classmethod
    def empty(cls, types: int) -> Encoded:
        """Return no sentences, whose tokens are of so many types."""
        return cls(tokens_of(types), array("i"), array("i"), array("q"))


def tokens_of(types: int) -> array:
    """Return an empty array of the smallest integer type that holds the numbers of so many types."""
    return array("h" if types <= np.iinfo(np.int16).max else "i")


def compact(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of at least 0 in the smallest type of 16, 32 or 64 bits that holds them."""
    largest = int(numbers.max(initial=0))
    types = (np.int16, np.int32, np.int64)
    return numbers.astype(next(t for t in types if largest <= np.iinfo(t).max), copy=False)


def encode(vocabulary: Vocabulary, texts: Sequence[str]) -> Encoded:
    """Return texts as numbers. Raises UserError for a reserved word.

    Hashes compare within a process and those that it forks: Python salts them.
    """
    encoded = Encoded.empty(len(vocabulary))
    for text in texts:
        words = words_of(text)
        if reserved := RESERVED.intersection(words):
            raise UserError(f"{', '.join(sorted(reserved))} in a sentence: {WHY_RESERVED}")
        encoded.hashes.append(hash(tuple(words)))
        encoded.words.append(len(words))
    for sentence in vocabulary.encode_texts(texts):
        encoded.tokens.fromlist(sentence)
        encoded.lengths.append(len(sentence))
    return encoded


def encode_all(vocabulary: Vocabulary, texts: Iterable[str]) -> Encoded:
    """Return all texts of a split as numbers, by several processes where there are many."""
    encoded = Encoded.empty(len(vocabulary))
    processes = 1 if vocabulary.threaded else None
    for part in in_chunks(partial(encode, vocabulary), texts, processes):
        for whole, more in zip(encoded, part, strict=True):
            whole.extend(more)
    return encoded
