"""Answering in a dialog: the measures of language modelling given a context, and the quality of answers."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from cvae.config.schema import Config, DialogData, DialogTaskConfig
from cvae.data import references, vectors
from cvae.data.dialogs import (
    UNKNOWN,
    DialogBatches,
    DialogCorpus,
    DialogSplits,
    ResponseBatch,
    authors_windows,
)
from cvae.data.references import References
from cvae.data.text import fixed_subset
from cvae.data.vectors import Vectors
from cvae.data.vocabulary import SPECIALS, UNK
from cvae.evaluation import chat, latent, metrics
from cvae.evaluation.acts import ActClassifier
from cvae.evaluation.dialog_scores import Scorer, another_dialog, scores
from cvae.evaluation.samples import literal
from cvae.models import decode, gaussian, objective
from cvae.models.dialog import DialogVAE
from cvae.models.gaussian import Gaussian
from cvae.models.objective import Terms
from cvae.tasks.base import Task, shares

log = logging.getLogger("cvae")

NO_PRIOR = "schedule=none has no prior to answer from.\n"
AUTHORS_BATCH = 60  # responses in a batch of the authors' validation and test
GAIN = 0.996  # the authors' early stopping: a better score is below this share of the last better one


class DialogTask(Task):
    """The paper's dialog experiment (protocol B)."""

    model: DialogVAE
    data: DialogSplits
    settings: DialogTaskConfig

    def __init__(self, config: Config, model: DialogVAE, data: DialogSplits) -> None:
        super().__init__(config, model, data)
        self.longest = data.corpora["train"].config.max_tokens - 2  # words of an answer
        # these files are needed after training: read them now, so that an error in them comes now
        if self.settings.references is not None:
            warn_of_unused(*self._references, len(self.data.corpora["test"]))
        if self.settings.vectors is not None:
            _ = self.vectors

    def make_batches(self, corpus: DialogCorpus) -> DialogBatches:
        """Cut a split into batches whose contexts overlap."""
        dataset, size = corpus.config, self.config.train.batch_size
        return DialogBatches(corpus, dataset.consecutive, size, self.config.seed, dataset.whole_passages)

    def counts(self) -> dict[str, float]:
        """Return the sizes of the data and how much of them is unknown, for results.json."""
        counts: dict[str, float] = {"vocabulary": len(self.data.vocabulary)}
        labels = {"topics": len(self.data.topics), "acts": len(self.data.acts)}
        counts |= {name: count for name, count in labels.items() if count}
        for split, corpus in self.data.corpora.items():
            counts |= {f"{split}/{name}": count for name, count in corpus.counts().items()}
        if self.settings.references is not None:
            matched, unused = self._references
            acts = [act for response in matched.values() for act in response.acts]
            counts |= {"test/references": len(matched), "test/references_unused": unused}
            counts |= {"test/references_unknown_acts": acts.count(UNKNOWN)}
        if self.settings.vectors is not None:
            counts["vectors"] = int(self.vectors[1].sum())
        if self.model.config.vectors is not None:
            counts["model_vectors"] = self.model.from_vectors
        return counts | {"train/batches": len(self.batches["train"])} | shares(self.data)

    def words(self, batch: ResponseBatch) -> list[str]:
        rows: list[list[int]] = [[] for _ in batch.lengths]
        for owner, number in zip(batch.owners.tolist(), batch.targets.tolist(), strict=True):
            rows[owner].append(number)
        return [" ".join(self.data.vocabulary.decode(row)) for row in rows]

    def should_stop_early(self, scores: list[float]) -> bool:
        patience = self.settings.patience
        return patience is not None and out_of_patience(scores, patience)

    def test_metrics(self, split: str, terms: Terms) -> dict[str, float]:
        """Return what is measured once, scores of the answers, and the ELBO of SwitchBoard in its unit."""
        values = super().test_metrics(split, terms) | {"rec_ppl": rec_ppl(terms)}
        if isinstance(self.config.dataset, DialogData):
            corpus, autoencoder = self.data.corpora[split], self.config.autoencoder
            values |= authors_unit(self.model, corpus, autoencoder, self.generator())
        return values | self.scores(split)

    def scores(self, split: str) -> dict[str, float]:
        """Return how good and how diverse `samples` answers are to `contexts` contexts of a split.

        See `cvae.evaluation.dialog_scores`; random/* and constant/* are those of answers that ignore the
        context. Empty for an autoencoder, which has no prior to answer from.
        """
        if self.config.autoencoder:
            return {}
        corpus, by_response = self.data.corpora[split], self.references(split)
        rows = np.array(sorted(by_response))
        rows = np.sort(rows[fixed_subset(self.settings.contexts, len(rows))])
        right = [by_response[row] for row in rows]
        partners = another_dialog(corpus.dialogs[corpus.places[rows]])
        scorer = Scorer(self.data.vocabulary.words, self.classifier, self.vectors, right, partners)
        values = scores(scorer, self.answers(split, rows), self.data.corpora["train"], self.config.seed)
        count = float(np.mean([len(reference.responses) for reference in right]))
        values |= {} if self.classifier is None else self.classifier.accuracy(corpus)
        return values | {"references": count, "contexts": len(rows)}

    def references(self, split: str) -> dict[int, References]:
        """Return the references of each response: the response itself unless there is a file for test."""
        if split == "test" and self.settings.references is not None:
            return self._references[0]
        return own_references(self.data.corpora[split])

    @cached_property
    def _references(self) -> tuple[dict[int, References], int]:
        """The references in the file by test response, and the number of entries for none."""
        path = self.config.beside_data(str(self.settings.references))
        return references.read(path, self.data.corpora["test"])

    def answers(self, split: str, responses: np.ndarray, seed: int | None = None) -> list[list[list[int]]]:
        """Return `samples` answers, as numbers of words, instead of each of these responses, in their order.

        `responses` must ascend.
        """
        noise = self.generator(seed)
        batches = self.data.corpora[split].batches(responses, self.config.train.batch_size)
        return [samples for batch in batches for samples in self.answer(batch, noise)]

    @torch.no_grad()
    def answer(self, batch: ResponseBatch, noise: torch.Generator) -> list[list[list[int]]]:
        """Return `samples` answers to each context of a batch, each from its own z of the prior."""
        settings, batch = self.settings, self.model.shared(batch)
        condition = batch.condition.repeat_interleave(settings.samples, 0)
        forbidden = (UNK,) if settings.forbid_unknown else ()
        options = decode.SamplingOptions(settings.temperature, settings.top_p, forbidden)
        prior = Gaussian(*(part.repeat_interleave(settings.samples, 0) for part in self.model.prior(batch)))
        z, batch = gaussian.sample(prior, noise), replace(batch, condition=condition)
        rows = decode.generate(self.model, batch, z, self.longest, options, noise)
        return [rows[i : i + settings.samples] for i in range(0, len(rows), settings.samples)]

    @cached_property
    def classifier(self) -> ActClassifier | None:
        """The classifier of dialog acts, trained at first use; None where the train split has none."""
        if not self.data.acts:
            return None
        return ActClassifier(self.data.corpora["train"], len(self.data.vocabulary), len(self.data.acts))

    @cached_property
    def vectors(self) -> Vectors:
        """Word vectors [V, D] of the scores a_bow, e_bow and greedy, and which words [V] have one.

        `<unk>` has none.
        """
        if (name := self.settings.vectors) is not None:
            table, known = vectors.read(self.config.beside_data(name), self.data.vocabulary)
            return table, known & (np.arange(len(known)) >= len(SPECIALS))
        train = self.data.corpora["train"]
        sentences = train.sentences(np.arange(len(train)))
        return vectors.cooccurrence(sentences, len(self.data.vocabulary), len(SPECIALS))

    def page(self) -> str:
        """Return contexts of test with the reference and the answers."""
        if self.config.autoencoder:
            return NO_PRIOR
        found = chat.conversations(self, "test", self.settings.examples, seed=0)
        return chat.page({"answers": found}, literal)

    def preview(self) -> str:
        """Return the last utterance of four contexts, the reference and the answers."""
        if self.config.autoencoder:
            return NO_PRIOR
        corpus, words = self.data.corpora["val"], self.data.vocabulary.words
        rows = np.sort(fixed_subset(4, len(corpus)))
        with self.eval_mode():
            answers = self.answers("val", rows)
        lines = []
        for row, samples in zip(rows, answers, strict=True):
            last, reference = (corpus.context(row) or [[]])[-1], corpus.sentences(np.array([row]))[0]
            texts = [literal(" ".join(words[n] for n in one)) for one in (last, reference, *samples)]
            lines += ["", f"{texts[0]} → **{texts[1]}**", "", *(f"- {text}" for text in texts[2:])]
        return "\n".join(lines)


def warn_of_unused(matched: dict[int, References], unused: int, responses: int) -> None:
    """Warn where the file of references is not for all test responses, or not all of it is used."""
    if unused or len(matched) < responses:
        log.warning(
            f"warning: task.references is for {len(matched):,} of {responses:,} test responses, and only"
            f" these are scored; {unused:,} of its entries match no response"
        )


def own_references(corpus: DialogCorpus) -> dict[int, References]:
    """Return each response of a split as its own reference."""
    every = np.arange(len(corpus))
    acts = corpus.acts[corpus.places].tolist()
    rows = zip(corpus.sentences(every), acts, corpus.words(every), strict=True)
    return {n: References([sentence], [act], [words]) for n, (sentence, act, words) in enumerate(rows)}


def out_of_patience(scores: Sequence[float], patience: int) -> bool:
    """Return whether the authors' early stopping (protocol B3) ends training, in units of validations.

    Training lasts `patience` validations at least; one whose score is below GAIN times that of the last such
    validation extends it to twice the number of validations so far.
    """
    best = math.inf
    for number, score in enumerate(scores, start=1):
        if score < GAIN * best:
            best, patience = score, max(patience, 2 * number)
    return len(scores) >= patience


def rec_ppl(terms: Terms) -> float:
    """Return exp(total NLL / tokens), without the KL."""
    nats, tokens = (part.double().sum().item() for part in (terms.nll, terms.tokens))
    return metrics.perplexity(nats, tokens)


def authors_unit(
    model: DialogVAE, corpus: DialogCorpus, deterministic: bool, noise: torch.Generator
) -> dict[str, float]:
    """Return authors/*: the ELBO as the authors print it, the unweighted mean over batches (protocol B4).

    rec_ppl is the mean of each batch's exp(NLL / tokens); `responses` counts a response as often as it is
    scored. Empty for a split of fewer dialogs than a batch has.
    """
    windows = list(authors_windows(corpus, AUTHORS_BATCH))
    if not windows:
        return {}
    sums: Counter[str] = Counter()
    for window in windows:
        terms = objective.terms(model, corpus.batch(*window), deterministic, noise)
        sums.update(latent.elbo_metrics(terms) | {"rec_ppl": rec_ppl(terms)})
    names = ("rec", "rec_ppl") if deterministic else [name for name in sums if name != "ppl"]
    means = {f"authors/{name}": sums[name] / len(windows) for name in names}
    return means | {"authors/batches": len(windows), "authors/responses": AUTHORS_BATCH * len(windows)}
