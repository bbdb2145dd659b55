"""What an utterance does in a dialog: a linear classifier of dialog acts on words and word pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cvae.data.dialogs import UNKNOWN, DialogCorpus
from cvae.data.text import BOS, EOS

PAIRS = 2**16  # hashed; more are no better
PASSES, BATCH, RATE = 2, 1024, 0.01
CHUNK = 4096  # utterances read at once


class ActClassifier:
    """p(act | utterance) by logistic regression, trained on the train split: the same for every seed.

    It sees the utterance alone: so what an answer of `yeah` does is what `yeah` does most often.
    """

    def __init__(self, corpus: DialogCorpus, words: int, acts: int) -> None:
        self.words = words
        self.weights = torch.zeros(words + PAIRS, acts, device=corpus.device, requires_grad=True)
        self.bias = torch.zeros(acts, device=corpus.device, requires_grad=True)
        with torch.enable_grad():
            self._train(corpus.sentences(np.arange(len(corpus))), corpus.acts[corpus.places])

    def _train(self, utterances: Sequence[Sequence[int]], acts: np.ndarray) -> None:
        """Adam on the cross-entropy; a few passes, since more fit the train split only."""
        optimizer = torch.optim.Adam([self.weights, self.bias], lr=RATE, fused=True)
        rng = np.random.default_rng(0)
        features = [self._features(utterance) for utterance in utterances]
        targets = torch.from_numpy(acts).to(self.bias.device)
        for _ in range(PASSES):
            for rows in np.array_split(rng.permutation(len(acts)), -(-len(acts) // BATCH)):
                loss = functional.cross_entropy(self._scores([features[row] for row in rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def __call__(self, utterances: Sequence[Sequence[int]]) -> np.ndarray:
        """The likeliest act of each utterance, words as numbers without `<s>` and `</s>`: [N]."""
        features = [self._features(utterance) for utterance in utterances]
        parts = [features[i : i + CHUNK] for i in range(0, len(features), CHUNK)]
        with torch.no_grad():
            found = [self._scores(part).argmax(1).cpu().numpy() for part in parts]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def accuracy(self, corpus: DialogCorpus) -> dict[str, float]:
        """act_accuracy on a split's own utterances; act_majority: that of the train split's commonest act.

        Utterances whose act the train split does not have are left out.
        """
        acts = corpus.acts[corpus.places]
        known = np.flatnonzero(acts != UNKNOWN)
        right = self(corpus.sentences(known)) == acts[known]
        return {"act_accuracy": float(right.mean()), "act_majority": float((acts[known] == 0).mean())}

    def _features(self, utterance: Sequence[int]) -> np.ndarray:
        """The numbers of its words, and of its pairs of neighbours with `<s>` and `</s>`."""
        words = np.array([BOS, *utterance, EOS], dtype=np.int64)
        pairs = (words[:-1] * 8191 + words[1:]) * 2654435761 % PAIRS
        return np.concatenate([words[1:-1], self.words + pairs])

    def _scores(self, features: Sequence[np.ndarray]) -> Tensor:
        """[N, acts]."""
        lengths = np.array([len(feature) for feature in features])
        flat, starts = np.concatenate(features), np.cumsum(lengths) - lengths
        places = (torch.from_numpy(numbers).to(self.bias.device) for numbers in (flat, starts))
        return functional.embedding_bag(next(places), self.weights, next(places), mode="sum") + self.bias
