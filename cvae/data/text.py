"""Sentences as one compact integer tensor, and the batches taken from it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from cvae.data.device import to_device
from cvae.data.encoding import Numbers, compact, encode_all, tokens_of
from cvae.data.vocabulary import BOS, UNK, Vocabulary
from cvae.errors import UserError


@dataclass(frozen=True)
class Batch:
    """`tokens` [B, L], `<s>` first, padded with 0 after `</s>`; `lengths` [B] count both.

    `previous` [B, L-1] is what the decoder reads where that differs from the tokens.
    """

    tokens: Tensor
    lengths: Tensor
    previous: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """What the decoder reads: [B, L-1]."""
        return self.tokens[:, :-1] if self.previous is None else self.previous

    @property
    def targets(self) -> Tensor:
        """What the decoder predicts: [B, L-1], `</s>` included, pads 0."""
        return self.tokens[:, 1:]

    @property
    def counted(self) -> Tensor:
        """Predicted tokens per sentence, `</s>` included and `<s>` not: [B]."""
        return self.lengths - 1

    def without_words(self) -> Batch:
        """Return the same sentences with all words that the decoder reads `<unk>`; the encoder reads them."""
        unknown = torch.full_like(self.inputs, UNK)
        unknown[:, 0] = BOS
        return replace(self, previous=unknown)


class Corpus:
    """The sentences of one split, on one device, as a flat tensor of the smallest integer type.

    In host memory: `labels` [N] are their classes, empty where they have none; `words` [N] the words of their
    raw text, by default their tokens. `unknown` tokens are `<unk>`, the corpus's own included.
    """

    def __init__(
        self,
        sentences: Iterable[Sequence[int]],
        types: int,
        device: torch.device,
        labels: Sequence[int] | np.ndarray = (),
        words: Sequence[int] | None = None,
    ) -> None:
        flat, lengths = tokens_of(types), array("i")
        for sentence in sentences:
            flat.extend(sentence)
            lengths.append(len(sentence))
        self._place(Numbers.of(flat, lengths, words, labels), device)

    @classmethod
    def of(cls, numbers: Numbers, device: torch.device) -> Corpus:
        """Return the corpus of these numbers, which are not copied in host memory."""
        corpus = cls.__new__(cls)
        corpus._place(numbers, device)
        return corpus

    def _place(self, numbers: Numbers, device: torch.device) -> None:
        tokens, self.lengths, self.words, self.labels, self.unknown = numbers
        starts = np.cumsum(self.lengths, dtype=np.int64)
        starts -= self.lengths
        self.tokens = tokens.to(device)
        self._starts = torch.from_numpy(starts).to(device)
        self._lengths = torch.from_numpy(self.lengths).to(device)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def counted(self) -> int:
        """Predicted tokens: every word and `</s>`, not `<s>`."""
        return int(self.lengths.sum()) - len(self)

    @property
    def unknown_share(self) -> float:
        """The share of tokens that are `<unk>`, the corpus's own included, of all but `<s>` and `</s>`."""
        return self.unknown / max(1, self.counted - len(self))

    def batch(self, sentences: np.ndarray) -> Batch:
        """Return the sentences with these numbers, in this order, padded where their lengths differ."""
        lengths = self.lengths[sentences]
        width = int(lengths.max())
        (rows,) = to_device(self.tokens.device, sentences.astype(np.int64, copy=False))
        places = torch.arange(width, device=self.tokens.device)
        length = self._lengths[rows].long()
        if int(lengths.min()) == width:
            return Batch(self.tokens[self._starts[rows, None] + places].long(), length)
        inside = places < length[:, None]
        index = (self._starts[rows, None] + places) * inside
        return Batch(self.tokens[index].long() * inside, length)

    def batches(self, sentences: np.ndarray, size: int) -> list[Batch]:
        """Return the sentences with these numbers in batches of similar length, the same for every seed."""
        return [self.batch(sentences[part]) for part in bucketed(self.lengths[sentences], size, seed=0)]


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of n that depends on its arguments only, so that resuming needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def equal_length(lengths: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Return batches of at most `size` sentences of exactly one length; every sentence is in one batch.

    Protocol A1: shuffle, sort by length, cut; membership is fixed for the run.
    """
    ranked = _by_length(lengths, seed)
    runs = np.split(ranked, np.flatnonzero(np.diff(lengths[ranked])) + 1)
    return [run[i : i + size] for run in runs for i in range(0, len(run), size)]


def bucketed(lengths: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Return batches of `size` sentences of similar length, for corpora where equal lengths are rare."""
    ranked = _by_length(lengths, seed)
    return [ranked[i : i + size] for i in range(0, len(ranked), size)]


def _by_length(lengths: np.ndarray, seed: int) -> np.ndarray:
    """Return all sentences sorted by length, in random order within a length."""
    shuffled = compact(np.random.default_rng(seed).permutation(len(lengths)))
    return shuffled[np.argsort(lengths[shuffled], kind="stable")]


def fixed_subset(count: int | None, size: int) -> np.ndarray:
    """Return `count` random numbers below `size`, the same for every run; all where null or too many.

    A smaller subset is part of a larger one.
    """
    return order(size, seed=0, epoch=0)[:count]


SAMPLERS = {"equal_length": equal_length, "bucketed": bucketed}


class Batches:
    """A split cut into batches: the same sentences together in every epoch, in a new order each time."""

    corpus: Any  # a Corpus here, a DialogCorpus in DialogBatches

    def __init__(self, corpus: Corpus, sampler: str, size: int, seed: int) -> None:
        self.corpus, self.seed = corpus, seed
        self.members = SAMPLERS[sampler](corpus.lengths, size, seed)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Any]:
        """Yield every batch once, in a fixed order: for evaluation."""
        return (self.corpus.batch(members) for members in self.members)

    def at(self, step: int) -> Any:
        """Return the batch of an optimizer step, a pure function of (seed, step)."""
        return self.corpus.batch(self.drawn(step))

    def drawn(self, step: int) -> np.ndarray:
        """Return the numbers of the sentences in the batch of a step."""
        epoch, place = divmod(step, len(self))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order(len(self), self.seed, epoch)
        return self.members[self._order[place]]


def extra_batches(batches: Batches, step: int) -> Iterator[Any]:
    """Yield more batches of the epoch of `step`, without end: a pure function of (seed, step)."""
    draws = np.random.default_rng([batches.seed, step, 1])  # the 1 sets it apart from every epoch's order
    first = step - step % len(batches)
    while True:
        yield batches.at(first + int(draws.integers(len(batches))))


CorpusT = TypeVar("CorpusT")


@dataclass(frozen=True)
class Splits(Generic[CorpusT]):
    """A data set: the vocabulary, `corpora` by split (train, val, test), and where they come from.

    `in_train` is the share of each other split's sentences that occur in train word for word.
    `notes` tell what was done with the files that the user may not have asked for. `classes` are the names of
    the labels, in the order of their numbers.
    """

    vocabulary: Vocabulary
    corpora: dict[str, CorpusT]
    fingerprints: dict[str, str]
    in_train: dict[str, float]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)


def overlap(hashes: dict[str, array]) -> dict[str, float]:
    """Return the share of each split's sentences that train has too, from the hashes of their words.

    Empty where there is no train.
    """
    others = (split for split in hashes if split != "train" and "train" in hashes)
    return {split: float(np.isin(hashes[split], hashes["train"]).mean()) for split in others}


def splits(
    texts: Mapping[str, Iterable[str]],
    vocabulary: Vocabulary,
    device: torch.device,
    fingerprints: dict[str, str],
    labels: Mapping[str, Sequence[int]] | None = None,
) -> Splits[Corpus]:
    """Return the data set of these sentences, numbered by a vocabulary.

    Raises UserError for a split without a sentence, and for a reserved word.
    """
    hashes, corpora = {}, {}
    for split, sentences in texts.items():
        encoded = encode_all(vocabulary, sentences)
        if not encoded.lengths:
            raise UserError(f"the split {split} has no sentence in it")
        hashes[split] = encoded.hashes
        corpora[split] = Corpus.of(Numbers.of(*encoded[:3], labels[split] if labels else ()), device)
    return Splits(vocabulary, corpora, fingerprints, overlap(hashes))
