"""Corpora that need no file: the paper's ten sequences, and a small grammar for tests and demos."""

from __future__ import annotations

import hashlib
import random

from cvae.config.schema import TinyData, ToyData

Sentences = dict[str, list[list[str]]]


def toy(config: ToyData) -> Sentences:
    """Sequence n of N is N symbols, all 0 but a 1 at place n.

    The paper does not publish its sequences; only that there are ten matters for the bound ln 10. val and
    test hold each of them `draws` times, so that every validation averages over as many z.
    """
    size = config.sequences
    rows = [["1" if place == n else "0" for place in range(size)] for n in range(size)]
    repeated = [row for row in rows for _ in range(config.draws)]
    return {"train": rows, "val": repeated, "test": repeated}


_WORDS = {
    "D": ["the", "a", "every", "some", "this", "one"],
    "A": ["old", "small", "red", "quiet", "strange", "happy", "tired", "famous"],
    "N": ["dog", "child", "market", "river", "teacher", "company", "song", "house", "train", "king"],
    "V": ["sees", "likes", "follows", "finds", "paints", "remembers", "buys", "leaves"],
    "I": ["sleeps", "waits", "sings", "falls", "returns", "laughs"],
    "P": ["near", "behind", "without", "under", "after"],
    "R": ["slowly", "today", "again", "often", "together"],
}
_RULES = {
    "S": ["NP VP", "NP VP", "NP VP C S"],
    "NP": ["D N", "D A N", "D N P D N"],
    "VP": ["V NP", "I", "I R", "V NP P D N"],
}
_JOINERS = ["and", "but", "while", "because"]


def _expand(symbol: str, rng: random.Random) -> list[str]:
    """A random string of words from a symbol of the grammar."""
    if symbol == "C":
        return [rng.choice(_JOINERS)]
    if symbol in _WORDS:
        return [rng.choice(_WORDS[symbol])]
    return [word for part in rng.choice(_RULES[symbol]).split() for word in _expand(part, rng)]


def tiny(config: TinyData) -> Sentences:
    """Sentences of a small phrase-structure grammar, about 2 to 40 words; the same for every seed."""
    rng = random.Random(20190410)
    sizes = {
        "train": config.sentences,
        "val": config.sentences // 10,
        "test": config.sentences // 10,
    }
    return {split: [_expand("S", rng)[:40] for _ in range(n)] for split, n in sizes.items()}


def fingerprint(rows: list[list[str]]) -> str:
    """sha256 of the sentences, one a line."""
    return hashlib.sha256("\n".join(map(" ".join, rows)).encode()).hexdigest()
