"""Corpora that need no file: the paper's ten sequences, and a small grammar for tests and demos."""

from __future__ import annotations

import hashlib
import random

import torch

from cvae.config.schema import TinyData, ToyData
from cvae.data.text import Splits, splits
from cvae.data.vocabulary import Vocabulary

SentencesBySplit = dict[str, list[list[str]]]


def build(sentences: SentencesBySplit, device: torch.device) -> Splits:
    """Return the data set of generated sentences."""
    prints = {split: fingerprint(rows) for split, rows in sentences.items()}
    texts = {split: [" ".join(row) for row in rows] for split, rows in sentences.items()}
    return splits(texts, Vocabulary.of(sentences["train"]), device, prints)


def toy(config: ToyData) -> SentencesBySplit:
    """Return N sequences of N symbols: sequence n has a 1 at place n, else 0.

    The paper does not publish its sequences, only that there are ten: the bound is ln 10. train holds each of
    them `copies` times; val and test `draws` times, so that a validation averages over as many z.
    """
    size = config.sequences
    rows = [["1" if place == n else "0" for place in range(size)] for n in range(size)]
    counts = {"train": config.copies, "val": config.draws, "test": config.draws}
    return {split: [row for row in rows for _ in range(count)] for split, count in counts.items()}


_WORDS = {
    "D": ["the", "a", "every", "some", "this", "one"],
    "A": ["old", "small", "red", "quiet", "strange", "happy", "tired", "famous"],
    "N": ["dog", "child", "market", "river", "teacher", "company", "song", "house", "train", "king"],
    "V": ["sees", "likes", "follows", "finds", "paints", "remembers", "buys", "leaves"],
    "I": ["sleeps", "waits", "sings", "falls", "returns", "laughs"],
    "P": ["near", "behind", "without", "under", "after"],
    "R": ["slowly", "today", "again", "often", "together"],
    "C": ["and", "but", "while", "because"],
}
_RULES = {
    "S": ["NP VP", "NP VP", "NP VP C S"],
    "NP": ["D N", "D A N", "D N P D N"],
    "VP": ["V NP", "I", "I R", "V NP P D N"],
}


def _expand(symbol: str, rng: random.Random) -> list[str]:
    """Return a random expansion of a symbol of the grammar, in words."""
    if symbol in _WORDS:
        return [rng.choice(_WORDS[symbol])]
    return [word for part in rng.choice(_RULES[symbol]).split() for word in _expand(part, rng)]


def tiny(config: TinyData) -> SentencesBySplit:
    """Return sentences of a phrase-structure grammar, about 2 to 40 words; the same for every seed."""
    rng = random.Random(20190410)
    held_out = config.sentences // 10
    sizes = {"train": config.sentences, "val": held_out, "test": held_out}
    return {split: [_expand("S", rng)[:40] for _ in range(size)] for split, size in sizes.items()}


def fingerprint(rows: list[list[str]]) -> str:
    """Return the sha256 of the sentences, one a line."""
    return hashlib.sha256("\n".join(map(" ".join, rows)).encode()).hexdigest()
