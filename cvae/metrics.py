"""Measures of a text VAE: pure functions of numbers and densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cvae import gaussian
from cvae.gaussian import Gaussian


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens), the authors' definition with nats = rec + KL and `</s>` among the tokens."""
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def aggregated(q: Gaussian, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """log q(z|n) of `draws` samples z from each of N posteriors under all of them, and log p(z).

    For q with mean [N, Z]: [draws, N, N] (the middle axis is the one z came from) and [draws, N].
    """
    noise = torch.empty((draws, *q.mean.shape), device=q.mean.device).normal_(generator=generator)
    z = q.mean + torch.exp(0.5 * q.logvar) * noise
    densities = gaussian.log_prob(Gaussian(q.mean, q.logvar), z[:, :, None])
    return densities, gaussian.log_prob(gaussian.standard(q.mean), z)


def separation(q: Gaussian, draws: int, generator: torch.Generator) -> dict[str, float]:
    """How well z tells N equally likely examples apart, by Monte Carlo with `draws` samples of each.

    mi: I(n; z) in nats, at most log N. accuracy: how often the example with the highest q(z|n) is the one
    z came from. prior_gap: KL(q(z) || p(z)) in nats between aggregated posterior and prior, the "holes".
    mi + prior_gap estimates the mean KL (Hoffman and Johnson 2016, equation 11).
    """
    densities, prior = aggregated(q, draws, generator)
    count = densities.size(-1)
    own = torch.diagonal(densities, dim1=-2, dim2=-1)
    mixture = torch.logsumexp(densities, -1) - math.log(count)
    right = densities.argmax(-1) == torch.arange(count, device=densities.device)
    return {
        "mi": (own - mixture).mean().item(),
        "accuracy": right.double().mean().item(),
        "prior_gap": (mixture - prior).mean().item(),
    }
