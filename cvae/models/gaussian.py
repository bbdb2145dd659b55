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
    """In float32, where autocast made it half of that: the KL of a closed latent lies below bf16's digits."""
    return Gaussian(*(part.float() if part.dtype == torch.bfloat16 else part for part in q))


def standard(like: Tensor) -> Gaussian:
    """N(0, I) of the shape, type and device of `like` [B, Z]."""
    zeros = torch.zeros_like(like)
    return Gaussian(zeros, zeros)


def sample(q: Gaussian, generator: torch.Generator | None = None) -> Tensor:
    """One reparameterised draw: [B, Z]. Without a generator it comes from the global one."""
    noise = torch.empty_like(q.mean).normal_(generator=generator)
    return q.mean + torch.exp(0.5 * q.logvar) * noise


def log_prob(q: Gaussian, z: Tensor) -> Tensor:
    """log q(z), summed over dimensions: [..., B] for z [..., B, Z], in nats."""
    squares = (z - q.mean) ** 2 * torch.exp(-q.logvar)
    return -0.5 * (squares + q.logvar + math.log(2 * math.pi)).sum(-1)


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) of each dimension: [B, Z], in nats. Closed form of Kingma and Welling (2014), B."""
    ratio = torch.exp(q.logvar - p.logvar)
    shift = (q.mean - p.mean) ** 2 * torch.exp(-p.logvar)
    return 0.5 * (ratio + shift - 1 - q.logvar + p.logvar)
