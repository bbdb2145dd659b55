"""Which sentences may show their label: sets that are stratified, nested and the same for every run."""

from __future__ import annotations

import numpy as np

from cvae.data.text import BOS, EOS, Corpus, order


def stratified(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The numbers of a share of the examples, in rising order: of each class that share, at least one.

    For labels [N]. Depends on nothing but its arguments; the set of a smaller share is part of the set of a
    larger one.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(share * len(members)))
        chosen.append(members[order(len(members), seed, int(label))[:count]])
    return np.sort(np.concatenate(chosen))


def held_out(labels: np.ndarray, count: float, least: int, seed: int) -> np.ndarray:
    """About `count` of a validation split's examples [N], at least `least`, at most all: stratified."""
    return stratified(labels, min(1.0, max(least, count) / len(labels)), seed)


def without_words(corpus: Corpus, share: float, words: int) -> Corpus:
    """The sentences with that share of their words left out at random, one word at least kept.

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
