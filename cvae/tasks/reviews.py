"""Reviews: language modelling without labels, then classifiers on few of them (protocol C)."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cvae import models
from cvae.config.schema import Config
from cvae.data.labelled import held_out, stratified, without_words
from cvae.data.text import Splits, fixed_subset
from cvae.errors import Diverged
from cvae.evaluation import projector
from cvae.evaluation.classifier import Classifier, Probe, Scaling, judge, posteriors, probe, train
from cvae.io import append_line, cut_unfinished, write_atomically, write_json
from cvae.models import gaussian
from cvae.report.accuracy import accuracy_table, still_probes
from cvae.runs.folder import RunFolder
from cvae.runs.reader import read_classifiers, read_run
from cvae.tasks.language_model import LanguageTask

log = logging.getLogger("cvae")

RECORD, TABLE = "classifier.jsonl", "accuracy.md"


class Cell(NamedTuple):
    """One classifier: how it is made, from which share of the labels, and which set of that size."""

    mode: str
    share: float
    seed: int


class ReviewTask(LanguageTask):
    """A language model of reviews whose z is then asked for their sentiment.

    With `init_from` the encoder is that of another run (`training.run.prepare` loads it), and nothing is
    pre-trained, unless `reset_decoder` is set.
    """

    def __init__(self, config: Config, model: nn.Module, data: Splits) -> None:
        super().__init__(config, model, data)
        self.settings = config.task.finetune
        self._fits: dict[tuple[bytes, bytes], Probe] = {}

    def cells(self) -> Iterator[Cell]:
        """Every classifier in the order in which they are made.

        All labels are one set, on which the probe, whose fit has one solution, differs in its noise only.
        """
        for mode in self.settings.modes:
            for share in self.settings.shares:
                seeds = self.settings.seeds if mode == "probe" or share < 1 else 1
                yield from (Cell(mode, share, seed) for seed in range(seeds))

    def conclude(self, folder: RunFolder) -> dict[str, float]:
        """Makes the classifiers that classifier.jsonl does not have yet, their table, and the map of z.

        Returns the means over label sets.
        """
        self.model.eval()
        self.renew_population(self.model.encoder)
        path = folder / RECORD
        cut_unfinished(path)
        done = {Cell(r["mode"], r["share"], r["seed"]): r for r in read_classifiers(path)}
        for cell in self.cells():
            if cell in done:
                continue
            started = time.perf_counter()
            try:
                measured = self.measure(cell)
            except Diverged as error:
                raise self._kept(error, cell, folder) from None
            done[cell] = cell._asdict() | measured | {"time/seconds": time.perf_counter() - started}
            append_line(path, done[cell])
            said = f"{cell.mode}, {done[cell]['labels']:,} labels, seed {cell.seed}"
            log.info(f"{said} | test accuracy {done[cell]['test/accuracy']:.4f}")
        if self.settings.map_sentences and set(self.settings.modes) - {"scratch"}:
            self._draw(folder)
        if done:
            table = accuracy_table([read_run(folder.path)]).markdown()
            write_atomically(folder / TABLE, table + "\n")
            log.info(f"test accuracy in %\n{table}")
        return summary([done[cell] for cell in self.cells()]) | {"test/majority": self.majority()}

    def _kept(self, error: Diverged, cell: Cell, folder: RunFolder) -> Diverged:
        """What a classifier's failure is told by, its batch kept in the folder."""
        said = f"{error} of the classifier {cell.mode}, share {cell.share:g}, seed {cell.seed}"
        sentences = self.words(self.data.corpora["train"].batch(error.rows))
        write_json(folder / "diverged.json", cell._asdict() | {"cause": str(error), "sentences": sentences})
        return Diverged(
            f"{said}: the pre-trained checkpoint is kept, diverged.json has the batch; a smaller"
            " task.finetune.lr or encoder_lr may help"
        )

    def majority(self) -> float:
        """The test accuracy of the training sentences' most frequent class."""
        train, test = (self.data.corpora[split].labels for split in ("train", "test"))
        return float((test == np.bincount(train).argmax()).mean())

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Accuracies of one classifier on validation and test, and what it was made from."""
        rows, val = self.sets(cell)
        make = self._probed if cell.mode == "probe" else self._trained
        return {"labels": len(rows), "val_labels": len(val)} | make(cell, rows, val)

    def sets(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the training and of the validation sentences whose labels a classifier sees."""
        labels = {split: self.data.corpora[split].labels for split in ("train", "val")}
        rows = stratified(labels["train"], cell.share, cell.seed)
        wanted = self.settings.val_ratio * len(rows)
        return rows, held_out(labels["val"], wanted, self.settings.val_least, cell.seed)

    def _probed(self, cell: Cell, rows: np.ndarray, val: np.ndarray) -> dict[str, Any]:
        """The probe on posterior means, tested with words dropped too; and a probe on posterior samples.

        Each is tested on what it is fitted on: what means tell is small beside the noise of a sample.
        """
        fitted, labels = self._probe(rows, val), self.data.corpora["test"].labels
        found = {"penalty": fitted.penalty, "val/accuracy": fitted.score.accuracy}
        for name, z in (("accuracy", self._posteriors["test"].mean), ("accuracy_dropped", self._dropped)):
            found[f"test/{name}"] = judge(fitted.logits(self._scaling(z)), labels).accuracy
        if not self.config.autoencoder:
            noise = torch.Generator().manual_seed(cell.seed)
            z = {split: gaussian.sample(q, noise) for split, q in self._posteriors.items()}
            scaling = Scaling.of(z["train"])
            sampled = self._fit(z, scaling, rows, val)
            found["test/accuracy_sampled"] = judge(sampled.logits(scaling(z["test"])), labels).accuracy
        return found

    def _trained(self, cell: Cell, rows: np.ndarray, val: np.ndarray) -> dict[str, Any]:
        """A classifier whose encoder is trained: the pre-trained one from its probe, or a new one."""
        corpora = self.data.corpora
        if cell.mode == "finetune":
            classifier = Classifier(copy.deepcopy(self.model.encoder), self._scaling)
            classifier.start_from(self._probe(rows, val))
            rate = self.settings.encoder_lr
        else:
            classifier = Classifier(self._new_encoder(cell.seed), Scaling(torch.zeros(self._size), 1.0))
            rate = self.settings.lr
        updates, score = train(
            classifier,
            corpora["train"],
            rows,
            lambda: classifier.judge(corpora["val"], val),
            self.settings,
            rate,
            cell.seed,
        )
        test = classifier.judge(corpora["test"], np.arange(len(corpora["test"])))
        return {"updates": updates, "val/accuracy": score.accuracy, "test/accuracy": test.accuracy}

    def _probe(self, rows: np.ndarray, val: np.ndarray) -> Probe:
        """The logistic layer of a label set on means; the same sets are fitted once."""
        key = rows.tobytes(), val.tobytes()
        if key not in self._fits:
            means = {split: q.mean for split, q in self._posteriors.items()}
            self._fits[key] = self._fit(means, self._scaling, rows, val)
        return self._fits[key]

    def _fit(self, z: dict[str, Tensor], scaling: Scaling, rows: np.ndarray, val: np.ndarray) -> Probe:
        """A logistic layer on z [N, Z] of the training sentences `rows`, chosen on validation's `val`."""
        parts = []
        for split, chosen in (("train", rows), ("val", val)):
            parts += [scaling(z[split][chosen]), self.data.corpora[split].labels[chosen]]
        return probe(*parts, self.settings.penalties)

    def _new_encoder(self, seed: int) -> nn.Module:
        """Freshly initialised, without touching the global noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = models.build(self.config.model, len(self.data.vocabulary))
        encoder = model.encoder.to(self.device).eval()
        self.renew_population(encoder)
        return encoder

    @property
    def _size(self) -> int:
        return self.config.model.latent

    @cached_property
    def _posteriors(self) -> dict[str, gaussian.Gaussian]:
        """q(z | x) of the sentences that classifiers learn, choose and are tested from."""
        corpora = self.data.corpora
        return {split: posteriors(self.model.encoder, corpora[split]) for split in ("train", "val", "test")}

    @cached_property
    def _scaling(self) -> Scaling:
        """Of means, from all training sentences: it needs no label."""
        return Scaling.of(self._posteriors["train"].mean)

    @cached_property
    def _dropped(self) -> Tensor:
        """Posterior means of the test sentences with words left out."""
        words = len(self.data.vocabulary)
        less = without_words(self.data.corpora["test"], self.settings.dropped, words)
        return posteriors(self.model.encoder, less).mean

    def _draw(self, folder: RunFolder) -> None:
        """The same test sentences of every run: their means for TensorBoard's projector, and in a plane."""
        corpus = self.data.corpora["test"]
        rows = fixed_subset(self.settings.map_sentences, len(corpus))
        texts = self.words(corpus.batch(rows))
        means, labels = self._posteriors["test"].mean[torch.from_numpy(rows)].numpy(), corpus.labels[rows]
        projector.write(folder.path, means, texts, ["positive" if label else "negative" for label in labels])
        projector.write_map(folder.path, means, labels)


def summary(records: list[dict[str, Any]]) -> dict[str, float]:
    """test/accuracy*/<mode>/<share> and their sample standard deviations over seeds; labels/<share>.

    still_probe/<share> counts the fine-tuned classifiers in a mean that never beat the probe they began with.
    """
    found: dict[str, float] = {}
    for mode, share in dict.fromkeys((record["mode"], record["share"]) for record in records):
        members = [r for r in records if (r["mode"], r["share"]) == (mode, share)]
        found[f"labels/{share:g}"] = members[0]["labels"]
        if mode == "finetune":
            found[f"still_probe/{share:g}"] = still_probes(members)
        for key in (k for k in members[0] if k.startswith("test/") and all(k in m for m in members)):
            values = [member[key] for member in members]
            found[f"{key}/{mode}/{share:g}"] = float(np.mean(values))
            if len(values) > 1:
                found[f"{key}_std/{mode}/{share:g}"] = float(np.std(values, ddof=1))
    return found
