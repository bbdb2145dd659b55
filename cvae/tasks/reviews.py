"""Reviews: language modelling without labels, then classifiers on few of them (protocol C)."""

from __future__ import annotations

from functools import cached_property

import torch

from cvae.data.text import fixed_subset
from cvae.evaluation.projector import Projection
from cvae.tasks.base import estimate_population
from cvae.tasks.classification import Classification
from cvae.tasks.language_model import LanguageTask


class ReviewTask(LanguageTask):
    """A language model of reviews whose z is then asked for their sentiment.

    With `init_from` and without `reset_decoder` the encoder is that of another run and nothing is
    pre-trained.
    """

    @cached_property
    def classification(self) -> Classification:
        """The classifiers on the trained encoder, which is put into evaluation mode."""
        self.model.eval()
        estimate_population(self, self.model.encoder)
        return Classification(self)

    def projection(self) -> Projection | None:
        """Return the means of test sentences with their classes, the same sentences in every run."""
        settings = self.config.task.finetune
        if not settings.map_sentences or not set(settings.modes) - {"scratch"}:
            return None
        corpus = self.data.corpora["test"]
        rows = fixed_subset(settings.map_sentences, len(corpus))
        means = self.classification.posteriors["test"].mean[torch.from_numpy(rows)]
        return Projection(means, self.words(corpus.batch(rows)), corpus.labels[rows])
