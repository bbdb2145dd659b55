"""Language modelling: what is measured on a split, and which number selects a checkpoint."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cvae import measures, metrics, samples
from cvae.config import Config
from cvae.data.text import Batch, Batches, Corpus, Splits, fixed
from cvae.folder import RunFolder
from cvae.gaussian import Gaussian
from cvae.objective import Terms


class LanguageModelling:
    """A model, its data cut into batches, and its measures."""

    def __init__(self, config: Config, model: nn.Module, data: Splits) -> None:
        self.config = config
        self.model = model
        self.data = data
        self.batches = {split: self.cut(corpus) for split, corpus in data.corpora.items()}

    def cut(self, corpus: Corpus) -> Batches:
        """A split in batches."""
        train = self.config.train
        return Batches(corpus, self.config.dataset.sampler, train.batch_size, self.config.seed)

    @property
    def judged(self) -> list[str]:
        """The splits on which the best checkpoint is measured: all but train."""
        return [split for split in self.data.corpora if split != "train"]

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

    def evaluate(self, split: str, thorough: bool = False) -> dict[str, float]:
        """Measures of a split at β = 1, dropout off: those of a validation, `thorough` all there are."""
        self.model.eval()
        try:
            with torch.no_grad():
                found, q = measures.survey(
                    self.model, self.batches[split], self.config.autoencoder, self.generator()
                )
                values = self.tracked(split, found, q)
                return values | self.final(split, found) if thorough else values
        finally:
            self.model.train()

    def tracked(self, split: str, found: Terms, q: Gaussian) -> dict[str, float]:
        """At each validation: the bound, mi and au, and the two paths; an autoencoder has no bound."""
        autoencoder = self.config.autoencoder
        values = measures.bound(found)
        if autoencoder:
            values = {"rec": values["rec"]}
        elif q.mean.size(-1):
            values |= self.information(split, q) | {"au": metrics.active_units(q)}
        batches = self.fixed(split, self.config.task.path_sentences)
        return values | measures.paths(self.model, batches, autoencoder, self.generator())

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """mi: I(x; z) in nats of `examples` sentences. q: the posteriors of the split, [N, Z]."""
        places = np.argsort(np.concatenate(self.batches[split].members))
        rows = torch.from_numpy(places[fixed(self.examples(split), len(places))]).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

    def examples(self, split: str) -> int:
        """How many sentences the mutual information is measured on, which bounds it by their log."""
        return len(fixed(self.config.task.mi_examples, len(self.data.corpora[split])))

    def final(self, split: str, found: Terms) -> dict[str, float]:
        """Once, on the best weights: what is costly, KL by dimension, and how much each measure saw."""
        values: dict[str, float] = {}
        if not self.config.autoencoder:
            values |= self.weighted(split)
            if dimensions := found.kl.size(-1):
                values["mi_examples"] = self.examples(split)
                kl = found.kl.double().mean(0).tolist()
                width = max(2, len(str(dimensions - 1)))
                values |= {f"kl_dim/{place:0{width}}": nats for place, nats in enumerate(kl)}
        corpus = self.data.corpora[split]
        return values | {"path_sentences": len(fixed(self.config.task.path_sentences, len(corpus)))}

    def weighted(self, split: str) -> dict[str, float]:
        """iw_nll, iw_ppl and iw_elbo, and on how many samples and sentences; empty for no samples."""
        task = self.config.task
        if not task.iw_samples:
            return {}
        # without z all samples are the same
        samples = task.iw_samples if self.config.model.latent else 1
        batches = self.fixed(split, task.iw_sentences)
        visible = self.config.train.progress and sys.stderr.isatty()
        bar = tqdm(batches, "importance-weighted NLL", leave=False, unit="batch", disable=not visible)
        found = measures.importance_weighted(self.model, bar, samples, task.iw_chunk, self.generator())
        sentences = sum(len(batch.lengths) for batch in batches)
        return found | {"iw_samples": samples, "iw_sentences": sentences, "iw_chunk": task.iw_chunk}

    def words(self, batch: Batch) -> list[str]:
        """The sentences of a batch, for reading."""
        return [" ".join(self.data.vocabulary.decode(row)) for row in batch.tokens.tolist()]

    def fixed(self, split: str, count: int | None) -> list[Batch]:
        """The same `count` sentences of a split in every run, in batches."""
        corpus = self.data.corpora[split]
        return corpus.batches(fixed(count, len(corpus)), self.config.train.batch_size)

    def page(self) -> str:
        """What the model says, for reading: samples.md of a finished run."""
        return samples.overview(self)

    def conclude(self, folder: RunFolder) -> dict[str, float]:
        """What follows training, on the best weights: what it leaves in the folder, and its numbers."""
        return {}

    def score(self, found: dict[str, float]) -> float:
        """What validation minimises: -ELBO, or rec for an autoencoder, in nats per sequence."""
        return found["rec"] if self.config.autoencoder else -found["elbo"]

    def settled(self, scores: list[float]) -> bool:
        """Whether the scores of the validations so far are reason to stop before the last update."""
        return False

    def snapshot(self) -> dict[str, Any] | None:
        """What to keep of the latent space at a validation; None for nothing."""
        return None
