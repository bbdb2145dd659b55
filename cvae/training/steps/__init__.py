"""One batch, one optimiser step: `build` makes what the configuration's `update` names."""

from __future__ import annotations

from cvae.config import schema
from cvae.config.schema import Config
from cvae.models.objective import LatentModel
from cvae.training.steps.aggressive import AggressiveStep
from cvae.training.steps.plain import TrainStep
from cvae.training.steps.semi_amortized import SemiAmortizedStep

__all__ = ["Update", "build"]

UPDATES = {schema.Aggressive: AggressiveStep, schema.SemiAmortized: SemiAmortizedStep}


def build(model: LatentModel, configuration: Config) -> TrainStep:
    """The update of a run."""
    return UPDATES.get(type(configuration.update), TrainStep)(model, configuration)
