"""Divergence: a loss, gradient norm, weight or bound that is not finite ends a run and names its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from cvae.errors import Diverged
from cvae.io import write_json
from cvae.models.normalisation import normalisation
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training.means import StepSums

# measures of a validation that are finite in every sound run; a perplexity may overflow in one
FINITE = ("elbo", "rec", "kl", "bow")


class DivergenceWatch:
    """Remember the first step whose sums are not finite, on the device, and raise when asked.

    `rates(step)` returns β and the learning rate of a step.
    """

    def __init__(self, task: Task, folder: RunFolder, rates: Callable[[int], tuple[float, float]]) -> None:
        self.task, self.folder, self.rates = task, folder, rates
        self.names: tuple[str, ...] = ()
        self._step = torch.full((), -1, device=task.device)  # -1: all steps have been finite
        self._values = torch.zeros((), dtype=torch.float64, device=task.device)

    def add(self, step: int, sums: StepSums) -> None:
        """Look at a step without waiting for the device."""
        is_first = ~torch.isfinite(sums.values.sum()) & (self._step < 0)
        self._step = torch.where(is_first, step, self._step)
        self._values = torch.where(is_first, sums.values, self._values)
        self.names = sums.names

    def check(self) -> None:
        """Raise Diverged if a step was not finite, and keep its batch in diverged.json."""
        if (step := int(self._step)) < 0:
            return
        beta, lr = self.rates(step)
        values = dict(zip(self.names, self._values.tolist(), strict=True))
        cause = next(name for name, value in values.items() if not math.isfinite(value))
        report = {"step": step, "beta": beta, "lr": lr, "cause": cause}
        report |= {name: str(value) for name, value in values.items()}
        report["sentences"] = self.task.words(self.task.batches["train"].at(step))
        write_json(self.folder / "diverged.json", report)
        layer = normalisation(self.task.model.inference_network())
        advice = (layer and layer.trouble) or "a smaller lr.value or train.clip may help"
        raise Diverged(
            f"{cause} is {values[cause]} at step {step} (β = {beta:.4g}, lr = {lr:.4g}): the last good"
            f" checkpoint is kept, diverged.json has the batch; {advice}"
        )


def check_weights(model: nn.Module, step: int) -> None:
    """Raise Diverged if a weight is not finite."""
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise Diverged(f"{name} is not finite after {step} updates: the last checkpoint is kept")


def check_validation(values: Mapping[str, float], step: int, folder: RunFolder) -> None:
    """Raise Diverged if a bound, or a part of one, is not finite at a validation."""
    for key, value in values.items():
        name = key.rpartition("/")[2].removeprefix("refined_")
        if name in FINITE and not math.isfinite(value):
            raise Diverged(f"{key} is {value} after {step} updates in {folder}")
