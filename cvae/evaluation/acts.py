"""Dialog acts: a linear classifier of utterances by their words and word pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvae.data.dialogs import UNKNOWN, DialogCorpus
from cvae.data.vocabulary import BOS, EOS

HASHED_PAIRS = 2**16  # features for word pairs; more are no better
EPOCHS, BATCH_SIZE, ADAM_RATE = 2, 1024, 0.01
UTTERANCES_AT_ONCE = 4096  # that are classified


class ActClassifier:
    """p(act | utterance) by logistic regression, trained on the train split: the same for every seed.

    It reads the utterance alone, so the act of a `yeah` is the most frequent one of `yeah`.
    """

    def __init__(self, corpus: DialogCorpus, words: int, acts: int) -> None:
        self.words = words
        self.weights = torch.zeros(words + HASHED_PAIRS, acts, device=corpus.device, requires_grad=True)
        self.bias = torch.zeros(acts, device=corpus.device, requires_grad=True)
        with torch.enable_grad():
            targets = corpus.acts[corpus.places]
            known = np.flatnonzero(targets != UNKNOWN)
            self._train(corpus.sentences(known), targets[known])

    def _train(self, utterances: Sequence[Sequence[int]], acts: np.ndarray) -> None:
        """Minimise the cross-entropy by Adam; more epochs fit the train split only."""
        optimizer = torch.optim.Adam([self.weights, self.bias], lr=ADAM_RATE, fused=True)
        rng = np.random.default_rng(0)
        features = [self._features(utterance) for utterance in utterances]
        targets = torch.from_numpy(acts).to(self.bias.device)
        for _ in range(EPOCHS):
            for rows in np.array_split(rng.permutation(len(acts)), -(-len(acts) // BATCH_SIZE)):
                loss = functional.cross_entropy(self._scores([features[row] for row in rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def __call__(self, utterances: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the most likely act of each utterance [N]: word numbers without `<s>` and `</s>`."""
        features = [self._features(utterance) for utterance in utterances]
        parts = [features[i : i + UTTERANCES_AT_ONCE] for i in range(0, len(features), UTTERANCES_AT_ONCE)]
        with torch.no_grad():
            acts = [self._scores(part).argmax(1).cpu().numpy() for part in parts]
        return np.concatenate(acts) if acts else np.empty(0, dtype=np.int64)

    def accuracy(self, corpus: DialogCorpus) -> dict[str, float]:
        """Return act_accuracy on a split's own utterances, and act_majority, that of train's commonest act.

        Utterances whose act is unknown, or not in the train split, are left out; empty where all are.
        """
        acts = corpus.acts[corpus.places]
        known = np.flatnonzero(acts != UNKNOWN)
        if not len(known):
            return {}
        right = self(corpus.sentences(known)) == acts[known]
        return {"act_accuracy": float(right.mean()), "act_majority": float((acts[known] == 0).mean())}

    def _features(self, utterance: Sequence[int]) -> np.ndarray:
        """Return the feature numbers of the words, and of the hashed pairs of neighbours, ends included."""
        words = np.array([BOS, *utterance, EOS], dtype=np.int64)
        pairs = (words[:-1] * 8191 + words[1:]) * 2654435761 % HASHED_PAIRS
        return np.concatenate([words[1:-1], self.words + pairs])

    def _scores(self, features: Sequence[np.ndarray]) -> Tensor:
        """Return the logits [N, acts] of N utterances."""
        lengths = np.array([len(feature) for feature in features])
        starts = np.cumsum(lengths) - lengths
        flat, begins = (torch.from_numpy(n).to(self.bias.device) for n in (np.concatenate(features), starts))
        return functional.embedding_bag(flat, self.weights, begins, mode="sum") + self.bias
