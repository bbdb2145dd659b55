"""Tasks: what is trained and measured, one class for each choice of the configuration's `task`."""

from __future__ import annotations

from torch import nn

from cvae.config import schema
from cvae.data.text import Splits
from cvae.tasks.base import Task
from cvae.tasks.dialog import DialogTask
from cvae.tasks.language_model import LanguageTask
from cvae.tasks.reviews import ReviewTask
from cvae.tasks.toy import ToyTask

REGISTRY = {
    schema.ToyTaskConfig: ToyTask,
    schema.LanguageTaskConfig: LanguageTask,
    schema.DialogTaskConfig: DialogTask,
    schema.ReviewTaskConfig: ReviewTask,
}


def build(config: schema.Config, model: nn.Module, data: Splits) -> Task:
    """Return the task of a run."""
    return REGISTRY[type(config.task)](config, model, data)
