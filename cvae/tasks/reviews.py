"""Reviews: language modelling without labels, then classifiers on few of them (protocol C)."""

from __future__ import annotations

from cvae.tasks.language_model import LanguageModelling


class Reviews(LanguageModelling):
    """A language model of reviews whose z is then asked for their sentiment."""
