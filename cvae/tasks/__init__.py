"""Tasks: `build` makes what a configuration's task measures."""

from __future__ import annotations

from torch import nn

from cvae.config.schema import Config, DialogTask, ReviewTask, ToyTask
from cvae.data.text import Splits
from cvae.tasks.dialog import Answering
from cvae.tasks.language_model import LanguageModelling
from cvae.tasks.reviews import Reviews
from cvae.tasks.toy import Synthetic


def build(config: Config, model: nn.Module, data: Splits) -> LanguageModelling:
    """The task of a run."""
    kinds = {ToyTask: Synthetic, DialogTask: Answering, ReviewTask: Reviews}
    return kinds.get(type(config.task), LanguageModelling)(config, model, data)
