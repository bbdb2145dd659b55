"""Which sentences may show their label: sets that are stratified, nested and the same for every run."""

from __future__ import annotations

import numpy as np

from cvae.data.text import Corpus, order
from cvae.data.vocabulary import BOS, EOS


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the rising numbers of a share of the examples, taken from each class, at least one of each.

    For labels [N]. It depends on its arguments only; a smaller share's set is part of a larger one's.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(share * len(members)))
        chosen.append(members[order(len(members), seed, int(label))[:count]])
    return np.sort(np.concatenate(chosen))


def held_out(labels: np.ndarray, count: float, least: int, seed: int) -> np.ndarray:
    """Return about `count` of a validation split's examples, at least `least`, at most all: stratified."""
    return stratified(labels, min(1.0, max(least, count) / len(labels)), seed)


def without_words(corpus: Corpus, share: float, words: int) -> Corpus:
    """Return the sentences without a random share of their words, of which one at least is kept.

    The same for every run; `words` is the size of the vocabulary.
    """
    rng = np.random.default_rng(0)
    flat = corpus.tokens.cpu().numpy()
    sentences = []
    for sentence in np.split(flat, np.cumsum(corpus.lengths)[:-1]):
        inner = sentence[1:-1]
        kept = rng.random(len(inner)) >= share
        if len(inner) and not kept.any():
            kept[rng.integers(len(inner))] = True
        sentences.append([BOS, *inner[kept].tolist(), EOS])
    return Corpus(sentences, words, corpus.tokens.device, corpus.labels)
