"""Diagonal Gaussians: sampling, density, and the KL divergence per dimension."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """N(mean, exp(logvar)) with independent dimensions: mean and logvar [B, Z]."""

    mean: Tensor
    logvar: Tensor


def widened(q: Gaussian) -> Gaussian:
    """Return q in float32 where autocast made it bf16, which cannot hold the KL of a collapsed posterior."""
    return Gaussian(*(part.float() if part.dtype == torch.bfloat16 else part for part in q))


def standard(like: Tensor) -> Gaussian:
    """Return N(0, I) of the shape, type and device of `like` [B, Z]."""
    zeros = torch.zeros_like(like)
    return Gaussian(zeros, zeros)


def sample(q: Gaussian, generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
    """Return one reparameterised draw, [B, Z], with the noise given, or drawn from a generator."""
    if noise is None:
        noise = torch.empty_like(q.mean).normal_(generator=generator)
    return q.mean + torch.exp(0.5 * q.logvar) * noise


def log_prob(q: Gaussian, z: Tensor) -> Tensor:
    """Return log q(z), summed over dimensions, in nats: [..., B] for z [..., B, Z]."""
    squares = (z - q.mean) ** 2 * torch.exp(-q.logvar)
    return -0.5 * (squares + q.logvar + math.log(2 * math.pi)).sum(-1)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q || p) per dimension, in nats, [B, Z]: the closed form of Kingma and Welling (2014), B."""
    ratio = torch.exp(q.logvar - p.logvar)
    shift = (q.mean - p.mean) ** 2 * torch.exp(-p.logvar)
    return 0.5 * (ratio + shift - 1 - q.logvar + p.logvar)
