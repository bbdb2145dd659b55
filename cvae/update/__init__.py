"""One batch, one optimiser step: `build` makes what the configuration's `update` names."""

from __future__ import annotations

from cvae import config
from cvae.config import Config
from cvae.objective import LatentModel
from cvae.update.aggressive import AggressiveUpdate
from cvae.update.plain import Update
from cvae.update.semi_amortized import SemiAmortizedUpdate

__all__ = ["Update", "build"]

UPDATES = {config.Aggressive: AggressiveUpdate, config.SemiAmortized: SemiAmortizedUpdate}


def build(model: LatentModel, configuration: Config) -> Update:
    """The update of a run."""
    return UPDATES.get(type(configuration.update), Update)(model, configuration)
