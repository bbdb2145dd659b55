"""Tasks: `build` makes what a configuration's task measures."""

from __future__ import annotations

from torch import nn

from cvae.config.schema import Config, DialogTaskConfig, ReviewTaskConfig, ToyTaskConfig
from cvae.data.text import Splits
from cvae.tasks.dialog import DialogTask
from cvae.tasks.language_model import LanguageTask
from cvae.tasks.reviews import ReviewTask
from cvae.tasks.toy import ToyTask


def build(config: Config, model: nn.Module, data: Splits) -> LanguageTask:
    """The task of a run."""
    kinds = {ToyTaskConfig: ToyTask, DialogTaskConfig: DialogTask, ReviewTaskConfig: ReviewTask}
    return kinds.get(type(config.task), LanguageTask)(config, model, data)
