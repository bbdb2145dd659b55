"""Refined posteriors: gradient steps on the mean and log-variance of each sentence (Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cvae.config.schema import SemiAmortized
from cvae.data import AnyBatch
from cvae.models import objective
from cvae.models.gaussian import Gaussian
from cvae.models.objective import LatentModel


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Form no gradient of these parameters, which also saves time; what is not trained anyway stays so."""
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def refined(
    q: Gaussian, loss: Callable[[Gaussian], Tensor], settings: SemiAmortized, learning: bool = False
) -> Gaussian:
    """Return q after `settings.steps` steps of gradient descent with momentum on its mean and logvar [B, Z].

    v <- momentum v - clipped gradient; x <- x + lr v. Mean and logvar are clipped apart, each over the whole
    batch, and the loss is the mean over the batch, so larger batches make smaller steps (protocol A2). With
    `learning` the result can be differentiated with respect to q and to what `loss` depends on.
    """
    velocity: list[Tensor] = [torch.zeros_like(part) for part in q]
    for _ in range(settings.steps):
        if not learning:
            q = Gaussian(*(part.detach().requires_grad_() for part in q))
        gradient = torch.autograd.grad(loss(q), q, create_graph=learning)
        clipped = [part / (part.norm() / settings.clip).clamp(min=1) for part in gradient]
        velocity = [settings.momentum * v - g for v, g in zip(velocity, clipped, strict=True)]
        q = Gaussian(*(part + settings.lr * v for part, v in zip(q, velocity, strict=True)))
    return q


class Refined(LatentModel):
    """A model whose posterior is refined at β = 1, for the measures of evaluation."""

    def __init__(self, model: LatentModel, settings: SemiAmortized, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.settings, self.generator = model, settings, generator

    def prior(self, batch: AnyBatch) -> Gaussian:
        return self.model.prior(batch)

    def decode_nll(self, batch: AnyBatch, z: Tensor) -> Tensor:
        return self.model.decode_nll(batch, z)

    def posterior(self, batch: AnyBatch) -> Gaussian:
        """Return the encoder's posterior, refined with noise from the generator: mean and logvar [B, Z]."""

        def loss(q: Gaussian) -> Tensor:
            return objective.loss(objective.terms(self.model, batch, generator=self.generator, q=q), beta=1.0)

        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), frozen(self.model.parameters()):
            q = refined(self.model.posterior(batch), loss, self.settings)
        return Gaussian(*(part.detach() for part in q))
