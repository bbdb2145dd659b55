"""Generative models: `build` makes the one a configuration names."""

from __future__ import annotations

from cvae.config import SentenceModel
from cvae.models.sentence import SentenceVAE


def build(config: SentenceModel, words: int) -> SentenceVAE:
    """A freshly initialised model for a vocabulary of `words`, on the default device."""
    return SentenceVAE(config, words)
