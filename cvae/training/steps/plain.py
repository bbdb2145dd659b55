"""Adam on rec + β KL: what every other update is made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cvae.config.schema import Config
from cvae.data.text import Batch
from cvae.models import objective
from cvae.models.objective import LatentModel, Terms


@dataclass
class TrainStep:
    """Adam on rec + β KL with the gradient's global norm clipped."""

    model: LatentModel
    config: Config

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)

    def __call__(
        self, batch: Batch, beta: float, lr: float, further: Iterable[Batch] = ()
    ) -> tuple[Terms, Tensor, Tensor]:
        """The batch's terms, its loss and the gradient's norm before clipping; nothing synchronises.

        `further` are more training batches, as many as an update asks for.
        """
        with arithmetic(self.config.precision, batch.lengths.device.type):
            found = self.terms(batch, beta)
            loss = self.loss(found, beta)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        return found, loss.detach(), self.optimizer_step(lr)

    def terms(self, batch: Batch, beta: float) -> Terms:
        """What the batch contributes."""
        return objective.terms(self.model, batch, deterministic=self.config.autoencoder)

    def loss(self, found: Terms, beta: float) -> Tensor:
        """What is minimised."""
        return objective.loss(found, beta, **vars(self.config.objective))

    def optimizer_step(self, lr: float) -> Tensor:
        """Adam on the gradients at hand, clipped; their norm before that. What has none stays as it is."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        # Clipping divides by this within Adam's own pass over the gradients, as GradScaler's scale would.
        limit = self.config.train.clip
        self.optimizer.grad_scale = (norm.float() / limit).clamp(min=1) if limit else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        return norm

    active = False  # whether `informed` is to be called once an epoch

    def informed(self, information: float) -> None:
        """Learns I(x; z) of validation, in nats."""

    def pop_metrics(self) -> dict[str, float]:
        """What to record of the updates since the last call, beside what all updates have."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the optimiser's state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""


@contextmanager
def arithmetic(precision: str, device: str) -> Iterator[None]:
    """With bf16 products are formed in it: autocast. Weights, gradients of weights and sums stay float32."""
    if precision != "bf16":
        yield
        return
    before = torch.backends.mkldnn.enabled
    # oneDNN's LSTM refuses bf16 on CPUs that do not have it; torch's own does not
    torch.backends.mkldnn.enabled = before and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    try:
        with torch.autocast(device, torch.bfloat16):
            yield
    finally:
        torch.backends.mkldnn.enabled = before
