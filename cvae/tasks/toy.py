"""The synthetic experiment: language modelling plus what the latent plane looks like."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvae.evaluation import metrics
from cvae.models.gaussian import Gaussian
from cvae.tasks.language_model import LanguageTask


class ToyTask(LanguageTask):
    """The paper's ten sequences, whose posteriors can all be looked at."""

    def _posterior(self) -> Gaussian:
        """q(z|n) of each sequence, in order: mean and logvar [N, Z]."""
        corpus = self.data.corpora["train"]
        return self.model.posterior(corpus.batch(np.arange(len(corpus))))

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """How well z tells the sequences apart, each counted once; see `metrics.separation`."""
        return metrics.separation(self._posterior(), self.config.task.samples, self.generator())

    def examples(self, split: str) -> int:
        """The sequences, however often the split holds each."""
        return len(self.data.corpora["train"])

    def snapshot(self) -> dict[str, Any]:
        """The posterior of each sequence: mean and logvar [N, Z]."""
        with self.eval_mode():
            q = self._posterior()
        labels = list(range(len(q.mean)))
        return {"mean": q.mean.tolist(), "logvar": q.logvar.tolist(), "label": labels}
