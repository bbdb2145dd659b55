"""Generative models: `build` makes the one a configuration names."""

from __future__ import annotations

from cvae.config.schema import DialogModel, ReviewModel, SentenceModel
from cvae.data.text import Splits
from cvae.models.dialog import DialogVAE
from cvae.models.review import ReviewVAE
from cvae.models.sentence import SentenceVAE, TextVAE


def build(
    config: SentenceModel | ReviewModel | DialogModel, words: int, data: Splits | None = None
) -> TextVAE | DialogVAE:
    """A freshly initialised model for a vocabulary of `words`, on the default device.

    A dialog model needs the `data` for its topics and the words behind the numbers.
    """
    if isinstance(config, DialogModel):
        return DialogVAE(config, data.vocabulary, len(data.topics))
    return ReviewVAE(config, words) if isinstance(config, ReviewModel) else SentenceVAE(config, words)
