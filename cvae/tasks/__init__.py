"""Tasks: what is trained and measured, one class for each choice of the configuration's `task`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvae.config import schema
from cvae.data.text import Splits
from cvae.models.objective import LatentModel
from cvae.tasks.base import Task
from cvae.tasks.dialog import DialogTask
from cvae.tasks.language_model import LanguageTask
from cvae.tasks.reviews import ReviewTask
from cvae.tasks.toy import ToyTask

REGISTRY: dict[type, Callable[[schema.Config, Any, Any], Task]] = {
    schema.ToyTaskConfig: ToyTask,
    schema.LanguageTaskConfig: LanguageTask,
    schema.DialogTaskConfig: DialogTask,
    schema.ReviewTaskConfig: ReviewTask,
}


def build(config: schema.Config, model: LatentModel, data: Splits) -> Task:
    """Return the task of a run."""
    return REGISTRY[type(config.task)](config, model, data)
