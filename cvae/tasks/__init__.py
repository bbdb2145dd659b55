"""Tasks: `build` makes what a configuration's task measures."""

from __future__ import annotations

from torch import nn

from cvae.config import Config
from cvae.data.text import Splits
from cvae.tasks.language_model import LanguageModelling
from cvae.tasks.reviews import Reviews
from cvae.tasks.toy import Synthetic

KINDS = {"toy": Synthetic, "ptb": LanguageModelling, "yelp": Reviews}


def build(config: Config, model: nn.Module, data: Splits) -> LanguageModelling:
    """The task of a run."""
    return KINDS[config.task.name](config, model, data)
