"""The synthetic experiment: language modelling of ten sequences in a latent plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvae.evaluation import metrics
from cvae.models.gaussian import Gaussian
from cvae.tasks.language_model import LanguageTask


class ToyTask(LanguageTask):
    """The ten sequences of the paper, few enough to look at every posterior."""

    def _posterior(self) -> Gaussian:
        """Return q(z | n) of each sequence, in order: mean and logvar [N, Z]."""
        corpus = self.data.corpora["train"]
        return self.model.posterior(corpus.batch(np.arange(len(corpus))))

    def latent_metrics(self, split: str, q: Gaussian) -> dict[str, float]:
        """Return how well z tells the sequences apart, each counted once: see `metrics.separation`."""
        return metrics.separation(self._posterior(), self.settings.samples, self.generator())

    def mi_examples(self, split: str) -> int:
        """Return the number of sequences, however often the split holds each."""
        return len(self.data.corpora["train"])

    def snapshot(self) -> dict[str, Any]:
        """Return the posterior of each sequence: mean and logvar [N, Z]."""
        with self.eval_mode():
            q = self._posterior()
        labels = list(range(len(q.mean)))
        return {"mean": q.mean.tolist(), "logvar": q.logvar.tolist(), "label": labels}
