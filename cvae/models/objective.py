"""The training objective: the one place where β acts."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvae.data import AnyBatch
from cvae.models import gaussian
from cvae.models.gaussian import Gaussian


class LatentModel(nn.Module, abc.ABC):
    """A generative model with a latent variable: the three densities are all that measures and remedies need.

    A batch is a `Batch` of sentences or, for the dialog model, a `ResponseBatch`.
    """

    @abc.abstractmethod
    def prior(self, batch: Any) -> Gaussian:
        """Return p(z), or p(z | context): mean and logvar [B, Z]."""

    @abc.abstractmethod
    def posterior(self, batch: Any) -> Gaussian:
        """Return q(z | x): mean and logvar [B, Z]."""

    @abc.abstractmethod
    def decode_nll(self, batch: Any, z: Tensor) -> Tensor:
        """Return -log p(x | z) in nats per sequence: [B]; in evaluation also [K, B] for z [K, B, Z]."""

    def shared(self, batch: Any) -> Any:
        """Return the batch with what several densities need computed once; by default nothing."""
        return batch

    def extra_losses(self, batch: Any, z: Tensor) -> dict[str, Tensor]:
        """Return what the objective adds beside nll and β KL, by name: [B], in nats; by default nothing."""
        return {}

    def refuse(self, corpus: Any, where: str) -> None:
        """Raise UserError, naming `where`, for sequences that it cannot read; by default it reads all."""

    def files(self) -> dict[str, str]:
        """Return what building the model needs beside configuration and vocabulary: texts by file name."""
        return {}

    def inference_network(self) -> nn.Module | None:
        """Return the module that only q(z | x) uses; by default there is none."""
        return None


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
    batch: AnyBatch,
    deterministic: bool = False,
    generator: torch.Generator | None = None,
    q: Gaussian | None = None,
    noise: Tensor | None = None,
) -> Terms:
    """Return a batch's terms for one sample of z per sequence, or the posterior mean where `deterministic`.

    `q` is the posterior, and `noise` [B, Z] the standard normal draw, if the caller has them already.
    """
    batch = model.shared(batch)
    q = gaussian.widened(model.posterior(batch)) if q is None else q
    z = q.mean if deterministic else gaussian.sample(q, generator, noise)
    nll, extra_losses = model.decode_nll(batch, z), model.extra_losses(batch, z)
    kl = gaussian.kl(q, gaussian.widened(model.prior(batch)))
    return Terms(nll, kl, batch.counted, extra_losses)


@dataclass(frozen=True)
class Share:
    """Which part of a batch the rows of some terms are: by default all of it.

    Attributes:
        rows: rows of the whole batch, where these are some of them.
        processes: that each have a part at the same time.
        total: sums values over them, differentiably; None where one process has the whole batch.
    """

    rows: int | None = None
    processes: int = 1
    total: Callable[[Tensor], Tensor] | None = None

    def of(self, values: Tensor) -> Tensor:
        """Return this part's share of the batch's mean of values [B, ...]: the shares add up to it."""
        return values.mean(0) if self.rows is None else values.sum(0) / self.rows

    def mean(self, values: Tensor) -> Tensor:
        """Return the batch's mean of values [B, ...], the same in all processes."""
        own = self.of(values)
        return self.total(own) if self.total else own

    def once(self, value: Tensor) -> Tensor:
        """Return this part's share of a number that all processes have."""
        return value / self.processes


WHOLE = Share()


def loss(terms: Terms, beta: float, share: Share = WHOLE, **remedies: Any) -> Tensor:
    """Return rec + β KL plus the extra losses: means over the batch, in nats per sequence.

    Of a part of a batch it is the share; the shares of all parts add up to the loss. `remedies` are those of
    `kl_term`.
    """
    total = share.of(terms.nll) + beta * kl_term(terms.kl, share, **remedies)
    for extra in terms.extra_losses.values():
        total = total + share.of(extra)
    return total


def kl_term(
    kl: Tensor,
    share: Share = WHOLE,
    free_bits: float = 0.0,
    free_bits_total: float = 0.0,
    kl_target: float | None = None,
) -> Tensor:
    """Return what β weighs: the batch's mean KL, summed over dimensions unless a remedy bends it.

    `kl` is [B, Z]. All remedies are off by default:

    free_bits λ: each dimension's batch-mean KL counts as at least λ nats (Kingma et al. 2016, equation 15),
    so nothing is gained by closing a dimension further; the KL ends at about λ times the dimensions.
    free_bits_total λ: the same for the sum over dimensions (FBP in Li et al. 2019), so that few dimensions
    may carry all of it.
    kl_target C: |KL - C| (Prokhorov et al. 2019), which, unlike a floor, pushes the KL up where it is
    below C.
    """
    if not free_bits and not free_bits_total and kl_target is None:
        return share.of(kl).sum()
    bent = share.mean(kl).clamp(min=free_bits).sum() if free_bits else share.mean(kl).sum()
    if free_bits_total:
        bent = bent.clamp(min=free_bits_total)
    if kl_target is not None:
        bent = (bent - kl_target).abs()
    return share.once(bent)
