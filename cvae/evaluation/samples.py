"""Sentences to read: from the prior, reconstructed, and on the way from one sentence to another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cvae.config.messages import listing
from cvae.config.schema import Config
from cvae.data import files
from cvae.data.text import UNK, Batch, Corpus, Splits, fixed_subset, words_of
from cvae.errors import UserError
from cvae.models import gaussian
from cvae.models.decode import SamplingOptions, generate
from cvae.models.sentence import SentenceVAE

Found = dict[str, Any]


class SentenceTask(Protocol):
    """What sentences are sampled from: a task with a model of single sentences."""

    config: Config
    model: SentenceVAE
    data: Splits

    @property
    def device(self) -> torch.device: ...

    def means(self, batches: Iterable[Batch]) -> Tensor: ...

    def codes(self, split: str, count: int | None) -> tuple[Tensor, list[str]]: ...


@dataclass(frozen=True)
class Sampler:
    """What a language model says. Its noise comes from the seed alone: the same call, the same sentences."""

    task: SentenceTask
    how: SamplingOptions
    longest: int = 60
    seed: int = 0

    def prior(self, count: int) -> Found:
        """`count` sentences whose z comes from N(0, I)."""
        noise = self._generator()
        like = torch.empty(count, self.task.config.model.latent, device=self.task.device)
        return {"prior": self._decode(gaussian.sample(gaussian.standard(like), noise), noise)}

    def reconstructions(self, sentences: Sequence[Sequence[str]]) -> Found:
        """Each sentence, and what the decoder makes of its posterior mean."""
        said = self._decode(self._means(sentences), self._generator())
        read = [" ".join(self._known(words)) for words in sentences]
        return {
            "reconstructions": [
                {"sentence": source, "reconstruction": target}
                for source, target in zip(read, said, strict=True)
            ]
        }

    def interpolation(self, first: Sequence[str], last: Sequence[str], points: int) -> Found:
        """What lies at `points` places on the straight line between two posterior means, both included."""
        ends = self._means([first, last])
        shares = torch.linspace(0, 1, points, device=ends.device)
        said = self._decode(torch.lerp(ends[0], ends[1], shares[:, None]), self._generator())
        places = [
            {"share": round(share, 3), "sentence": sentence}
            for share, sentence in zip(shares.tolist(), said, strict=True)
        ]
        texts = [" ".join(self._known(words)) for words in (first, last)]
        return {"interpolation": {"from": texts[0], "to": texts[1], "places": places}}

    def neighbours(self, sentences: Sequence[Sequence[str]], split: str, count: int) -> Found:
        """Of each sentence the `count` sentences of a split whose posterior means lie nearest to its own."""
        means, texts = self.task.codes(split, None)
        found = []
        for words, z in zip(sentences, self._means(sentences), strict=True):
            near = torch.linalg.vector_norm(means - z, dim=1).topk(min(count, len(texts)), largest=False)
            pairs = zip(near.values.tolist(), near.indices.tolist(), strict=True)
            nearest = [{"distance": round(far, 3), "sentence": texts[number]} for far, number in pairs]
            found.append({"sentence": " ".join(self._known(words)), "nearest": nearest})
        return {"neighbours": found}

    def arithmetic(self, sentences: Sequence[Sequence[str]], start: str, end: str, points: int) -> Found:
        """Sentences moved by 0 to 2 times the way from one set's mean code to another's: see `centre`."""
        way = self.centre(end) - self.centre(start)
        times = torch.linspace(0, 2, points, device=way.device)
        found = []
        for words, z in zip(sentences, self._means(sentences), strict=True):
            said = self._decode(z + times[:, None] * way, self._generator())
            pairs = zip(times.tolist(), said, strict=True)
            places = [{"times": round(share, 3), "sentence": sentence} for share, sentence in pairs]
            found.append({"sentence": " ".join(self._known(words)), "places": places})
        return {"arithmetic": {"from": start, "to": end, "sentences": found}}

    def centre(self, what: str) -> Tensor:
        """The mean code [Z] of a file's sentences, one a line, or of the training sentences with a label.

        Raises UserError for what is neither, and for a file that is no text.
        """
        train, size = self.task.data.corpora["train"], self.task.config.train.batch_size
        if Path(what).is_file():
            files.check(Path(what), getattr(self.task.config.dataset, "max_words", math.inf))
            corpus = self._corpus([words for line in files.lines(Path(what)) if (words := words_of(line))])
            return self.task.means(corpus.batches(np.arange(len(corpus)), size)).mean(0)
        labels = [] if train.labels is None else sorted(map(str, np.unique(train.labels)))
        if what not in labels:
            raise UserError(f"{what} is no file" + (f" and no label: {listing(labels)}" if labels else ""))
        return self.task.means(train.batches(np.flatnonzero(train.labels == int(what)), size)).mean(0)

    def sentences(self, split: str, count: int) -> list[list[str]]:
        """The same `count` sentences of a split for every run on it."""
        corpus, words = self.task.data.corpora[split], self.task.data.vocabulary
        tokens = corpus.batch(fixed_subset(count, len(corpus))).tokens
        return [words.decode(row) for row in tokens.tolist()]

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.task.device).manual_seed(self.seed)

    def _known(self, words: Sequence[str]) -> list[str]:
        """The words as the model reads them."""
        return [word if word in self.task.data.vocabulary.index else "<unk>" for word in words]

    def _means(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Posterior means [N, Z]."""
        corpus = self._corpus(sentences)
        return self.task.means([corpus.batch(np.arange(len(corpus)))])

    def _corpus(self, sentences: Sequence[Sequence[str]]) -> Corpus:
        words = self.task.data.vocabulary
        return Corpus([words.encode(s) for s in sentences], len(words), self.task.device)

    def _decode(self, z: Tensor, noise: torch.Generator) -> list[str]:
        """A sentence for each row of z [N, Z]."""
        words = self.task.data.vocabulary
        rows = generate(self.task.model.eval(), None, z, self.longest, self.how, noise)
        return [" ".join(words.words[number] for number in row) for row in rows]


def without_unknown(how: SamplingOptions) -> SamplingOptions:
    """The same, but `<unk>` is never said."""
    return replace(how, forbid=(*how.forbid, UNK))


def literal(words: str) -> str:
    """A code span, in which Markdown changes nothing, whatever the words are; nothing for no words."""
    words = " ".join(words.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{fence} {words} {fence}" if "`" in words else f"`{words}`" if words else ""


def markdown(found: Found) -> str:
    """What was found, its words as they are: `text` in Markdown."""

    def marked(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: marked(value) for key, value in part.items()}
        if isinstance(part, list):
            return list(map(marked, part))
        return literal(part) if isinstance(part, str) else part

    return text(marked(found))


def text(found: Found) -> str:
    """What was found, for reading on a terminal."""
    parts = []
    if "prior" in found:
        parts += ["## z from the prior", "", *(f"- {line}" for line in found["prior"]), ""]
    if "reconstructions" in found:
        parts += ["## Sentences, and the decoder's reading of their z", ""]
        for pair in found["reconstructions"]:
            parts += [f"- {pair['sentence']}", f"  - {pair['reconstruction']}"]
        parts.append("")
    for line in [found["interpolation"]] if "interpolation" in found else []:
        parts += [f"## From “{line['from']}” to “{line['to']}”", ""]
        parts += [f"- {place['share']:.2f}  {place['sentence']}" for place in line["places"]] + [""]
    for one in found.get("neighbours", ()):
        parts += [f"## Nearest to “{one['sentence']}”", ""]
        parts += [f"- {near['distance']:.2f}  {near['sentence']}" for near in one["nearest"]] + [""]
    if "arithmetic" in found:
        parts += [
            f"## z + t · (mean of {found['arithmetic']['to']} − mean of {found['arithmetic']['from']})",
            "",
        ]
        for one in found["arithmetic"]["sentences"]:
            parts.append(f"- {one['sentence']}")
            parts += [f"  - {place['times']:.2f}  {place['sentence']}" for place in one["places"]]
        parts.append("")
    return "\n".join(parts)


def glimpse(task: SentenceTask, count: int = 4) -> str:
    """What is kept of each validation: greedy sentences, and readings of the same validation sentences."""
    sampler = Sampler(task, without_unknown(SamplingOptions()))
    found = {} if task.config.autoencoder else sampler.prior(count)
    return markdown(found | sampler.reconstructions(sampler.sentences("val", count)))


def overview(task: SentenceTask) -> str:
    """The page a finished run keeps: greedy and drawn sentences, reconstructions, two interpolations."""
    greedy = Sampler(task, without_unknown(SamplingOptions()))
    drawn = replace(greedy, how=replace(greedy.how, temperature=1.0, top_p=0.9))
    some = greedy.sentences("val", 10)
    parts = ["Words are the most likely ones, but for `<unk>`, unless something else is said.\n"]
    if not task.config.autoencoder:
        parts += [markdown(greedy.prior(10)), "The same z, words drawn (temperature 1, top-p 0.9):\n"]
        parts += [markdown(drawn.prior(10))]
    parts.append(markdown(greedy.reconstructions(some)))
    pairs = zip(some[0:4:2], some[1:4:2], strict=False)
    parts += [markdown(greedy.interpolation(*pair, points=7)) for pair in pairs]
    return "\n".join(parts)
