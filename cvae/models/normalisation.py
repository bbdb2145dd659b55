"""BN-VAE: posterior means that cannot all fall onto the prior's (Zhu et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8  # torch's 1e-5 is as much as the means vary at first: to vary less would be a way to no KL
SHARE = 0.01  # of a batch in the running values; with torch's 0.1 they are those of a few sentence lengths


class NormalisedMean(nn.Module):
    """Each dimension's mean over the batch is normalised, scaled by a fixed γ and moved by a learnt shift.

    γ (m - E m) / √(Var m + 1e-8) + shift, with E and Var over the batch in training and running values of
    them at evaluation. A dimension's KL is at least mean² / 2, since what its variance adds is never
    negative, so the batch-mean KL is at least Z (γ² + shift²) / 2 however little the decoder wants of z:
    5.8 nats for the authors' γ = 0.6 and the paper's 32 dimensions. At evaluation this holds as far as the
    running values are those of the data.
    """

    def __init__(self, latent: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.shift = nn.Parameter(torch.zeros(latent))
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    def forward(self, mean: Tensor) -> Tensor:
        """[B, Z] from [B, Z]; in training B must be at least 2."""
        centre, spread, mean = self.centre, self.spread, mean.to(self.shift.dtype)
        if self.training:
            centre, spread = mean.mean(0), mean.var(0, correction=0)
            with torch.no_grad():
                self.batches += 1
                share = (1 / self.batches).clamp(min=SHARE)  # at first the mean of all there were
                self.centre.lerp_(centre, share)
                self.spread.lerp_(spread, share)
        return self.gamma * (mean - centre) * torch.rsqrt(spread + EPSILON) + self.shift
