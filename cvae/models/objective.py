"""The training objective: the one place where β acts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cvae.data.text import Batch
from cvae.models import gaussian
from cvae.models.gaussian import Gaussian


class LatentModel(Protocol):
    """The three densities every generative model here offers; measures and remedies need no more."""

    def prior(self, batch: Batch) -> Gaussian:
        """p(z), or p(z | context): mean and logvar [B, Z]."""

    def posterior(self, batch: Batch) -> Gaussian:
        """q(z | x): mean and logvar [B, Z]."""

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        """-log p(x | z) in nats per sequence: [B]; in evaluation also [K, B] for z [K, B, Z].

        For update=semi_amortized also with `plain=True`, in operations that can be differentiated twice.
        """


def shared(model: LatentModel, batch: Batch, plain: bool = False) -> Batch:
    """The batch with what several densities need computed once, where a model has such a thing."""
    return model.shared(batch, plain) if hasattr(model, "shared") else batch


class Terms(NamedTuple):
    """The terms of a batch: nll [B] and kl [B, Z] in nats, tokens [B] predicted.

    `extra_losses` [B], in nats and by name, are added to the objective and are no part of the ELBO.
    """

    nll: Tensor
    kl: Tensor
    tokens: Tensor
    extra_losses: Mapping[str, Tensor] = MappingProxyType({})


def terms(
    model: LatentModel,
    batch: Batch,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
    q: Gaussian | None = None,
    plain: bool = False,
) -> Terms:
    """One posterior sample per sequence, or the posterior mean where `deterministic`.

    `q` is the posterior, where the caller has it already; `plain` asks for what can be differentiated twice.
    """
    batch = shared(model, batch, plain)
    q = gaussian.widened(model.posterior(batch)) if q is None else q
    z = q.mean if deterministic else gaussian.sample(q, generator)
    nll = model.decode_nll(batch, z, plain=True) if plain else model.decode_nll(batch, z)
    extra_losses = model.extra_losses(batch, z) if hasattr(model, "extra_losses") else {}
    return Terms(nll, gaussian.kl(q, gaussian.widened(model.prior(batch))), batch.counted, extra_losses)


def loss(
    found: Terms,
    beta: float,
    free_bits: float = 0.0,
    free_bits_total: float = 0.0,
    kl_target: float | None = None,
) -> Tensor:
    """rec + β KL, the mean over the batch, in nats per sequence, plus the mean of each extra loss.

    The remedies, all off by default:

    free_bits λ: each dimension's batch-mean KL counts as at least λ nats (Kingma et al. 2016, equation 15),
    so there is no reward for closing a dimension below that; the KL ends at about λ times the dimensions.
    free_bits_total λ: the same for the sum over dimensions (FBP in Li et al. 2019), so that few dimensions
    may carry all of it.
    kl_target C: β |KL - C| (Prokhorov et al. 2019): KL is also pushed up where it is below C,
    which is what a floor does not do.
    """
    parts = found.kl.mean(0)
    kl = (parts.clamp(min=free_bits) if free_bits > 0 else parts).sum()
    if free_bits_total > 0:
        kl = kl.clamp(min=free_bits_total)
    if kl_target is not None:
        kl = (kl - kl_target).abs()
    total = found.nll.mean() + beta * kl
    for extra in found.extra_losses.values():
        total = total + extra.mean()
    return total
