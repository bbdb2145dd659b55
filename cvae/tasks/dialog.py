"""Answering in a dialog: the measures of language modelling given a context, and how good answers are."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cvae import answers, decode, gaussian, metrics, objective, talk
from cvae.acts import ActClassifier
from cvae.config import Config
from cvae.data import references, vectors
from cvae.data.dialogs import UNKNOWN, DialogSplits, Exchange, Exchanges, Passages
from cvae.data.references import References
from cvae.data.text import SPECIALS, UNK, fixed
from cvae.data.vectors import Vectors
from cvae.gaussian import Gaussian
from cvae.objective import Terms
from cvae.samples import literal
from cvae.tasks.language_model import LanguageModelling

NO_PRIOR = "schedule=none has no prior to answer from.\n"
GAIN = 0.996  # the authors' early stopping: a validation counts as better below this share of the last such


class Answering(LanguageModelling):
    """The paper's dialog experiment (protocol B)."""

    def __init__(self, config: Config, model: nn.Module, data: DialogSplits) -> None:
        super().__init__(config, model, data)
        # files that only the end of training needs are read now, so that what is wrong with them ends it now
        if config.task.references is not None:
            self.references("test")
        if config.task.vectors is not None:
            _ = self.vectors

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

    def words(self, batch: Exchange) -> list[str]:
        """The responses of a batch, for reading."""
        rows: list[list[int]] = [[] for _ in batch.lengths]
        for owner, number in zip(batch.owners.tolist(), batch.targets.tolist(), strict=True):
            rows[owner].append(number)
        return [" ".join(self.data.vocabulary.decode(row)) for row in rows]

    def information(self, split: str, q: Gaussian) -> dict[str, float]:
        """mi: I(x; z) in nats of `examples` responses. q: the posteriors of the split, [N, Z]."""
        rows = torch.from_numpy(fixed(self.examples(split), len(q.mean))).to(self.device)
        return {"mi": metrics.mutual_information(Gaussian(q.mean[rows], q.logvar[rows]), self.generator())}

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

    def final(self, split: str, found: Terms) -> dict[str, float]:
        """Once, on the best weights: what is costly, and the answers.

        rec_ppl = exp(total NLL / tokens), without the KL and over all tokens alike; the authors average
        exp(NLL / tokens) over batches (protocol B4).
        """
        nats, tokens = (part.double().sum().item() for part in (found.nll, found.tokens))
        values = super().final(split, found) | {"rec_ppl": metrics.perplexity(nats, tokens)}
        return values | self.scores(split)

    def scores(self, split: str) -> dict[str, float]:
        """How good and how diverse `samples` answers are to each of `contexts` contexts of a split.

        See `cvae.answers`. acts: the different dialog acts among the answers to a context; act_hit: the share
        of its references' acts that are among them; both by `cvae.acts`, and averaged over contexts. Empty
        for an autoencoder, which has no prior to answer from.
        """
        if self.config.autoencoder:
            return {}
        corpus, wanted = self.data.corpora[split], self.references(split)
        rows = np.array(sorted(wanted))
        rows = np.sort(rows[fixed(self.config.task.contexts, len(rows))])
        said = self.answers(split, rows)
        right = [wanted[row].responses for row in rows]
        words, targets = (
            [[[self.data.vocabulary.words[n] for n in one] for one in some] for some in side]
            for side in (said, right)
        )
        acts = self.classifier([one for some in said for one in some]).reshape(len(said), -1)
        hits = [
            np.isin(known, done).mean()
            for row, done in zip(rows, acts, strict=True)
            if len(known := [act for act in wanted[row].acts if act != UNKNOWN])
        ]
        return (
            answers.bleu(said, right)
            | answers.sacrebleu(words, targets)
            | answers.bag_similarity(said, right, *self.vectors)
            | answers.distinct(said)
            | {"acts": float(np.mean([len(set(done)) for done in acts.tolist()]))}
            | ({"act_hit": float(np.mean(hits))} if hits else {})
            | self.classifier.accuracy(corpus)
            | {
                "answer_words": float(np.mean([len(one) for some in said for one in some])),
                "references": float(np.mean([len(some) for some in right])),
                "contexts": len(rows),
            }
        )

    def references(self, split: str) -> dict[int, References]:
        """What counts as right, by response; the response itself unless there is a file for test."""
        corpus, name = self.data.corpora[split], self.config.task.references
        if split == "test" and name is not None:
            return references.read(self._beside_data(name), corpus)
        acts = corpus.acts[corpus.places].tolist()
        own = corpus.sentences(np.arange(len(corpus)))
        return {n: References([said], [act]) for n, (said, act) in enumerate(zip(own, acts, strict=True))}

    def answers(self, split: str, responses: np.ndarray, seed: int | None = None) -> list[list[list[int]]]:
        """`samples` answers, each as numbers, in place of each of these responses, in ascending order."""
        noise = self.generator(seed)
        batches = self.data.corpora[split].batches(responses, self.config.train.batch_size)
        return [some for batch in batches for some in self.answer(batch, noise)]

    @torch.no_grad()
    def answer(self, batch: Exchange, noise: torch.Generator) -> list[list[list[int]]]:
        """`samples` answers to each context of a batch, each from a z of its own from the prior."""
        task, batch = self.config.task, objective.shared(self.model, batch)
        condition = batch.condition.repeat_interleave(task.samples, 0)
        prior = Gaussian(*(part.repeat_interleave(task.samples, 0) for part in self.model.prior(batch)))
        rows = decode.generate(
            self.model,
            replace(batch, condition=condition),
            gaussian.sample(prior, noise),
            self.config.dataset.max_tokens - 2,
            decode.How(task.temperature, task.top_p, (UNK,) if task.forbid_unknown else ()),
            noise,
        )
        return [rows[i : i + task.samples] for i in range(0, len(rows), task.samples)]

    @cached_property
    def classifier(self) -> ActClassifier:
        """Of dialog acts; trained when first asked for."""
        return ActClassifier(self.data.corpora["train"], len(self.data.vocabulary), len(self.data.acts))

    @cached_property
    def vectors(self) -> Vectors:
        """Word vectors [V, D] for a_bow and e_bow, and which words [V] have one."""
        if (name := self.config.task.vectors) is not None:
            return vectors.read(self._beside_data(name), self.data.vocabulary)
        train = self.data.corpora["train"]
        sentences = train.sentences(np.arange(len(train)))
        return vectors.cooccurrence(sentences, len(self.data.vocabulary), len(SPECIALS))

    def page(self) -> str:
        """What a finished run keeps for reading: contexts of test with the reference and the answers."""
        if self.config.autoencoder:
            return NO_PRIOR
        found = talk.conversations(self, "test", self.config.task.examples)
        return talk.page({"answers": found}, literal)

    def glimpse(self) -> str:
        """At each validation: what was said last, the reference, and the answers, without acts: they cost."""
        if self.config.autoencoder:
            return NO_PRIOR
        corpus, words = self.data.corpora["val"], self.data.vocabulary.words
        rows = np.sort(fixed(4, len(corpus)))
        lines = []
        for row, some in zip(rows, self.answers("val", rows), strict=True):
            last, said = (corpus.context(row) or [[]])[-1], corpus.sentences(np.array([row]))[0]
            texts = [literal(" ".join(words[number] for number in one)) for one in (last, said, *some)]
            lines += ["", f"{texts[0]} → **{texts[1]}**", "", *(f"- {text}" for text in texts[2:])]
        return "\n".join(lines)

    def _beside_data(self, name: str) -> Path:
        """A file in the data set's folder, or anywhere by its whole path."""
        return Path(self.config.dataset.path).expanduser() / Path(name).expanduser()
