"""Answering in a dialog: the measures of language modelling given a context, and how good answers are."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cvae.config.schema import Config
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
from cvae.data.text import SPECIALS, UNK, fixed_subset
from cvae.data.vectors import Vectors
from cvae.evaluation import chat, latent, metrics
from cvae.evaluation.acts import ActClassifier
from cvae.evaluation.dialog_scores import Scorer, another_dialog, scores
from cvae.evaluation.samples import literal
from cvae.models import decode, gaussian, objective
from cvae.models.dialog import DialogVAE
from cvae.models.gaussian import Gaussian
from cvae.models.objective import Terms
from cvae.tasks.language_model import LanguageTask

log = logging.getLogger("cvae")

NO_PRIOR = "schedule=none has no prior to answer from.\n"
AUTHORS_BATCH = 60  # responses of a batch in the authors' validation and test
GAIN = 0.996  # the authors' early stopping: a validation counts as better below this share of the last such


def rec_ppl(found: Terms) -> float:
    """exp(total NLL / tokens): without the KL, over all tokens alike."""
    nats, tokens = (part.double().sum().item() for part in (found.nll, found.tokens))
    return metrics.perplexity(nats, tokens)


def authors_unit(
    model: DialogVAE, corpus: DialogCorpus, deterministic: bool, noise: torch.Generator
) -> dict[str, float]:
    """authors/*: the bound as the authors print it, the unweighted mean over their batches (protocol B4).

    rec_ppl is the mean of the batches' exp(NLL / tokens); responses counts twice those that are scored twice.
    Empty for a split of fewer dialogs than a batch has.
    """
    windows = list(authors_windows(corpus, AUTHORS_BATCH))
    if not windows:
        return {}
    sums: Counter[str] = Counter()
    for window in windows:
        found = objective.terms(model, corpus.batch(*window), deterministic, noise)
        sums.update(latent.elbo_metrics(found) | {"rec_ppl": rec_ppl(found)})
    names = ("rec", "rec_ppl") if deterministic else [name for name in sums if name != "ppl"]
    means = {f"authors/{name}": sums[name] / len(windows) for name in names}
    return means | {"authors/batches": len(windows), "authors/responses": AUTHORS_BATCH * len(windows)}


class DialogTask(LanguageTask):
    """The paper's dialog experiment (protocol B)."""

    def __init__(self, config: Config, model: nn.Module, data: DialogSplits) -> None:
        super().__init__(config, model, data)
        self.longest = config.dataset.max_tokens - 2  # words of an answer
        # files that only the end of training needs are read now, so that what is wrong with them ends it now
        if config.task.references is not None:
            self._say_what_is_used()
        if config.task.vectors is not None:
            _ = self.vectors

    def _say_what_is_used(self) -> None:
        """Of the file of references, where it is not all or for all."""
        (found, unused), count = self._references, len(self.data.corpora["test"])
        if unused or len(found) < count:
            log.warning(
                f"warning: task.references has some for {len(found):,} of {count:,} test responses, which"
                f" alone are scored; {unused:,} of its entries are for none"
            )

    def cut(self, corpus: DialogCorpus) -> DialogBatches:
        """A split in batches whose contexts overlap."""
        dataset, size = self.config.dataset, self.config.train.batch_size
        return DialogBatches(corpus, dataset.consecutive, size, self.config.seed, dataset.whole_passages)

    def counts(self) -> dict[str, float]:
        """The sizes of the data and what is unknown in them, for results.json."""
        found = {"vocabulary": len(self.data.vocabulary)}
        found |= {"topics": len(self.data.topics), "acts": len(self.data.acts)}
        for split, corpus in self.data.corpora.items():
            found |= {f"{split}/{name}": count for name, count in corpus.counts().items()}
        if self.config.task.references is not None:
            matched, unused = self._references
            acts = [act for some in matched.values() for act in some.acts]
            found |= {"test/references": len(matched), "test/references_unused": unused}
            found |= {"test/references_unknown_acts": acts.count(UNKNOWN)}
        if self.config.task.vectors is not None:
            found["vectors"] = int(self.vectors[1].sum())
        if self.config.model.vectors is not None:
            found["model_vectors"] = self.model.from_vectors
        return found | {"train/batches": len(self.batches["train"])} | self.comparability()

    def words(self, batch: ResponseBatch) -> list[str]:
        """The responses of a batch, for reading."""
        rows: list[list[int]] = [[] for _ in batch.lengths]
        for owner, number in zip(batch.owners.tolist(), batch.targets.tolist(), strict=True):
            rows[owner].append(number)
        return [" ".join(self.data.vocabulary.decode(row)) for row in rows]

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """mi: I(x; z) in nats of `examples` responses. q: the posteriors of the split, [N, Z]."""
        rows = torch.from_numpy(fixed_subset(self.examples(split), len(q.mean))).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

    def should_stop_early(self, scores: list[float]) -> bool:
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

    def test_metrics(self, split: str, found: Terms) -> dict[str, float]:
        """Once, on the best weights: what is costly, the bound in the authors' unit, and the answers."""
        values = super().test_metrics(split, found) | {"rec_ppl": rec_ppl(found)}
        corpus, off = self.data.corpora[split], self.config.autoencoder
        return values | authors_unit(self.model, corpus, off, self.generator()) | self.scores(split)

    def scores(self, split: str) -> dict[str, float]:
        """How good and how diverse `samples` answers are to each of `contexts` contexts of a split.

        See `cvae.evaluation.dialog_scores`; random/* and constant/* are the same of answers that know no
        context. Empty for an autoencoder, which has no prior to answer from.
        """
        if self.config.autoencoder:
            return {}
        corpus, wanted = self.data.corpora[split], self.references(split)
        rows = np.array(sorted(wanted))
        rows = np.sort(rows[fixed_subset(self.config.task.contexts, len(rows))])
        right = [wanted[row] for row in rows]
        partners = another_dialog(corpus.dialogs[corpus.places[rows]])
        score = Scorer(self.data.vocabulary.words, self.classifier, self.vectors, right, partners)
        found = scores(score, self.answers(split, rows), self.data.corpora["train"], self.config.seed)
        references = float(np.mean([len(some.responses) for some in right]))
        return found | self.classifier.accuracy(corpus) | {"references": references, "contexts": len(rows)}

    def references(self, split: str) -> dict[int, References]:
        """What counts as right, by response; the response itself unless there is a file for test."""
        corpus = self.data.corpora[split]
        if split == "test" and self.config.task.references is not None:
            return self._references[0]
        every = np.arange(len(corpus))
        acts = corpus.acts[corpus.places].tolist()
        rows = zip(corpus.sentences(every), acts, corpus.words(every), strict=True)
        return {n: References([said], [act], [words]) for n, (said, act, words) in enumerate(rows)}

    @cached_property
    def _references(self) -> tuple[dict[int, References], int]:
        """What `references.read` makes of the file."""
        return references.read(self._beside_data(self.config.task.references), self.data.corpora["test"])

    def answers(self, split: str, responses: np.ndarray, seed: int | None = None) -> list[list[list[int]]]:
        """`samples` answers, each as numbers, in place of each of these responses, in ascending order."""
        noise = self.generator(seed)
        batches = self.data.corpora[split].batches(responses, self.config.train.batch_size)
        return [some for batch in batches for some in self.answer(batch, noise)]

    @torch.no_grad()
    def answer(self, batch: ResponseBatch, noise: torch.Generator) -> list[list[list[int]]]:
        """`samples` answers to each context of a batch, each from a z of its own from the prior."""
        task, batch = self.config.task, objective.shared(self.model, batch)
        condition = batch.condition.repeat_interleave(task.samples, 0)
        prior = Gaussian(*(part.repeat_interleave(task.samples, 0) for part in self.model.prior(batch)))
        rows = decode.generate(
            self.model,
            replace(batch, condition=condition),
            gaussian.sample(prior, noise),
            self.longest,
            decode.SamplingOptions(task.temperature, task.top_p, (UNK,) if task.forbid_unknown else ()),
            noise,
        )
        return [rows[i : i + task.samples] for i in range(0, len(rows), task.samples)]

    @cached_property
    def classifier(self) -> ActClassifier:
        """Of dialog acts; trained when first asked for."""
        return ActClassifier(self.data.corpora["train"], len(self.data.vocabulary), len(self.data.acts))

    @cached_property
    def vectors(self) -> Vectors:
        """Word vectors [V, D] for a_bow, e_bow and greedy, and which words [V] have one; `<unk>` has none."""
        if (name := self.config.task.vectors) is not None:
            found, known = vectors.read(self._beside_data(name), self.data.vocabulary)
            return found, known & (np.arange(len(known)) >= len(SPECIALS))
        train = self.data.corpora["train"]
        sentences = train.sentences(np.arange(len(train)))
        return vectors.cooccurrence(sentences, len(self.data.vocabulary), len(SPECIALS))

    def page(self) -> str:
        """What a finished run keeps for reading: contexts of test with the reference and the answers."""
        if self.config.autoencoder:
            return NO_PRIOR
        found = chat.conversations(self, "test", self.config.task.examples)
        return chat.page({"answers": found}, literal)

    def preview(self) -> str:
        """At each validation: what was said last, the reference, and the answers, without acts: they cost."""
        if self.config.autoencoder:
            return NO_PRIOR
        corpus, words = self.data.corpora["val"], self.data.vocabulary.words
        rows = np.sort(fixed_subset(4, len(corpus)))
        lines = []
        with self.eval_mode():
            answers = self.answers("val", rows)
        for row, some in zip(rows, answers, strict=True):
            last, said = (corpus.context(row) or [[]])[-1], corpus.sentences(np.array([row]))[0]
            texts = [literal(" ".join(words[number] for number in one)) for one in (last, said, *some)]
            lines += ["", f"{texts[0]} → **{texts[1]}**", "", *(f"- {text}" for text in texts[2:])]
        return "\n".join(lines)

    def _beside_data(self, name: str) -> Path:
        """A file in the data set's folder, or anywhere by its whole path."""
        return self.config.beside_data(name)
