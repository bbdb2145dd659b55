"""One batch, one optimiser step: `build` makes what the configuration's `update` names."""

from __future__ import annotations

from cvae.config import schema
from cvae.config.schema import Config
from cvae.models.objective import LatentModel
from cvae.training.steps.aggressive import AggressiveUpdate
from cvae.training.steps.plain import Update
from cvae.training.steps.semi_amortized import SemiAmortizedUpdate

__all__ = ["Update", "build"]

UPDATES = {schema.Aggressive: AggressiveUpdate, schema.SemiAmortized: SemiAmortizedUpdate}


def build(model: LatentModel, configuration: Config) -> Update:
    """The update of a run."""
    return UPDATES.get(type(configuration.update), Update)(model, configuration)
