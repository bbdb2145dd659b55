"""Answering in a dialog: the measures of language modelling, given a context."""

from __future__ import annotations

import torch

from cvae import metrics
from cvae.data.dialogs import Exchanges, Passages
from cvae.data.text import fixed
from cvae.gaussian import Gaussian
from cvae.tasks.language_model import LanguageModelling

GAIN = 0.996  # the authors' early stopping: a validation counts as better below this share of the last such


class Answering(LanguageModelling):
    """The paper's dialog experiment (protocol B)."""

    def cut(self, corpus: Exchanges) -> Passages:
        """A split in batches whose contexts overlap."""
        consecutive = self.config.dataset.consecutive
        return Passages(corpus, consecutive, self.config.train.batch_size, self.config.seed)

    def counts(self) -> dict[str, int]:
        """The sizes of the data and what is unknown in them, for results.json."""
        found = {"vocabulary": len(self.data.vocabulary)}
        found |= {"topics": len(self.data.topics), "acts": len(self.data.acts)}
        for split, corpus in self.data.corpora.items():
            found |= {f"{split}/{name}": count for name, count in corpus.counts().items()}
        return found | {"train/batches": len(self.batches["train"])}

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """mi: I(x; z) in nats of `examples` responses. q: the posteriors of the split, [N, Z]."""
        rows = torch.from_numpy(fixed(self.examples(split), len(q.mean))).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

    def page(self) -> str:
        """Contexts and answers, for reading."""
        return ""

    def settled(self, scores: list[float]) -> bool:
        """The authors' early stopping (protocol B3), in validations instead of their mini-epochs.

        It begins with `patience` of them; one that is better than GAIN times the last that was, doubles the
        number of validations so far.
        """
        patience = self.config.task.patience
        if patience is None:
            return False
        mark = float("inf")
        for number, score in enumerate(scores, start=1):
            if score < GAIN * mark:
                mark, patience = score, max(patience, 2 * number)
        return len(scores) >= patience
