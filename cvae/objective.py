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


class Terms(NamedTuple):
    """What a batch contributes: nll [B] and kl [B, Z] in nats, tokens [B] predicted."""

    nll: Tensor
    kl: Tensor
    tokens: Tensor


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
    q = model.posterior(batch) if q is None else q
    z = q.mean if deterministic else gaussian.sample(q, generator)
    return Terms(model.decode_nll(batch, z), gaussian.kl(q, model.prior(batch)), batch.counted)


def loss(found: Terms, beta: float, free_bits: float = 0.0) -> Tensor:
    """rec + β KL, the mean over the batch, in nats per sequence.

    With `free_bits` λ > 0 each dimension's batch-mean KL counts as at least λ nats (Kingma et al. 2016,
    equation 15): no reward for closing a dimension below that.
    """
    kl = found.kl.mean(0)
    if free_bits > 0:
        kl = kl.clamp(min=free_bits)
    return found.nll.mean() + beta * kl.sum()
