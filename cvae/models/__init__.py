"""Generative models: `build` makes the one that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvae.config.schema import (
    DialogModel,
    ModelConfig,
    PretrainedModel,
    ReviewModel,
    SentenceModel,
    TransformerModel,
)
from cvae.data.text import Splits
from cvae.models.dialog import DialogVAE
from cvae.models.pretrained import PretrainedVAE
from cvae.models.review import ReviewVAE
from cvae.models.sentence import SentenceVAE
from cvae.models.text import TextVAE
from cvae.models.transformer import TransformerVAE

Model = TextVAE | DialogVAE
REGISTRY: dict[type, Callable[[Any, Any], Model]] = {
    SentenceModel: lambda config, data: SentenceVAE(config, len(data.vocabulary)),
    ReviewModel: lambda config, data: ReviewVAE(config, len(data.vocabulary)),
    TransformerModel: lambda config, data: TransformerVAE(config, len(data.vocabulary)),
    PretrainedModel: lambda config, data: PretrainedVAE(config, data.vocabulary),
    DialogModel: lambda config, data: DialogVAE(config, data.vocabulary, len(data.topics), data.people),
}


def build(config: ModelConfig, data: Splits) -> Model:
    """Return a freshly initialised model for a data set, on the default device."""
    return REGISTRY[type(config)](config, data)
