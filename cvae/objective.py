"""The training objective: the one place where β acts."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cvae import gaussian
from cvae.data.text import Batch
from cvae.gaussian import Gaussian


class LatentModel(Protocol):
    """The three densities every generative model here offers; measures and remedies need no more."""

    def prior(self, batch: Batch) -> Gaussian:
        """p(z), or p(z | context): mean and logvar [B, Z]."""

    def posterior(self, batch: Batch) -> Gaussian:
        """q(z | x): mean and logvar [B, Z]."""

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        """-log p(x | z) in nats per sequence: [B]; in evaluation also [K, B] for z [K, B, Z]."""


def shared(model: LatentModel, batch: Batch) -> Batch:
    """The batch with what several densities need computed once, where a model has such a thing."""
    return model.shared(batch) if hasattr(model, "shared") else batch


class Terms(NamedTuple):
    """What a batch contributes: nll [B] and kl [B, Z] in nats, tokens [B] predicted.

    bow [B] is the bag-of-words loss in nats of models that have one, as `bag_nll(batch, z)`.
    """

    nll: Tensor
    kl: Tensor
    tokens: Tensor
    bow: Tensor | None = None


def terms(
    model: LatentModel,
    batch: Batch,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
    q: Gaussian | None = None,
) -> Terms:
    """One posterior sample per sequence, or the posterior mean where `deterministic`.

    `q` is the posterior, where the caller has it already.
    """
    batch = shared(model, batch)
    q = model.posterior(batch) if q is None else q
    z = q.mean if deterministic else gaussian.sample(q, generator)
    bow = model.bag_nll(batch, z) if hasattr(model, "bag_nll") else None
    return Terms(model.decode_nll(batch, z), gaussian.kl(q, model.prior(batch)), batch.counted, bow)


def loss(found: Terms, beta: float, free_bits: float = 0.0) -> Tensor:
    """rec + β KL, the mean over the batch, in nats per sequence; the bag-of-words loss comes on top.

    With `free_bits` λ > 0 each dimension's batch-mean KL counts as at least λ nats (Kingma et al. 2016,
    equation 15): no reward for closing a dimension below that.
    """
    kl = found.kl.mean(0)
    if free_bits > 0:
        kl = kl.clamp(min=free_bits)
    total = found.nll.mean() + beta * kl.sum()
    return total if found.bow is None else total + found.bow.mean()
