"""One batch, one optimiser step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cvae import objective
from cvae.config import Config
from cvae.data.text import Batch
from cvae.objective import LatentModel, Terms


@dataclass
class Update:
    """Adam on rec + β KL with the gradient's global norm clipped."""

    model: LatentModel
    config: Config

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)

    def __call__(self, batch: Batch, beta: float, lr: float) -> tuple[Terms, Tensor, Tensor]:
        """The batch's terms, its loss and the gradient's norm before clipping; nothing synchronises."""
        found = objective.terms(self.model, batch, deterministic=self.config.autoencoder)
        loss = objective.loss(found, beta, **vars(self.config.objective))
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        return found, loss.detach(), self.descend(lr)

    def descend(self, lr: float) -> Tensor:
        """Adam on the gradients at hand, clipped; their norm before that."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        # Clipping divides by this within Adam's own pass over the gradients, as GradScaler's scale would.
        limit = self.config.train.clip
        self.optimizer.grad_scale = (norm.float() / limit).clamp(min=1) if limit else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return norm
