"""Reviews: language modelling without labels, then classifiers on few of them (protocol C)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cvae import models
from cvae.data.label_sets import held_out, stratified, without_words
from cvae.data.text import fixed_subset
from cvae.evaluation.classifier import Classifier, Probe, Scaling, judge, posteriors, probe, train
from cvae.evaluation.projector import Projection
from cvae.models import gaussian
from cvae.models.gaussian import Gaussian
from cvae.tasks.base import estimate_population
from cvae.tasks.language_model import LanguageTask


class ReviewTask(LanguageTask):
    """A language model of reviews whose z is then asked for their class.

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
        settings = self.settings.finetune
        if not settings.map_sentences or not set(settings.modes) - {"scratch"}:
            return None
        corpus = self.data.corpora["test"]
        rows = fixed_subset(settings.map_sentences, len(corpus))
        means = self.classification.posteriors["test"].mean[torch.from_numpy(rows)]
        return Projection(means, self.words(corpus.batch(rows)), corpus.labels[rows], self.data.classes)


class Trial(NamedTuple):
    """One classifier: how it is made, from which share of the labels, and which set of that size."""

    mode: str
    share: float
    seed: int


class Classification:
    """Classifiers with the encoder of a trained task, or with a new one, on sets of labels."""

    def __init__(self, task: ReviewTask) -> None:
        self.task, self.data, self.settings = task, task.data, task.settings.finetune
        self.encoder: Any = task.model.encoder
        self._probes: dict[tuple[bytes, bytes], Probe] = {}

    def trials(self) -> Iterator[Trial]:
        """Yield every classifier in the order in which they are made.

        All labels are a single set, on which only the noise of a probe differs, whose fit is unique.
        """
        for mode in self.settings.modes:
            for share in self.settings.shares:
                seeds = self.settings.seeds if mode == "probe" or share < 1 else 1
                yield from (Trial(mode, share, seed) for seed in range(seeds))

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Train a classifier and return its accuracies on validation and test.

        Raises Diverged, with the rows of the batch, for a loss that is not finite.
        """
        rows, val = self.label_sets(trial)
        make = self._probe if trial.mode == "probe" else self._train
        return {"labels": len(rows), "val_labels": len(val)} | make(trial, rows, val)

    def majority(self) -> float:
        """Return the test accuracy of the most frequent class of the training sentences."""
        train, test = (self.data.corpora[split].labels for split in ("train", "test"))
        return float((test == np.bincount(train).argmax()).mean())

    def label_sets(self, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the training and validation sentences whose labels a classifier sees."""
        labels = {split: self.data.corpora[split].labels for split in ("train", "val")}
        rows = stratified(labels["train"], trial.share, trial.seed)
        count = self.settings.val_ratio * len(rows)
        return rows, held_out(labels["val"], count, self.settings.val_least, trial.seed)

    def _probe(self, trial: Trial, rows: np.ndarray, val: np.ndarray) -> dict[str, Any]:
        """Measure a probe on posterior means, also with words dropped, and one on posterior samples.

        Each is tested on what it is fitted on: differences between means are small beside a sample's noise.
        """
        fitted, labels = self._probe_on_means(rows, val), self.data.corpora["test"].labels
        values = {"penalty": fitted.penalty, "val/accuracy": fitted.score.accuracy}
        for name, z in (("accuracy", self.posteriors["test"].mean), ("accuracy_dropped", self._dropped)):
            values[f"test/{name}"] = judge(fitted.logits(self._scaling(z)), labels).accuracy
        if not self.task.config.autoencoder:
            noise = torch.Generator().manual_seed(trial.seed)
            samples = {split: gaussian.sample(q, noise) for split, q in self.posteriors.items()}
            scaling = Scaling.of(samples["train"])
            logits = self._fit(samples, scaling, rows, val).logits(scaling(samples["test"]))
            values["test/accuracy_sampled"] = judge(logits, labels).accuracy
        return values

    def _train(self, trial: Trial, rows: np.ndarray, val: np.ndarray) -> dict[str, Any]:
        """Train the pre-trained encoder with the layer of its probe, or a new encoder with a new layer."""
        corpora = self.data.corpora
        if trial.mode == "finetune":
            classifier = Classifier(copy.deepcopy(self.encoder), self._scaling, len(self.data.classes))
            classifier.start_from(self._probe_on_means(rows, val))
            lr = self.settings.encoder_lr
        else:
            unscaled = Scaling(torch.zeros(self.task.config.model.latent), 1.0)
            classifier = Classifier(self.new_encoder(trial.seed), unscaled, len(self.data.classes))
            lr = self.settings.lr
        updates, score = train(
            classifier,
            corpora["train"],
            rows,
            lambda: classifier.judge(corpora["val"], val),
            self.settings,
            lr,
            trial.seed,
        )
        test = classifier.judge(corpora["test"], np.arange(len(corpora["test"])))
        return {"updates": updates, "val/accuracy": score.accuracy, "test/accuracy": test.accuracy}

    def _probe_on_means(self, rows: np.ndarray, val: np.ndarray) -> Probe:
        """Return the probe of a label set on posterior means, fitted once."""
        key = rows.tobytes(), val.tobytes()
        if key not in self._probes:
            means = {split: q.mean for split, q in self.posteriors.items()}
            self._probes[key] = self._fit(means, self._scaling, rows, val)
        return self._probes[key]

    def _fit(self, z: dict[str, Tensor], scaling: Scaling, rows: np.ndarray, val: np.ndarray) -> Probe:
        """Fit a probe on z [N, Z] of the training sentences `rows`, chosen on validation's `val`."""
        labels, val_labels = (self.data.corpora[split].labels for split in ("train", "val"))
        features, val_features = scaling(z["train"][rows]), scaling(z["val"][val])
        return probe(features, labels[rows], val_features, val_labels[val], self.settings.penalties)

    def new_encoder(self, seed: int) -> Any:
        """Return a freshly initialised encoder; the global random-number generator stays as it is."""
        device = self.task.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            model: Any = models.build(self.task.config.model, self.data)
        encoder = model.encoder.to(device).eval()
        estimate_population(self.task, encoder)
        return encoder

    @cached_property
    def posteriors(self) -> dict[str, Gaussian]:
        """q(z | x) of all sentences of train, val and test."""
        corpora = self.data.corpora
        return {split: posteriors(self.encoder, corpora[split]) for split in ("train", "val", "test")}

    @cached_property
    def _scaling(self) -> Scaling:
        """The scaling of means, from all training sentences: it needs no labels."""
        return Scaling.of(self.posteriors["train"].mean)

    @cached_property
    def _dropped(self) -> Tensor:
        """Posterior means of the test sentences with words left out."""
        words = len(self.data.vocabulary)
        corpus = without_words(self.data.corpora["test"], self.settings.dropped, words)
        return posteriors(self.encoder, corpus).mean
