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

# measures of a validation that are finite in every sound run; a perplexity may overflow in one
FINITE = ("elbo", "rec", "kl", "bow")


def check_step(
    step: int,
    sums: Mapping[str, float],
    rates: Callable[[int], tuple[float, float]],
    task: Task,
    folder: RunFolder,
) -> None:
    """Raise Diverged if the sums of a step are not finite, and keep its batch in diverged.json.

    `rates(step)` returns β and the learning rate of a step.
    """
    cause = next((name for name, value in sums.items() if not math.isfinite(value)), None)
    if cause is None:
        return
    beta, lr = rates(step)
    report = {"step": step, "beta": beta, "lr": lr, "cause": cause}
    report |= {name: str(value) for name, value in sums.items()}
    report["sentences"] = task.words(task.batches["train"].at(step))
    write_json(folder / "diverged.json", report)
    layer = normalisation(task.model.inference_network())
    advice = (layer and layer.trouble) or "a smaller lr.value or train.clip may help"
    raise Diverged(
        f"{cause} is {sums[cause]} at step {step} (β = {beta:.4g}, lr = {lr:.4g}): the last good"
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
