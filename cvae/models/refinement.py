"""Refined posteriors: gradient steps on the mean and log-variance of each sentence (Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cvae.config import schema
from cvae.data.text import Batch
from cvae.models import objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import LatentModel


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters that get no gradient for a while, which also saves the time to form it."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def refined(
    q: Gaussian, loss: Callable[[Gaussian], Tensor], how: schema.SemiAmortized, learning: bool = False
) -> Gaussian:
    """q after `how.steps` of gradient descent with momentum on its mean and logvar [B, Z].

    v <- momentum v - clipped gradient; x <- x + lr v. Mean and logvar are clipped apart, each over the whole
    batch, and the loss is the mean over the batch, so a step is the smaller the larger the batch (protocol
    A2). With `learning` the result can be differentiated with respect to q and to what `loss` depends on.
    """
    speed: list[Tensor] = [torch.zeros_like(part) for part in q]
    for _ in range(how.steps):
        if not learning:
            q = Gaussian(*(part.detach().requires_grad_() for part in q))
        slope = torch.autograd.grad(loss(q), q, create_graph=learning)
        clipped = [part / (part.norm() / how.clip).clamp(min=1) for part in slope]
        speed = [how.momentum * v - g for v, g in zip(speed, clipped, strict=True)]
        q = Gaussian(*(part + how.lr * v for part, v in zip(q, speed, strict=True)))
    return q


@dataclass(frozen=True)
class Refined:
    """A model whose posterior is refined at β = 1: for evaluation, by measures that take any model."""

    model: LatentModel
    how: schema.SemiAmortized
    generator: torch.Generator

    def prior(self, batch: Batch) -> Gaussian:
        return self.model.prior(batch)

    def decode_nll(self, batch: Batch, z: Tensor) -> Tensor:
        return self.model.decode_nll(batch, z)

    def posterior(self, batch: Batch) -> Gaussian:
        """The encoder's, refined with noise from the generator: mean and logvar [B, Z]."""

        def loss(q: Gaussian) -> Tensor:
            return objective.loss(objective.terms(self.model, batch, generator=self.generator, q=q), beta=1.0)

        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), frozen(self.model.parameters()):
            q = refined(self.model.posterior(batch), loss, self.how)
        return Gaussian(*(part.detach() for part in q))
