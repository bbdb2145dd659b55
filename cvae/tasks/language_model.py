"""Language modelling: what is measured on a split, and which number selects a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cvae.config.schema import Config, SemiAmortized
from cvae.data.text import Batch, Batches, Corpus, Splits, fixed_subset
from cvae.errors import UserError
from cvae.evaluation import latent, metrics, projector, samples
from cvae.models import objective
from cvae.models.gaussian import Gaussian
from cvae.models.normalisation import normalisation
from cvae.models.objective import LatentModel, Terms
from cvae.models.refinement import Refined
from cvae.report.tables import BOUND
from cvae.runs.folder import RunFolder

PROJECTED = 2000  # validation sentences whose means TensorBoard's projector shows
POPULATION = 20_000  # training sentences, the same in every run, whose means batch_norm normalises by


class LanguageTask:
    """A model, its data cut into batches, and its measures."""

    def __init__(self, config: Config, model: nn.Module, data: Splits) -> None:
        self.config = config
        self.model = model
        self.data = data
        self.batches = {split: self.cut(corpus) for split, corpus in data.corpora.items()}
        if normalisation(self.encoder) is not None:
            self._refuse_single_sentences()

    def _refuse_single_sentences(self) -> None:
        """Raises UserError where a training batch holds one sentence, be it several times: no variance."""
        train = self.batches["train"]
        if alone := sum(bool((batch.tokens == batch.tokens[0]).all()) for batch in train):
            raise UserError(
                "model.batch_norm needs different sentences in every training batch, and"
                f" {alone} of {len(train)} hold one only: another train.batch_size helps"
            )

    @property
    def encoder(self) -> nn.Module | None:
        """What gives q(z | x), None without z."""
        return getattr(self.model, "encoder", None)

    def renew_population(self, encoder: nn.Module | None) -> None:
        """With batch_norm: estimate what it normalises by at evaluation, unless that is known already."""
        if (layer := normalisation(encoder)) is not None and layer.unknown:
            encoder.estimate(self.fixed_subset("train", POPULATION))

    @property
    def advice(self) -> str:
        """What to say beside numbers that are not finite: the cause where the model knows it, else a cure."""
        layer = normalisation(self.encoder)
        return (layer and layer.trouble) or "a smaller lr.value or train.clip may help"

    def cut(self, corpus: Corpus) -> Batches:
        """A split in batches."""
        train = self.config.train
        return Batches(corpus, self.config.dataset.sampler, train.batch_size, self.config.seed)

    @property
    def judged(self) -> list[str]:
        """The splits on which the reported checkpoint is measured: all but train."""
        return [split for split in self.data.corpora if split != "train"]

    def counts(self) -> dict[str, float]:
        """The sizes of the data, for results.json."""
        found: dict[str, float] = {"vocabulary": len(self.data.vocabulary)}
        for split, batches in self.batches.items():
            found[f"{split}/sentences"] = len(batches.corpus)
            found[f"{split}/batches"] = len(batches)
            found[f"{split}/tokens"] = batches.corpus.counted
        return found | self.comparability()

    def comparability(self) -> dict[str, float]:
        """By split: the share of unknown words, and of the sentences that occur in train word for word."""
        unknown = {f"{split}/unknown_share": c.unknown_share for split, c in self.data.corpora.items()}
        return unknown | {f"{split}/in_train_share": share for split, share in self.data.in_train.items()}

    def generator(self, seed: int | None = None) -> torch.Generator:
        """Evaluation's own noise, none taken from training: always that of the seed, by default the run's."""
        return torch.Generator(self.device).manual_seed(self.config.seed if seed is None else seed)

    @property
    def device(self) -> torch.device:
        """Where the model and the data are."""
        return next(self.model.parameters()).device

    def evaluate(self, split: str, thorough: bool = False) -> dict[str, float]:
        """Measures of a split at β = 1, dropout off: those of a validation, `thorough` all there are."""
        with self.eval_mode():
            found, q = latent.collect_posteriors(
                self.model, self.batches[split], self.config.autoencoder, self.generator()
            )
            values = self.validation_metrics(split, found, q)
            if thorough:
                values |= self.test_metrics(split, found)
            return values | self.refined(split, thorough)

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """The model in evaluation mode and without gradients; afterwards in training mode."""
        self.model.eval()
        try:
            with torch.no_grad():
                self.renew_population(self.encoder)
                yield
        finally:
            self.model.train()

    def validation_metrics(self, split: str, found: Terms, q: Gaussian) -> dict[str, float]:
        """At each validation: the bound, mi and au, and the two paths; an autoencoder has no bound."""
        autoencoder = self.config.autoencoder
        values = latent.elbo_metrics(found)
        if autoencoder:
            values = {"rec": values["rec"]}
        elif q.mean.size(-1):
            values |= self.information(split, q) | {"au": metrics.active_units(q)}
        batches = self.fixed_subset(split, self.config.task.path_sentences)
        return values | latent.paths(self.model, batches, autoencoder, self.generator())

    def refined(self, split: str, thorough: bool) -> dict[str, float]:
        """refined_*: the bounds with the posteriors that update=semi_amortized refines; else nothing."""
        if not isinstance(self.config.update, SemiAmortized):
            return {}
        noise = self.generator()
        model = Refined(self.model, self.config.update, noise)
        found, _ = latent.collect_posteriors(model, self.batches[split], False, noise)
        values = latent.elbo_metrics(found) | (self.weighted(split, model) if thorough else {})
        return {f"refined_{name}": values[name] for name in values if name in BOUND}

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """mi: I(x; z) in nats of `examples` sentences. q: the posteriors of the split, [N, Z]."""
        places = np.argsort(np.concatenate(self.batches[split].members))
        rows = torch.from_numpy(places[fixed_subset(self.examples(split), len(places))]).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

    def mutual_information(self, split: str) -> float:
        """I(x; z) as `evaluate` measures it, by the encoder alone."""
        with self.eval_mode():
            batches = (objective.shared(self.model, batch) for batch in self.batches[split])
            posteriors = [self.model.posterior(batch) for batch in batches]
            return self.information(split, Gaussian(*map(torch.cat, zip(*posteriors, strict=True))))["mi"]

    def examples(self, split: str) -> int:
        """How many sentences the mutual information is measured on, which bounds it by their log."""
        return len(fixed_subset(self.config.task.mi_examples, len(self.data.corpora[split])))

    def test_metrics(self, split: str, found: Terms) -> dict[str, float]:
        """Once, on the reported weights: what is costly, KL by dimension, and how much each measure saw."""
        values: dict[str, float] = {}
        if not self.config.autoencoder:
            values |= self.weighted(split, self.model)
            if dimensions := found.kl.size(-1):
                values["mi_examples"] = self.examples(split)
                kl = found.kl.double().mean(0).tolist()
                width = max(2, len(str(dimensions - 1)))
                values |= {f"kl_dim/{place:0{width}}": nats for place, nats in enumerate(kl)}
        corpus = self.data.corpora[split]
        return values | {"path_sentences": len(fixed_subset(self.config.task.path_sentences, len(corpus)))}

    def weighted(self, split: str, model: LatentModel) -> dict[str, float]:
        """iw_nll, iw_ppl and iw_elbo, and on how many samples and sentences; empty for no samples."""
        task = self.config.task
        if not task.iw_samples:
            return {}
        # without z all samples are the same
        samples = task.iw_samples if self.config.model.latent else 1
        batches = self.fixed_subset(split, task.iw_sentences)
        visible = self.config.train.progress and sys.stderr.isatty()
        bar = tqdm(batches, "importance-weighted NLL", leave=False, unit="batch", disable=not visible)
        found = latent.importance_weighted(model, bar, samples, task.iw_chunk, self.generator())
        sentences = sum(len(batch.lengths) for batch in batches)
        return found | {"iw_samples": samples, "iw_sentences": sentences, "iw_chunk": task.iw_chunk}

    def words(self, batch: Batch) -> list[str]:
        """The sentences of a batch, for reading."""
        return [" ".join(self.data.vocabulary.decode(row)) for row in batch.tokens.tolist()]

    def fixed_subset(self, split: str, count: int | None) -> list[Batch]:
        """The same `count` sentences of a split in every run, in batches."""
        corpus = self.data.corpora[split]
        return corpus.batches(fixed_subset(count, len(corpus)), self.config.train.batch_size)

    def page(self) -> str:
        """What the model says, for reading: samples.md of a finished run."""
        return samples.overview(self)

    def preview(self) -> str:
        """A little of that at each validation, Markdown."""
        with self.eval_mode():
            return samples.glimpse(self)

    def codes(self, split: str, count: int | None) -> tuple[Tensor, list[str]]:
        """Posterior means [N, Z] and texts of the same `count` sentences of a split in every run."""
        batches = self.fixed_subset(split, count)
        return self.means(batches), [text for batch in batches for text in self.words(batch)]

    def means(self, batches: Iterable[Batch]) -> Tensor:
        """Posterior means [N, Z] of all sentences of some batches."""
        with self.eval_mode():
            return torch.cat([self.model.posterior(batch).mean for batch in batches])

    def conclude(self, folder: RunFolder) -> dict[str, float]:
        """What follows training, on the reported weights: what it leaves in the folder, and its numbers.

        Here the posterior means of validation sentences, for TensorBoard's projector; a plane needs none.
        """
        if self.config.model.latent > 2:
            means, texts = self.codes("val", PROJECTED)
            projector.write(folder.path, means.cpu().numpy(), texts)
        return {}

    def score(self, found: dict[str, float]) -> float:
        """What validation minimises: -ELBO, refined if it is, or an autoencoder's rec; nats per sequence."""
        return found["rec"] if self.config.autoencoder else -found.get("refined_elbo", found["elbo"])

    def should_stop_early(self, scores: list[float]) -> bool:
        """Whether the scores of the validations so far are reason to stop before the last update."""
        return False

    def snapshot(self) -> dict[str, Any] | None:
        """What to keep of the latent space at a validation; None for nothing."""
        return None
