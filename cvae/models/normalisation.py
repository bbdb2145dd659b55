"""BN-VAE: posterior means that cannot all collapse to the prior's (Zhu et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cvae.errors import UserError

NOT_ESTIMATED = -1.0  # in place of a variance


class NormalisedMean(nn.Module):
    """Normalise each dimension of the posterior mean, scale it by a fixed γ and add a learnt shift.

    γ (m - E m) / √(Var m) + shift. E and Var are over the batch in training, and in evaluation over training
    sentences under the current weights (`estimate`). A dimension's KL is at least mean² / 2, so the mean KL
    over the sentences of E and Var is at least Z γ² / 2 plus half the squared shifts: 5.8 nats for the
    authors' γ = 0.6 and 32 dimensions. An ε beside Var would be a way around this: to vary less than √ε.
    """

    centre: Tensor
    spread: Tensor
    flat: Tensor

    def __init__(self, latent: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.shift = nn.Parameter(torch.zeros(latent))
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.full((latent,), NOT_ESTIMATED))
        self.register_buffer("flat", torch.zeros(latent, dtype=torch.bool), persistent=False)

    @property
    def unknown(self) -> bool:
        """Whether E and Var of the current weights are still to be estimated."""
        return bool((self.spread < 0).any())

    def forward(self, mean: Tensor) -> Tensor:
        """Return [B, Z] for [B, Z], not finite where Var of a training batch is 0: `trouble` says so.

        Raises ValueError in evaluation before `estimate`.
        """
        centre, spread, mean = self.centre, self.spread, mean.to(self.shift.dtype)
        if self.training:
            self.spread.fill_(NOT_ESTIMATED)  # the weights are about to change
            centre, spread = _moments(mean)
            self.flat |= spread == 0  # read later, so that no step waits for the device
        elif self.unknown:
            raise ValueError("the population's mean and variance are unknown: call estimate() first")
        return self.gamma * (mean - centre) * torch.rsqrt(spread) + self.shift

    @torch.no_grad()
    def estimate(self, mean: Tensor) -> None:
        """Set E and Var for evaluation from the means [N, Z] of N training sentences.

        Raises UserError where Var is exactly 0.
        """
        for buffer, moment in zip((self.centre, self.spread), _moments(mean.double()), strict=True):
            buffer.copy_(moment)
        self.flat |= self.spread == 0
        if self.trouble:
            raise UserError(self.trouble)

    @property
    def trouble(self) -> str:
        """The sentence about a dimension whose Var has been exactly 0, empty if there is none."""
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
    layers = [] if encoder is None else encoder.children()
    return next((layer for layer in layers if isinstance(layer, NormalisedMean)), None)


def without_running_values(weights: dict[str, Tensor]) -> bool:
    """Mark E and Var of older checkpoints as not estimated, in place; return whether there were any.

    They were running averages of batch moments, which lag the encoder.
    """
    counters = [name for name in weights if str(name).endswith("normalise.batches")]
    for name in counters:
        del weights[name]
        spread = f"{name.removesuffix('batches')}spread"
        if isinstance(weights.get(spread), Tensor):
            weights[spread] = torch.full_like(weights[spread], NOT_ESTIMATED)
    return bool(counters)
