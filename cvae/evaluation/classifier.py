"""Classifiers of sentences: a logistic layer on a frozen encoder's z, or the encoder trained with it.

Two classes, 0 and 1. What a classifier is chosen by is its accuracy on validation sentences, and of equal
accuracies the lower cross-entropy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.config.schema import Finetune
from cvae.data.text import Batch, Corpus, bucketed, order
from cvae.errors import Diverged
from cvae.models.gaussian import Gaussian

CHUNK = 256  # sentences encoded at once where nothing is learnt


class Score(NamedTuple):
    """What is compared: accuracy first, then minus the cross-entropy in nats."""

    accuracy: float
    fit: float


def judge(logits: np.ndarray, labels: np.ndarray) -> Score:
    """Of logits [N] of class 1, threshold 0, for labels [N]."""
    right = (logits > 0) == (labels == 1)
    return Score(float(right.mean()), -float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()))


def in_order(function: Callable[[Batch], Tensor], corpus: Corpus, rows: np.ndarray) -> Tensor:
    """function(batch) for the sentences with these numbers, in this order: [N, ...], on the CPU.

    Batches are of similar lengths, so that little is padded.
    """
    parts = bucketed(corpus.lengths[rows], CHUNK, seed=0)
    with torch.no_grad():
        found = torch.cat([function(corpus.batch(rows[part])).cpu() for part in parts])
    return found[torch.from_numpy(np.argsort(np.concatenate(parts)))]


def posteriors(encoder: nn.Module, corpus: Corpus) -> Gaussian:
    """q(z | x) of every sentence: mean and logvar [N, Z], on the CPU."""
    found = in_order(lambda batch: torch.stack(encoder(batch), 1), corpus, np.arange(len(corpus)))
    return Gaussian(found[:, 0], found[:, 1])


class Scaling(NamedTuple):
    """Takes the mean from z [N, Z] and divides all dimensions by one number: their mean square becomes 1.

    The encoder's own proportions stay, so a dimension that carries nothing is not blown up.
    """

    shift: Tensor
    scale: float

    @classmethod
    def of(cls, z: Tensor) -> Scaling:
        """The one that fits z [N, Z]."""
        z = z.double()
        return cls(z.mean(0), float(z.var(0, correction=0).mean().sqrt()) or 1.0)

    def __call__(self, z: Tensor) -> np.ndarray:
        """[N, Z] in float64."""
        return ((z.double() - self.shift) / self.scale).numpy()


@dataclass(frozen=True)
class Probe:
    """A logistic layer on scaled features: weights [Z], bias, the penalty it was chosen with."""

    weights: np.ndarray
    bias: float
    penalty: float
    score: Score

    def logits(self, features: np.ndarray) -> np.ndarray:
        """[N] for features [N, Z]."""
        return features @ self.weights + self.bias


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    penalties: Sequence[float],
) -> Probe:
    """The best on validation of L2-penalised logistic regressions; `penalties` are scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression

    fits = []
    for penalty in penalties:
        fitted = LogisticRegression(C=penalty, solver="newton-cholesky").fit(features, labels)
        score = judge(fitted.decision_function(val_features), val_labels)
        fits.append(Probe(fitted.coef_[0], float(fitted.intercept_[0]), penalty, score))
    return max(fits, key=lambda fit: fit.score)


class Classifier(nn.Module):
    """An encoder with a logistic layer on its posterior mean, scaled; the layer starts at 0."""

    def __init__(self, encoder: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.encoder = encoder
        _make_rnns_trainable(encoder)
        device = next(encoder.parameters()).device
        self.shift, self.scale = scaling.shift.float().to(device), scaling.scale
        self.layer = nn.Linear(len(scaling.shift), 1, device=device)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def start_from(self, fitted: Probe) -> None:
        """Takes the layer of a probe on the same scaled features."""
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(fitted.weights)[None])
            self.layer.bias.fill_(fitted.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Logits of class 1: [B]."""
        return self.layer((self.encoder(batch).mean - self.shift) / self.scale)[:, 0]

    def judge(self, corpus: Corpus, rows: np.ndarray) -> Score:
        """On the sentences with these numbers."""
        return judge(in_order(self, corpus, rows).double().numpy(), corpus.labels[rows])


def _make_rnns_trainable(encoder: nn.Module) -> None:
    """Put RNNs in training mode without dropout, for cuDNN's backward pass, and join copied weights again."""
    for module in encoder.modules():
        if isinstance(module, nn.RNNBase):
            module.train()
            module.dropout = 0.0
            module.flatten_parameters()


def train(
    classifier: Classifier,
    corpus: Corpus,
    rows: np.ndarray,
    validate: Callable[[], Score],
    settings: Finetune,
    encoder_lr: float,
    seed: int,
) -> tuple[int, Score]:
    """Adam on the cross-entropy of the sentences with these numbers; the best weights on validation stay.

    Returns after how many updates they were reached, 0 for the weights it came with, and their score. Raises
    Diverged, with the rows of the batch, for a loss that is not finite.
    """
    groups = [
        {"params": list(classifier.encoder.parameters()), "lr": encoder_lr},
        {"params": list(classifier.layer.parameters()), "lr": settings.lr},
    ]
    optimizer = torch.optim.Adam(groups, fused=True)
    size = settings.batch_size
    batches = -(-len(rows) // size)
    total = max(settings.least_updates, settings.epochs * batches)
    checks = {round(total * place / settings.checks) for place in range(1, settings.checks + 1)}
    best, reached, worse = validate(), 0, 0
    kept = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    for step in range(total):
        epoch, place = divmod(step, batches)
        if not place:
            mixed = rows[order(len(rows), seed, epoch)]
        chosen = mixed[place * size :][:size]
        labels = torch.from_numpy(corpus.labels[chosen]).float().to(classifier.shift.device)
        loss = functional.binary_cross_entropy_with_logits(classifier(corpus.batch(chosen)), labels)
        if not math.isfinite(loss.item()):
            raise Diverged(f"loss is {loss.item()} at update {step}", chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 not in checks:
            continue
        if (score := validate()) > best:
            best, reached, worse = score, step + 1, 0
            kept = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        elif (worse := worse + 1) >= settings.patience:
            break
    classifier.load_state_dict(kept)
    return reached, best
