"""Generative models: `build` makes the one a configuration names."""

from __future__ import annotations

from cvae.config import DialogModel, SentenceModel
from cvae.data.text import Splits
from cvae.models.dialog import DialogVAE
from cvae.models.sentence import SentenceVAE


def build(
    config: SentenceModel | DialogModel, words: int, data: Splits | None = None
) -> SentenceVAE | DialogVAE:
    """A freshly initialised model for a vocabulary of `words`, on the default device.

    A dialog model needs the `data` for its topics and the words behind the numbers.
    """
    if isinstance(config, DialogModel):
        return DialogVAE(config, data.vocabulary, len(data.topics))
    return SentenceVAE(config, words)
