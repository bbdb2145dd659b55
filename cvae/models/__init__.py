"""Generative models: `build` makes the one a configuration names."""

from __future__ import annotations

from cvae.config import ReviewModel, SentenceModel
from cvae.models.review import ReviewVAE
from cvae.models.sentence import SentenceVAE, TextVAE


def build(config: SentenceModel | ReviewModel, words: int) -> TextVAE:
    """A freshly initialised model for a vocabulary of `words`, on the default device."""
    return ReviewVAE(config, words) if isinstance(config, ReviewModel) else SentenceVAE(config, words)
