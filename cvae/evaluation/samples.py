"""Sentences to read: from the prior, reconstructed, and between two sentences."""

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
from cvae.data import files, sources
from cvae.data.text import Batch, Splits, fixed_subset
from cvae.data.vocabulary import UNK, words_of
from cvae.errors import UserError
from cvae.evaluation.codec import Codec
from cvae.models import gaussian
from cvae.models.decode import SamplingOptions

Samples = dict[str, Any]
GLIMPSED = 4  # sentences that each validation keeps


class SentenceTask(Protocol):
    """A task with a model of single sentences."""

    config: Config
    data: Splits

    @property
    def codec(self) -> Codec: ...

    def means(self, batches: Iterable[Batch]) -> Tensor: ...

    def codes(self, split: str, count: int | None) -> tuple[Tensor, list[str]]: ...


@dataclass(frozen=True)
class Sampler:
    """Samples from a model of sentences; its noise depends on the seed only, so calls can be repeated.

    Only `neighbours`, `sentences` and labels need a task with a corpus.
    """

    task: SentenceTask
    options: SamplingOptions
    longest: int = 60
    seed: int = 0

    def prior(self, count: int) -> Samples:
        """Return `count` sentences with z from N(0, I)."""
        noise = self._generator()
        like = torch.empty(count, self.task.config.model.latent, device=self.task.codec.device)
        return {"prior": self._decode(gaussian.sample(gaussian.standard(like), noise), noise)}

    def reconstructions(self, sentences: Sequence[str]) -> Samples:
        """Return each sentence with the decoding of its posterior mean."""
        decoded = self.decoded(self._means(sentences))
        pairs = zip(map(self._known, sentences), decoded, strict=True)
        return {"reconstructions": [{"sentence": read, "reconstruction": text} for read, text in pairs]}

    def interpolation(self, first: str, last: str, points: int) -> Samples:
        """Return the decodings of `points` places on the line between two posterior means, both included."""
        ends = self._means([first, last])
        shares = torch.linspace(0, 1, points, device=ends.device)
        decoded = self.decoded(torch.lerp(ends[0], ends[1], shares[:, None]))
        pairs = zip(shares.tolist(), decoded, strict=True)
        places = [{"share": round(share, 3), "sentence": sentence} for share, sentence in pairs]
        ends_read = {"from": self._known(first), "to": self._known(last)}
        return {"interpolation": {**ends_read, "places": places}}

    def neighbours(self, sentences: Sequence[str], split: str, count: int) -> Samples:
        """Return for each sentence the `count` sentences of a split with the nearest posterior means."""
        means, texts = self.task.codes(split, None)
        neighbours = []
        for sentence, z in zip(sentences, self._means(sentences), strict=True):
            near = torch.linalg.vector_norm(means - z, dim=1).topk(min(count, len(texts)), largest=False)
            pairs = zip(near.values.tolist(), near.indices.tolist(), strict=True)
            nearest = [{"distance": round(far, 3), "sentence": texts[number]} for far, number in pairs]
            neighbours.append({"sentence": self._known(sentence), "nearest": nearest})
        return {"neighbours": neighbours}

    def arithmetic(self, sentences: Sequence[str], start: str, end: str, points: int) -> Samples:
        """Return sentences moved by 0 to 2 times the difference between two sets' mean codes (`centre`)."""
        way = self.centre(end) - self.centre(start)
        times = torch.linspace(0, 2, points, device=way.device)
        moved = []
        for sentence, z in zip(sentences, self._means(sentences), strict=True):
            decoded = self.decoded(z + times[:, None] * way)
            pairs = zip(times.tolist(), decoded, strict=True)
            places = [{"times": round(factor, 3), "sentence": text} for factor, text in pairs]
            moved.append({"sentence": self._known(sentence), "places": places})
        return {"arithmetic": {"from": start, "to": end, "sentences": moved}}

    def centre(self, what: str) -> Tensor:
        """Return the mean code [Z] of a file's sentences, or of the training sentences with a label.

        A label is a name, or else the number of one. Raises UserError for what is neither, and for a file
        that is no text.
        """
        if Path(what).is_file():
            files.check(Path(what), getattr(self.task.config.dataset, "max_words", math.inf))
            return self._means([line for _, line in sources.lines(Path(what)) if words_of(line)]).mean(0)
        classes = self.task.data.classes
        numbers = {str(n): n for n in range(len(classes))} | {name: n for n, name in enumerate(classes)}
        if what not in numbers:
            raise UserError(f"{what} is no file" + (f" and no class: {listing(classes)}" if classes else ""))
        train = self.task.data.corpora["train"]
        rows = np.flatnonzero(train.labels == numbers[what])
        return self.task.means(train.batches(rows, self.task.config.train.batch_size)).mean(0)

    def sentences(self, split: str, count: int) -> list[str]:
        """Return `count` sentences of a split, the same in every run on it."""
        corpus = self.task.data.corpora[split]
        tokens = corpus.batch(fixed_subset(count, len(corpus))).tokens
        return [self.task.data.vocabulary.sentence(row) for row in tokens.tolist()]

    def decoded(self, z: Tensor) -> list[str]:
        """Return a sentence for each row of z [N, Z]."""
        return self._decode(z, self._generator())

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.task.codec.device).manual_seed(self.seed)

    def _known(self, sentence: str) -> str:
        """Return a sentence as the model reads it."""
        return self.task.codec.known(sentence)

    def _means(self, sentences: Sequence[str]) -> Tensor:
        """Return the posterior means [N, Z]."""
        return self.task.codec.encode(sentences).mean

    def _decode(self, z: Tensor, noise: torch.Generator) -> list[str]:
        """Return a sentence for each row of z [N, Z]."""
        return self.task.codec.decode(z, self.options, self.longest, noise)


def without_unknown(options: SamplingOptions) -> SamplingOptions:
    """Return the same options with `<unk>` forbidden."""
    return replace(options, forbid=(*options.forbid, UNK))


def literal(words: str) -> str:
    """Return words as a code span, in which Markdown changes nothing; "" for no words."""
    words = " ".join(words.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{fence} {words} {fence}" if "`" in words else f"`{words}`" if words else ""


def markdown(samples: Samples) -> str:
    """Return `text` in Markdown, with all words as code spans."""

    def marked(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: marked(value) for key, value in part.items()}
        if isinstance(part, list):
            return list(map(marked, part))
        return literal(part) if isinstance(part, str) else part

    return text(marked(samples))


def text(samples: Samples) -> str:
    """Return samples as text for a terminal."""
    lines = []
    if "prior" in samples:
        lines += ["## z from the prior", "", *(f"- {sentence}" for sentence in samples["prior"]), ""]
    if "reconstructions" in samples:
        lines += ["## Sentences, and the decoder's reading of their z", ""]
        for pair in samples["reconstructions"]:
            lines += [f"- {pair['sentence']}", f"  - {pair['reconstruction']}"]
        lines.append("")
    if way := samples.get("interpolation"):
        lines += [f"## From “{way['from']}” to “{way['to']}”", ""]
        lines += [f"- {place['share']:.2f}  {place['sentence']}" for place in way["places"]] + [""]
    for row in samples.get("neighbours", ()):
        lines += [f"## Nearest to “{row['sentence']}”", ""]
        lines += [f"- {near['distance']:.2f}  {near['sentence']}" for near in row["nearest"]] + [""]
    if way := samples.get("arithmetic"):
        lines += [f"## z + t · (mean of {way['to']} − mean of {way['from']})", ""]
        for row in way["sentences"]:
            lines.append(f"- {row['sentence']}")
            lines += [f"  - {place['times']:.2f}  {place['sentence']}" for place in row["places"]]
        lines.append("")
    return "\n".join(lines)


def glimpse(task: SentenceTask) -> str:
    """Return what is kept at each validation: greedy samples, and reconstructions of fixed sentences."""
    sampler = Sampler(task, without_unknown(SamplingOptions()))
    prior = {} if task.config.autoencoder else sampler.prior(GLIMPSED)
    return markdown(prior | sampler.reconstructions(sampler.sentences("val", GLIMPSED)))


def overview(task: SentenceTask) -> str:
    """Return samples.md of a finished run: greedy and drawn samples, reconstructions, two interpolations."""
    greedy = Sampler(task, without_unknown(SamplingOptions()))
    drawn = replace(greedy, options=replace(greedy.options, temperature=1.0, top_p=0.9))
    sentences = greedy.sentences("val", 10)
    parts = ["Words are the most likely ones, but for `<unk>`, unless something else is said.\n"]
    if not task.config.autoencoder:
        parts += [markdown(greedy.prior(10)), "The same z, words drawn (temperature 1, top-p 0.9):\n"]
        parts += [markdown(drawn.prior(10))]
    parts.append(markdown(greedy.reconstructions(sentences)))
    pairs = zip(sentences[0:4:2], sentences[1:4:2], strict=False)
    parts += [markdown(greedy.interpolation(*pair, points=7)) for pair in pairs]
    return "\n".join(parts)
