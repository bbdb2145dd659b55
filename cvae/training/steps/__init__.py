"""Training steps, one for each choice of the configuration's `update`."""

from __future__ import annotations

from cvae.config import schema
from cvae.models.objective import LatentModel
from cvae.runs import world
from cvae.training.steps.aggressive import AggressiveStep
from cvae.training.steps.parts import StepInParts
from cvae.training.steps.plain import TrainStep
from cvae.training.steps.semi_amortized import SemiAmortizedStep

__all__ = ["REGISTRY", "TrainStep", "build"]

REGISTRY = {
    schema.Plain: TrainStep,
    schema.Aggressive: AggressiveStep,
    schema.SemiAmortized: SemiAmortizedStep,
}


def build(model: LatentModel, config: schema.Config) -> TrainStep:
    """Return the training step of a run. Raises UserError where the model does not allow it."""
    if config.train.accumulate * world.size() > 1:
        return StepInParts(model, config)
    return REGISTRY[type(config.update)](model, config)
