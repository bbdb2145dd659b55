"""The base of every task: what to train on, what to measure, what selects a checkpoint, what a run leaves."""

from __future__ import annotations

import abc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cvae.config.schema import Config, SemiAmortized
from cvae.data.text import Splits, fixed_subset
from cvae.evaluation import latent, metrics
from cvae.evaluation.projector import Projection
from cvae.models.gaussian import Gaussian
from cvae.models.kernels import products_in_bf16
from cvae.models.normalisation import normalisation
from cvae.models.objective import LatentModel, Terms
from cvae.models.refinement import Refined

if TYPE_CHECKING:
    from cvae.tasks.reviews import Classification

PROJECTED = 2000  # validation sentences that TensorBoard's projector shows
POPULATION = 20_000  # training sentences, the same in every run, whose means batch_norm normalises by
REFINED = ("elbo", "rec", "kl", "ppl", "iw_nll", "iw_ppl")


class Task(abc.ABC):
    """A model, its data in batches, and what is measured of them.

    Raises UserError for data that the model cannot read.
    """

    def __init__(self, config: Config, model: LatentModel, data: Splits) -> None:
        self.config, self.model, self.data = config, model, data
        self.settings: Any = config.task
        for split, corpus in data.corpora.items():
            model.refuse(corpus, split)
        self.batches: dict[str, Any] = {split: self.make_batches(c) for split, c in data.corpora.items()}

    @abc.abstractmethod
    def make_batches(self, corpus: Any) -> Any:
        """Cut a split into batches."""

    def fixed_subset(self, split: str, count: int | None) -> list[Any]:
        """Return `count` sentences of a split in batches, the same in every run."""
        corpus = self.data.corpora[split]
        return corpus.batches(fixed_subset(count, len(corpus)), self.config.train.batch_size)

    def counts(self) -> dict[str, float]:
        """Return the sizes of the data, for results.json."""
        counts: dict[str, float] = {"vocabulary": len(self.data.vocabulary)}
        for split, batches in self.batches.items():
            counts[f"{split}/sentences"] = len(batches.corpus)
            counts[f"{split}/batches"] = len(batches)
            counts[f"{split}/tokens"] = batches.corpus.counted
        return counts | shares(self.data)

    @property
    def device(self) -> torch.device:
        """Where the model and the data are."""
        return next(self.model.parameters()).device

    def generator(self, seed: int | None = None) -> torch.Generator:
        """Return a new generator of a seed, by default the run's: evaluation takes no noise from training."""
        return torch.Generator(self.device).manual_seed(self.config.seed if seed is None else seed)

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Put the model into evaluation mode without gradients, and back into training mode afterwards."""
        self.model.eval()
        try:
            with torch.no_grad():
                estimate_population(self, self.model.inference_network())
                yield
        finally:
            self.model.train()

    def evaluate(self, split: str, thorough: bool = False) -> dict[str, float]:
        """Measure a split at β = 1 without dropout, as at a validation or, if `thorough`, in every way."""
        with self.eval_mode():
            terms, q = latent.collect_posteriors(
                self.model, self.batches[split], self.config.autoencoder, self.generator()
            )
            values = self.validation_metrics(split, terms, q)
            if thorough:
                values |= self.test_metrics(split, terms)
            values |= refined_metrics(self, split, thorough)
            return values | self.per_word(split, values)

    def validation_metrics(self, split: str, terms: Terms, q: Gaussian) -> dict[str, float]:
        """Return the ELBO, the measures of z and the two paths; an autoencoder has no ELBO."""
        autoencoder = self.config.autoencoder
        values = latent.elbo_metrics(terms)
        if autoencoder:
            values = {"rec": values["rec"]}
        elif q.mean.size(-1):
            values |= self.latent_metrics(split, q) | {"au": metrics.active_units(q)}
        batches = self.fixed_subset(split, self.settings.path_sentences)
        return values | latent.paths(self.model, batches, autoencoder, self.generator())

    def test_metrics(self, split: str, terms: Terms) -> dict[str, float]:
        """Return what is measured once, on the reported weights, and on how many sentences."""
        values: dict[str, float] = {}
        if not self.config.autoencoder:
            values |= importance_weighted(self, split, self.model)
            if terms.kl.size(-1):
                values |= {"mi_examples": self.mi_examples(split)} | kl_by_dimension(terms)
        corpus = self.data.corpora[split]
        return values | {"path_sentences": len(fixed_subset(self.settings.path_sentences, len(corpus)))}

    def per_word(self, split: str, values: dict[str, float]) -> dict[str, float]:
        """Return perplexities per word of the raw text; by default none."""
        return {}

    def latent_metrics(self, split: str, q: Gaussian) -> dict[str, float]:
        """Return I(x; z) as `mi`, in nats, from the posteriors q [N, Z] in the order of the batches."""
        places = np.argsort(np.concatenate(self.batches[split].members))
        rows = torch.from_numpy(places[fixed_subset(self.mi_examples(split), len(places))]).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

    def mi_examples(self, split: str) -> int:
        """Return on how many sentences I(x; z) is measured; its estimate is at most their log."""
        return len(fixed_subset(self.settings.mi_examples, len(self.data.corpora[split])))

    def mutual_information(self, split: str) -> float:
        """Return I(x; z) as `evaluate` measures it, without decoding."""
        with self.eval_mode():
            batches = (self.model.shared(batch) for batch in self.batches[split])
            posteriors = [self.model.posterior(batch) for batch in batches]
            return self.latent_metrics(split, Gaussian(*map(torch.cat, zip(*posteriors, strict=True))))["mi"]

    def score(self, values: dict[str, float]) -> float:
        """Return what selects the best checkpoint, the lower the better: -ELBO, or rec of an autoencoder."""
        return values["rec"] if self.config.autoencoder else -values.get("refined_elbo", values["elbo"])

    def should_stop_early(self, scores: list[float]) -> bool:
        """Return whether to stop before the last step, given the scores of all validations so far."""
        return False

    def snapshot(self) -> dict[str, Any] | None:
        """Return what latents.jsonl records of z at a validation, None for nothing."""
        return None

    def projection(self) -> Projection | None:
        """Return the means of validation sentences for TensorBoard's projector, None for a plane."""
        return Projection(*self.codes("val", PROJECTED)) if self.config.model.latent > 2 else None

    def codes(self, split: str, count: int | None) -> tuple[Tensor, list[str]]:
        """Return posterior means [N, Z] and texts of `count` sentences of a split, the same in every run."""
        batches = self.fixed_subset(split, count)
        return self.means(batches), [text for batch in batches for text in self.words(batch)]

    def means(self, batches: Iterable[Any]) -> Tensor:
        """Return the posterior means [N, Z] of all sentences of some batches."""
        with self.eval_mode():
            return torch.cat([self.model.posterior(batch).mean for batch in batches])

    @property
    def classification(self) -> Classification | None:
        """The classifiers that are trained after the model, None for none."""
        return None

    @abc.abstractmethod
    def words(self, batch: Any) -> list[str]:
        """Return the sentences of a batch as text."""

    @abc.abstractmethod
    def preview(self) -> str:
        """Return a few samples as Markdown, at each validation."""

    @abc.abstractmethod
    def page(self) -> str:
        """Return samples.md of a finished run."""


def shares(data: Splits) -> dict[str, float]:
    """Return the share of unknown words of each split, and of its sentences that are also in train."""
    unknown = {f"{split}/unknown_share": corpus.unknown_share for split, corpus in data.corpora.items()}
    return unknown | {f"{split}/in_train_share": share for split, share in data.in_train.items()}


def estimate_population(task: Task, encoder: Any) -> None:
    """Estimate what batch_norm normalises by at evaluation, unless it is known for the present weights."""
    if (layer := normalisation(encoder)) is not None and layer.unknown:
        encoder.estimate(task.fixed_subset("train", POPULATION))


def importance_weighted(task: Task, split: str, model: LatentModel) -> dict[str, float]:
    """Return iw_nll, iw_ppl and iw_elbo, and on how many samples and sentences; empty for no samples.

    Under precision=bf16 products are in bf16 on CPUs that have it; this moves them by a thousandth of a nat.
    """
    config = task.settings
    if not config.iw_samples:
        return {}
    samples = config.iw_samples if task.config.model.latent else 1  # without z all samples are the same
    batches = task.fixed_subset(split, config.iw_sentences)
    visible = task.config.train.progress and sys.stderr.isatty()
    bar = tqdm(batches, "importance-weighted NLL", leave=False, unit="batch", disable=not visible)
    with products_in_bf16(task.config.precision == "bf16" and task.device.type == "cpu"):
        values = latent.importance_weighted(model, bar, samples, config.iw_chunk, task.generator())
    sentences = sum(len(batch.lengths) for batch in batches)
    return values | {"iw_samples": samples, "iw_sentences": sentences, "iw_chunk": config.iw_chunk}


def kl_by_dimension(terms: Terms) -> dict[str, float]:
    """Return the mean KL of each dimension of z, in nats."""
    kl = terms.kl.double().mean(0).tolist()
    width = max(2, len(str(len(kl) - 1)))
    return {f"kl_dim/{dimension:0{width}}": nats for dimension, nats in enumerate(kl)}


def refined_metrics(task: Task, split: str, thorough: bool) -> dict[str, float]:
    """Return refined_*: bounds at the posteriors that update=semi_amortized refines; empty without it."""
    if not isinstance(task.config.update, SemiAmortized):
        return {}
    noise = task.generator()
    model = Refined(task.model, task.config.update, noise)
    terms, _ = latent.collect_posteriors(model, task.batches[split], False, noise)
    values = latent.elbo_metrics(terms) | (importance_weighted(task, split, model) if thorough else {})
    return {f"refined_{name}": values[name] for name in values if name in REFINED}
