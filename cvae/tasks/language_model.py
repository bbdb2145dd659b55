"""Language modelling: what is measured on a split, and which number selects a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cvae import metrics, objective
from cvae.config import Config
from cvae.data.text import Batch, Batches, Splits


class LanguageModelling:
    """A model, its data cut into batches, and its measures."""

    def __init__(self, config: Config, model: nn.Module, data: Splits) -> None:
        self.config = config
        self.model = model
        self.data = data
        self.batches = {
            split: Batches(corpus, config.dataset.sampler, config.train.batch_size, config.seed)
            for split, corpus in data.corpora.items()
        }

    def counts(self) -> dict[str, int]:
        """The sizes of the data, for results.json."""
        found: dict[str, int] = {"vocabulary": len(self.data.vocabulary)}
        for split, batches in self.batches.items():
            found[f"{split}/sentences"] = len(batches.corpus)
            found[f"{split}/batches"] = len(batches)
            found[f"{split}/tokens"] = batches.corpus.counted
        return found

    def generator(self) -> torch.Generator:
        """Evaluation's own noise: the same for every evaluation of a run, and none taken from training."""
        return torch.Generator(self.device).manual_seed(self.config.seed)

    @property
    def device(self) -> torch.device:
        """Where the model and the data are."""
        return next(self.model.parameters()).device

    def evaluate(self, split: str) -> dict[str, float]:
        """Measures of a whole split: one posterior sample a sentence, β = 1, dropout off."""
        self.model.eval()
        try:
            with torch.no_grad():
                return self.measures(split)
        finally:
            self.model.train()

    def measures(self, split: str) -> dict[str, float]:
        """elbo, rec and kl in nats per sequence, ppl; an autoencoder has rec only."""
        return bound(self.model, self.batches[split], self.config.autoencoder, self.generator())

    def score(self, found: dict[str, float]) -> float:
        """What validation minimises: -ELBO, or rec for an autoencoder, in nats per sequence."""
        return found["rec"] if self.config.autoencoder else -found["elbo"]

    def snapshot(self) -> dict[str, Any] | None:
        """What to keep of the latent space at a validation; None for nothing."""
        return None


def bound(
    model: nn.Module, batches: Iterable[Batch], deterministic: bool, generator: torch.Generator
) -> dict[str, float]:
    """The ELBO of a split and its parts, as the authors report them (protocol A4).

    rec = total NLL / sentences, kl = total KL / sentences, ppl = exp((NLL + KL) / tokens).
    """
    total, sentences = 0, 0
    for batch in batches:
        found = objective.terms(model, batch, deterministic, generator)
        total = total + torch.stack(
            [found.nll.double().sum(), found.kl.double().sum(), found.tokens.double().sum()]
        )
        sentences += len(batch.lengths)
    nll, kl, tokens = total.tolist()
    if deterministic:
        return {"rec": nll / sentences}
    return {
        "elbo": -(nll + kl) / sentences,
        "rec": nll / sentences,
        "kl": kl / sentences,
        "ppl": metrics.perplexity(nll + kl, tokens),
    }
