"""BN-VAE: posterior means that cannot all fall onto the prior's (Zhu et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cvae.errors import UserError

UNKNOWN = -1.0  # no variance is negative


class NormalisedMean(nn.Module):
    """Normalise each dimension of the posterior mean, scale it by a fixed γ and add a learnt shift.

    γ (m - E m) / √(Var m) + shift. In training E and Var are over the batch; at evaluation over training
    sentences under the present weights, which `estimate` takes. A dimension's KL is at least mean² / 2, since
    what its variance adds is never negative. So over the sentences that E and Var are of, the mean KL is at
    least Z γ² / 2 plus half the squared shifts, however little the decoder wants of z: 5.8 nats for the
    authors' γ = 0.6 and the paper's 32 dimensions. On other sentences this holds as far as their means vary
    as much. An ε beside Var would be a way below: to vary less than its root.
    """

    def __init__(self, latent: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.shift = nn.Parameter(torch.zeros(latent))
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.full((latent,), UNKNOWN))
        self.register_buffer("flat", torch.zeros(latent, dtype=torch.bool), persistent=False)

    @property
    def unknown(self) -> bool:
        """Whether E and Var of the present weights have still to be estimated."""
        return bool((self.spread < 0).any())

    def forward(self, mean: Tensor) -> Tensor:
        """Return [B, Z] for [B, Z], not finite where Var of a training batch is 0: `trouble` says so.

        Raises ValueError at evaluation before `estimate`.
        """
        centre, spread, mean = self.centre, self.spread, mean.to(self.shift.dtype)
        if self.training:
            self.spread.fill_(UNKNOWN)  # an update of the weights follows
            centre, spread = _moments(mean)
            self.flat |= spread == 0  # looked at later: nothing in an update waits for the device
        elif self.unknown:
            raise ValueError("the population's mean and variance are unknown: call estimate() first")
        return self.gamma * (mean - centre) * torch.rsqrt(spread) + self.shift

    @torch.no_grad()
    def estimate(self, mean: Tensor) -> None:
        """Take E and Var for evaluation from the means [N, Z] of N training sentences.

        Raises UserError where Var is exactly 0.
        """
        for kept, found in zip((self.centre, self.spread), _moments(mean.double()), strict=True):
            kept.copy_(found)
        self.flat |= self.spread == 0
        if self.trouble:
            raise UserError(self.trouble)

    @property
    def trouble(self) -> str:
        """The sentence for a Var that has been exactly 0, empty where none has."""
        if not self.flat.any():
            return ""
        return (
            "model.batch_norm divides by the standard deviation of the posterior means, and in dimension"
            f" {int(self.flat.nonzero()[0])} of z all of them are the same"
        )


def _moments(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return E and Var [Z] of [N, Z]."""
    centre = mean.mean(0)
    return centre, (mean - centre).square().mean(0)


def normalisation(encoder: nn.Module | None) -> NormalisedMean | None:
    """Return the layer of an encoder with batch_norm, None for any other."""
    layer = getattr(encoder, "normalise", None)
    return layer if isinstance(layer, NormalisedMean) else None


def without_running_values(weights: dict[str, Tensor]) -> bool:
    """Mark E and Var of older checkpoints as unknown, in place; return whether there were any.

    They were running averages of within-batch values, which lag the encoder.
    """
    counters = [name for name in weights if str(name).endswith("normalise.batches")]
    for name in counters:
        del weights[name]
        kept = f"{name.removesuffix('batches')}spread"
        if isinstance(weights.get(kept), Tensor):
            weights[kept] = torch.full_like(weights[kept], UNKNOWN)
    return bool(counters)
