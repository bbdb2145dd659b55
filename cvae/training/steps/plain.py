"""The plain training step: Adam on rec + β KL. All other steps are made from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cvae.config.schema import Config
from cvae.data.text import Batch, Batches
from cvae.models import objective
from cvae.models.objective import WHOLE, LatentModel, Share, Terms
from cvae.training.precision import autocast


class TrainStep:
    """One Adam step on rec + β KL, with the global norm of the gradient clipped."""

    def __init__(self, model: LatentModel, config: Config) -> None:
        self.model, self.config = model, config
        self.settings: Any = config.update
        self.parameters = list(model.parameters())
        self.optimizer: Any = torch.optim.Adam(self.parameters, fused=True)

    def batch(self, batches: Batches, step: int) -> Any:
        """Return what a training step is made on."""
        return batches.at(step)

    def __call__(
        self, batch: Any, beta: float, lr: float, extra_batches: Iterable[Batch] = ()
    ) -> tuple[Terms, Tensor, Tensor]:
        """Make a step on a batch without waiting for the device.

        Returns the terms of the batch, its loss, and the gradient norm before clipping. A step may draw from
        `extra_batches`, more training batches without end.
        """
        with autocast(self.config.precision, batch.lengths.device.type):
            terms = self.terms(batch, beta)
            loss = self.loss(terms, beta)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        return terms, loss.detach(), self.optimizer_step(lr)

    def terms(self, batch: Batch, beta: float) -> Terms:
        """Return the terms of a batch."""
        return objective.terms(self.model, batch, deterministic=self.config.autoencoder)

    def loss(self, terms: Terms, beta: float, share: Share = WHOLE) -> Tensor:
        """Return the loss that is minimised, or a part's share of it, in nats per sequence."""
        return objective.loss(terms, beta, share, **vars(self.config.objective))

    def optimizer_step(self, lr: float) -> Tensor:
        """Clip the gradients, make an Adam step and return the norm before clipping.

        Parameters without a gradient are skipped.
        """
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        # fused Adam divides gradients by `grad_scale` in its own pass, which clips at no cost
        limit = self.config.train.clip
        self.optimizer.grad_scale = (norm.float() / limit).clamp(min=1) if limit else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return norm

    @property
    def needs_mutual_information(self) -> bool:
        """Whether `observe` must be called once an epoch."""
        return False

    def observe(self, mutual_information: float) -> None:
        """Take notice of I(x; z) of validation, in nats."""

    def pop_metrics(self) -> dict[str, float]:
        """Return metrics of this kind of step over the steps since the last call."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the optimizer's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
