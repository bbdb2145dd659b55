"""Dialogs as compact tensors, and batches that hold, and so encode, each different utterance once.

Every utterance is a response exactly once, to the at most `window` - 1 utterances before it, the first of
which is the pseudo-utterance `<d>`. The authors' windows differ: see `authors_windows`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from cvae.config.schema import DialogFiles
from cvae.data.device import to_device
from cvae.data.dialog_records import START, UNKNOWN, Attributes, Dialog, Labels, Utterance
from cvae.data.text import Batches, Splits, order, overlap
from cvae.data.vocabulary import BOS, EOS, UNK

NOT_ENCODED = torch.empty(0)


@dataclass(frozen=True)
class ResponseBatch:
    """B responses and their contexts; packed sequences hold no pads (see `Spans` for their order).

    texts: tokens of the U different utterances in the batch.
    contexts: for each response the rows in `texts` of its context, oldest first; floors: 1 for each of these
    that the responder speaks, else 0. responses [B]: the row in `texts` of the response.
    inputs: what the decoder reads, `<s>` first; targets: what it predicts there, `</s>` last; owners: the
    response that each of these tokens belongs to. lengths [B]: `<s>` and `</s>` included.
    topics [B]: UNKNOWN for a new one. people [B, 2 A]: A numbers of the responder, A of the addressee.
    condition [B, C] and heard [B, H]: context and response as the model encodes them, once it has.
    """

    texts: PackedSequence
    contexts: PackedSequence
    floors: Tensor
    responses: Tensor
    inputs: PackedSequence
    targets: Tensor
    owners: Tensor
    lengths: Tensor
    topics: Tensor
    people: Tensor
    condition: Tensor = NOT_ENCODED
    heard: Tensor = NOT_ENCODED

    @property
    def counted(self) -> Tensor:
        """Predicted tokens per response, `</s>` included and `<s>` not: [B]."""
        return self.lengths - 1

    def without_words(self) -> ResponseBatch:
        """Return the same responses with all words that the decoder reads `<unk>`; the encoders read them."""
        unknown = torch.full_like(self.inputs.data, UNK)
        unknown[: len(self.lengths)] = BOS
        return replace(self, inputs=self.inputs._replace(data=unknown))


class Spans(NamedTuple):
    """The places in B spans [start, start + length) by time: all first places, then all second ones, ...

    places [N]; owners [N]: the span of each place; sizes [T]: the spans that reach a time; order [B]: the
    spans from the longest to the shortest.
    """

    places: np.ndarray
    owners: np.ndarray
    sizes: np.ndarray
    order: np.ndarray

    @property
    def orders(self) -> tuple[np.ndarray, np.ndarray]:
        """`order` and its inverse, [B] each: a packed sequence has them on the device of its data."""
        return self.order, np.argsort(self.order)

    def packed(self, data: Tensor, *orders: Tensor) -> PackedSequence:
        """Return `data` [N, ...], a row for each place, as a packed sequence."""
        return PackedSequence(data, torch.from_numpy(self.sizes), *orders)


def spans(starts: np.ndarray, lengths: np.ndarray) -> Spans:
    """Return the places of spans of lengths [B] >= 1 from starts [B]."""
    ranked = np.argsort(-lengths, kind="stable")
    times = np.arange(lengths[ranked[0]])
    inside = times[:, None] < lengths[ranked]
    places = (starts[ranked] + times[:, None])[inside]
    return Spans(places, np.broadcast_to(ranked, inside.shape)[inside], inside.sum(1), ranked)


class DialogCorpus:
    """The dialogs of one split, on one device. Responses are numbered from 0 in the order of the file.

    A place is the number of an utterance, `<d>` included, in the split; a text is one of the different ones.
    """

    def __init__(
        self, dialogs: Sequence[Dialog], labels: Labels, config: DialogFiles, device: torch.device
    ) -> None:
        self.labels, self.config, self.device = labels, config, device
        known: dict[tuple[int, ...], int] = {}
        begin = Utterance(UNKNOWN, [START])  # said by nobody
        rows = [(number, u) for number, dialog in enumerate(dialogs) for u in (begin, *dialog.utterances)]
        ids = [[BOS, *self.numbers(utterance.words), EOS] for _, utterance in rows]
        self._words = [" ".join(utterance.words) for _, utterance in rows]
        self.texts = np.array([known.setdefault(tuple(text), len(known)) for text in ids])
        self.dialogs = np.array([number for number, _ in rows])
        self.speakers = np.array([utterance.speaker for _, utterance in rows])
        self.acts = np.array([labels.acts.get(utterance.act, UNKNOWN) for _, utterance in rows])
        self.text_lengths = np.array([len(text) for text in known])
        self.text_starts = np.cumsum(self.text_lengths) - self.text_lengths
        size = int(self.text_lengths.sum())
        self._flat = np.fromiter((n for text in known for n in text), np.int32, size)
        self.tokens = torch.from_numpy(self._flat).to(device)
        self.places = np.flatnonzero(self.speakers >= 0)
        first = np.searchsorted(self.dialogs, self.dialogs[self.places])
        self.starts = np.maximum(first, self.places - (config.window - 1))
        self.lengths = self.text_lengths[self.texts[self.places]]
        self.topics = np.array([labels.topics.get(dialog.topic, UNKNOWN) for dialog in dialogs])
        self.names = [dialog.names for dialog in dialogs]
        self._describe(dialogs, np.array([utterance.addressee for _, utterance in rows]))

    def _describe(self, dialogs: Sequence[Dialog], addressees: np.ndarray) -> None:
        """Set `people` [P + 1, A], the last one of zeros, and the rows in it of speakers and addressees."""
        encode = self.labels.attributes.encode
        everybody = [person for dialog in dialogs for person in dialog.people]
        everybody.append({})
        self.people = np.array([encode(person) for person in everybody], np.float32)
        self.described = np.array([bool(person) for person in everybody])
        sizes = np.array([len(dialog.people) for dialog in dialogs])
        first = (np.cumsum(sizes) - sizes)[self.dialogs]
        self.responder, self.addressee = (
            np.where(numbers == UNKNOWN, UNKNOWN, first + numbers) for numbers in (self.speakers, addressees)
        )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def counted(self) -> int:
        """Predicted tokens: every word and `</s>`, not `<s>`."""
        return int(self.lengths.sum()) - len(self)

    @property
    def unknown_share(self) -> float:
        """The share of the responses' words that are `<unk>`; `</s>` is not a word."""
        unknown = np.add.reduceat(self._flat == UNK, self.text_starts, dtype=np.int64)
        return int(unknown[self.texts[self.places]].sum()) / max(1, self.counted - len(self))

    def counts(self) -> dict[str, int]:
        """Return the sizes of the split, and how much is unknown of what the train split has."""
        labels, speakers = self.labels, self.responder[self.places]
        counts = {"dialogs": len(self.topics), "sentences": len(self), "tokens": self.counted}
        if labels.topics:
            counts["unknown_topics"] = int((self.topics == UNKNOWN).sum())
        if labels.acts:
            counts["unknown_acts"] = int((self.acts[self.places] == UNKNOWN).sum())
        if len(labels.attributes):
            counts["unknown_speakers"] = int((~self.described[speakers]).sum())
        return counts

    @property
    def average_person(self) -> Tensor:
        """The mean numbers of those people of whom anything is known: [A]."""
        return torch.from_numpy(self.people.sum(0) / max(1, int(self.described.sum()))).to(self.device)

    def name(self, place: int) -> str:
        """Return the name of who speaks at a place."""
        return self.names[self.dialogs[place]][self.speakers[place]]

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Return the numbers of words, as many as fit between `<s>` and `</s>`."""
        return [self.labels.vocabulary.index.get(word, UNK) for word in words[: self.config.max_tokens - 2]]

    def utterance(self, place: int) -> list[int]:
        """Return the word numbers at a place, without `<s>` and `</s>`."""
        text = self.texts[place]
        start = self.text_starts[text]
        return self._flat[start + 1 : start + self.text_lengths[text] - 1].tolist()

    def sentences(self, responses: np.ndarray) -> list[list[int]]:
        """Return the word numbers of the responses with these numbers."""
        return [self.utterance(place) for place in self.places[responses]]

    def words(self, responses: np.ndarray) -> list[list[str]]:
        """Return the words of these responses as in the file: no `<unk>`, nothing cut off."""
        return [self._words[place].split() for place in self.places[responses]]

    def context(self, response: int) -> list[list[int]]:
        """Return the word numbers of the utterances before a response, oldest first, without `<d>`."""
        places = range(self.starts[response], self.places[response])
        return [self.utterance(place) for place in places if self.speakers[place] >= 0]

    def batch(self, responses: np.ndarray, starts: np.ndarray | None = None) -> ResponseBatch:
        """Return the responses with these numbers, in this order, and their contexts.

        `starts` [B] are the places where the contexts begin, by default `window` - 1 utterances before the
        response or at the start of the dialog.
        """
        places = self.places[responses]
        starts = self.starts[responses] if starts is None else starts
        before = spans(starts, places - starts)
        used = np.concatenate([self.texts[before.places], self.texts[places]])
        different, rows = np.unique(used, return_inverse=True)
        read = spans(self.text_starts[different], self.text_lengths[different])
        decoded = spans(self.text_starts[self.texts[places]], self.lengths[responses] - 1)
        speakers, dialogs = self.speakers[places], self.dialogs[places]
        people = np.concatenate([self.people[self.responder[places]], self.people[self.addressee[places]]], 1)
        split = len(before.places)
        floors = (self.speakers[before.places] == speakers[before.owners]).astype(np.float32)
        moved = to_device(  # all that a GPU must be sent, in one copy
            self.device,
            *(read.places, *read.orders),
            *(rows[:split], *before.orders),
            *(decoded.places, *decoded.orders),
            *(floors, rows[split:], decoded.owners, self.lengths[responses], self.topics[dialogs], people),
        )
        (text_tokens, *text_orders), contexts, (tokens, *orders) = moved[:3], moved[3:6], moved[6:9]
        floor, response, owners, lengths, topics, persons = moved[9:]
        return ResponseBatch(
            texts=read.packed(self.tokens[text_tokens].long(), *text_orders),
            contexts=before.packed(*contexts),
            floors=floor,
            responses=response,
            inputs=decoded.packed(self.tokens[tokens].long(), *orders),
            targets=self.tokens[tokens + 1].long(),
            owners=owners,
            lengths=lengths,
            topics=topics,
            people=persons,
        )

    def batches(self, responses: np.ndarray, size: int) -> list[ResponseBatch]:
        """Return these responses in batches, neighbours together, the same for every seed."""
        ranked = np.sort(responses)
        return [self.batch(ranked[i : i + size]) for i in range(0, len(ranked), size)]


def authors_windows(corpus: DialogCorpus, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the authors' batches of `size` responses: their numbers and the places of their contexts, [B].

    Protocol B1 and B4: dialogs sorted by length are grouped by `size`; the longest, too few for a group, are
    left out. Each window [start, end) of a group is a batch: in every dialog its last utterance is the
    response to those before. A dialog that has ended repeats its last utterance, with less context each time;
    windows that begin after the shortest dialog has ended are left out.
    """
    firsts = np.flatnonzero(corpus.speakers == UNKNOWN)
    lengths = np.diff([*firsts, len(corpus.speakers)])
    ranked = np.argsort(lengths, kind="stable")
    for group in np.split(ranked, range(size, len(ranked) + 1, size))[:-1]:
        shortest, longest = lengths[group[[0, -1]]]
        for end in range(2, longest):
            start = max(0, end - corpus.config.window)
            if start < shortest - 1:
                last = firsts[group] + np.minimum(end, lengths[group]) - 1
                yield np.searchsorted(corpus.places, last), firsts[group] + start


class DialogBatches(Batches):
    """A split cut into passages of `consecutive` responses of one dialog, whose contexts overlap.

    An epoch is all passages in a new order, cut into training batches of `size` responses: a passage may
    continue in the next batch. With `whole` none is cut, and a batch holds as many as fit. A batch of
    passages of 8 holds a fifth of the utterances that single windows of ten would.
    """

    def __init__(self, corpus: DialogCorpus, consecutive: int, size: int, seed: int, whole: bool) -> None:
        self.corpus, self.size, self.seed = corpus, size, seed
        every = np.arange(len(corpus))
        self.members = [every[i : i + size] for i in range(0, len(every), size)]
        dialogs = corpus.dialogs[corpus.places]
        turn = every - np.searchsorted(dialogs, dialogs)
        length = min(consecutive, size)
        self.passages = np.split(every, np.flatnonzero(turn % length == 0)[1:])
        self._together = size // length if whole else None
        self._epoch, self._batches = -1, [every]

    def __len__(self) -> int:
        """Return the number of training batches in an epoch."""
        if self._together is None:
            return len(self.members)
        return -(-len(self.passages) // self._together)

    def drawn(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, len(self))
        if epoch != self._epoch:
            passages = [self.passages[number] for number in order(len(self.passages), self.seed, epoch)]
            cuts = self.size * np.arange(1, len(self))
            if self._together is not None:
                cuts = np.cumsum([len(passage) for passage in passages])[self._together - 1 :: self._together]
            self._epoch, self._batches = epoch, np.split(np.concatenate(passages), cuts)
        return self._batches[place]


@dataclass(frozen=True)
class DialogSplits(Splits[DialogCorpus]):
    """The dialogs of train, val, test and, where some are only measured, held.

    `topics` and `acts` are empty where there are none; `people` numbers describe responder and addressee.
    """

    topics: list[str]
    acts: list[str]
    people: int


def splits(
    dialogs: Mapping[str, Sequence[Dialog]],
    fingerprints: dict[str, str],
    config: DialogFiles,
    device: torch.device,
    attributes: Attributes | None = None,
) -> DialogSplits:
    """Return the data set of these dialogs, numbered by the train split (`Labels`)."""
    labels = Labels(dialogs["train"], config.vocabulary, attributes)
    corpora = {split: DialogCorpus(rows, labels, config, device) for split, rows in dialogs.items()}
    hashes = {
        split: array(
            "q", (hash(tuple(utterance.words)) for dialog in rows for utterance in dialog.utterances)
        )
        for split, rows in dialogs.items()
    }
    people = 2 * len(labels.attributes)
    topics, acts = list(labels.topics), list(labels.acts)
    return DialogSplits(labels.vocabulary, corpora, fingerprints, overlap(hashes), topics, acts, people)
