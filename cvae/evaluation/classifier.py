"""Classifiers of sentences: a logistic layer on a frozen encoder's z, or both trained.

Two classes have one logit, that of class 1; more have one each.

They are selected by their accuracy on validation and, of equal accuracies, by the lower cross-entropy.
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

SENTENCES_AT_ONCE = 256  # that are encoded without training


class Score(NamedTuple):
    """What classifiers are compared by: accuracy, then minus the cross-entropy in nats."""

    accuracy: float
    fit: float


def judge(logits: np.ndarray, labels: np.ndarray) -> Score:
    """Return the score of logits for labels [N]: [N] of class 1, threshold 0, or [N, K] of all classes."""
    if logits.ndim == 2:
        chosen = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
        fit = chosen - np.logaddexp.reduce(logits, 1)
        return Score(float((logits.argmax(1) == labels).mean()), float(fit.mean()))
    right = (logits > 0) == (labels == 1)
    return Score(float(right.mean()), -float(np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()))


def in_order(function: Callable[[Batch], Tensor], corpus: Corpus, rows: np.ndarray) -> Tensor:
    """Return function(batch) of the sentences with these numbers, in this order: [N, ...], on the CPU."""
    parts = bucketed(corpus.lengths[rows], SENTENCES_AT_ONCE, seed=0)
    with torch.no_grad():
        values = torch.cat([function(corpus.batch(rows[part])).cpu() for part in parts])
    return values[torch.from_numpy(np.argsort(np.concatenate(parts)))]


def posteriors(encoder: nn.Module, corpus: Corpus) -> Gaussian:
    """Return q(z | x) of every sentence: mean and logvar [N, Z], on the CPU."""
    stacked = in_order(lambda batch: torch.stack(encoder(batch), 1), corpus, np.arange(len(corpus)))
    return Gaussian(stacked[:, 0], stacked[:, 1])


class Scaling(NamedTuple):
    """Centres z [N, Z] and divides all dimensions by one number, so that their mean square becomes 1.

    The encoder's own proportions stay: a dimension without information is not amplified.
    """

    shift: Tensor
    scale: float

    @classmethod
    def of(cls, z: Tensor) -> Scaling:
        """Return the scaling fitted to z [N, Z]."""
        z = z.double()
        return cls(z.mean(0), float(z.var(0, correction=0).mean().sqrt()) or 1.0)

    def __call__(self, z: Tensor) -> np.ndarray:
        """Return the scaled z [N, Z] in float64."""
        return ((z.double() - self.shift) / self.scale).numpy()


@dataclass(frozen=True)
class Probe:
    """A logistic layer on scaled features: weights [Z] or [K, Z], bias, and the penalty that was selected."""

    weights: np.ndarray
    bias: float | np.ndarray
    penalty: float
    score: Score

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits for features [N, Z]: [N] of class 1, or [N, K]."""
        return features @ self.weights.T + self.bias


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    penalties: Sequence[float],
) -> Probe:
    """Return the L2-penalised logistic regression best on validation; `penalties` are scikit-learn's C."""
    from sklearn.linear_model import LogisticRegression

    fits = []
    for penalty in penalties:
        fitted = LogisticRegression(C=penalty, solver="newton-cholesky").fit(features, labels)
        score = judge(fitted.decision_function(val_features), val_labels)
        two = len(fitted.classes_) == 2
        bias = float(fitted.intercept_[0]) if two else fitted.intercept_
        fits.append(Probe(fitted.coef_[0] if two else fitted.coef_, bias, penalty, score))
    return max(fits, key=lambda fit: fit.score)


class Classifier(nn.Module):
    """An encoder with a logistic layer on its scaled posterior mean; the layer starts at 0."""

    def __init__(self, encoder: nn.Module, scaling: Scaling, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        _make_rnns_trainable(encoder)
        device = next(encoder.parameters()).device
        self.shift, self.scale = scaling.shift.float().to(device), scaling.scale
        self.layer = nn.Linear(len(scaling.shift), 1 if classes == 2 else classes, device=device)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def start_from(self, fitted: Probe) -> None:
        """Copy the layer of a probe on the same scaled features."""
        with torch.no_grad():
            self.layer.weight.copy_(torch.from_numpy(fitted.weights))
            self.layer.bias.copy_(torch.as_tensor(fitted.bias))

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits: [B] of class 1, or [B, K]."""
        return self.layer((self.encoder(batch).mean - self.shift) / self.scale).squeeze(-1)

    def loss(self, batch: Batch, labels: np.ndarray) -> Tensor:
        """Return the mean cross-entropy for labels [B]."""
        logits, targets = self(batch), torch.from_numpy(labels).to(self.shift.device)
        if logits.dim() == 1:
            return functional.binary_cross_entropy_with_logits(logits, targets.float())
        return functional.cross_entropy(logits, targets)

    def judge(self, corpus: Corpus, rows: np.ndarray) -> Score:
        """Return the score on the sentences with these numbers."""
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
    """Minimise the cross-entropy of these sentences by Adam and keep the best weights on validation.

    Returns the step that reached them, 0 for the initial weights, and their score. Raises Diverged, with the
    rows of the batch, for a loss that is not finite.
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
            shuffled = rows[order(len(rows), seed, epoch)]
        chosen = shuffled[place * size :][:size]
        loss = classifier.loss(corpus.batch(chosen), corpus.labels[chosen])
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
