"""A dialog as its reader hands it on, what the readers share, and the numbers of what dialogs consist of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvae.data.sources import json_lines, place
from cvae.data.vocabulary import BYTE_ORDER_MARK, Vocabulary
from cvae.errors import UserError

# NLTK's WordPunctTokenizer: runs of letters and digits, and runs of anything else but space
TOKEN = re.compile(r"\w+|[^\w\s]+")
START = "<d>"
UNKNOWN = -1  # the number of a topic, act or person of which nothing is known, and of the speaker of `<d>`
MOST_VALUES = 1000  # different words that an attribute may have, a column of numbers each

Person = Mapping[str, float | str]  # what is known of a speaker: attributes by name


class Utterance(NamedTuple):
    """Words, the dialog act if it is known, and the numbers of speaker and addressee among the people."""

    speaker: int
    words: list[str]
    act: str | None = None
    addressee: int = UNKNOWN


class Dialog(NamedTuple):
    """A dialog of speakers that have names to show, and attributes; None is an unknown topic."""

    topic: str | None
    names: list[str]
    people: list[Person]
    utterances: list[Utterance]


class Malformed(ValueError):
    """What is wrong with a line, without where."""


def tokenise(text: str, lower: bool = True) -> list[str]:
    """Return words as NLTK's WordPunctTokenizer cuts them: "don't" is three."""
    text = text.replace(BYTE_ORDER_MARK, "")
    return TOKEN.findall(text.lower() if lower else text)


def read(path: Path, parse: Callable[[Any], Dialog]) -> list[Dialog]:
    """Return the dialogs of a file, one a line of JSON, whose value `parse` turns into a dialog.

    Raises UserError with file and line for what is not JSON, and for what is Malformed.
    """
    dialogs = []
    for number, value in json_lines(path):
        try:
            dialogs.append(parse(value))
        except Malformed as error:
            raise UserError(f"{place(path, number)}: {error}") from None
    if not dialogs:
        raise UserError(f"{path} has no dialog in it")
    return dialogs


@dataclass(frozen=True)
class Attributes:
    """The numbers that describe a person, 0 for what is unknown.

    numbers: mean and scale of each attribute that is a number. words: the values of each attribute that is
    a word, a column each, which is 1 for a person who has it.
    """

    numbers: Mapping[str, tuple[float, float]]
    words: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, people: Iterable[Person]) -> Attributes:
        """Return the attributes that any of these people have; numbers get mean 0 and variance 1.

        A number that is the same for all is always 0. Raises UserError for a word of too many values.
        """
        found: dict[str, list[Any]] = {}
        for person in people:
            for name, value in person.items():
                found.setdefault(name, []).append(value)
        numbers, words = {}, {}
        for name, values in sorted(found.items()):
            if isinstance(values[0], str):
                words[name] = sorted(set(values))
                if len(words[name]) > MOST_VALUES:
                    raise UserError(
                        f"the speakers' {name} has {len(words[name]):,} different values, at most"
                        f" {MOST_VALUES:,} are possible: leave it out, or make it a number"
                    )
            else:
                column = np.array(values, float)
                same = column.min() == column.max()  # then the deviation may be a little more than 0
                numbers[name] = float(column.mean()), float(0 if same else column.std()) or float("inf")
        return cls(numbers, words)

    def __len__(self) -> int:
        return len(self.numbers) + sum(map(len, self.words.values()))

    @property
    def names(self) -> list[str]:
        """The names of the attributes, numbers first."""
        return [*self.numbers, *self.words]

    def encode(self, person: Person) -> list[float]:
        """Return the numbers of a person."""
        numbers = [
            (float(person[name]) - mean) / scale if name in person else 0.0
            for name, (mean, scale) in self.numbers.items()
        ]
        return numbers + [
            float(person.get(name) == value) for name, values in self.words.items() for value in values
        ]


class Labels:
    """Words, topics and dialog acts of the train split and their numbers, by falling frequency.

    `attributes` are those of its speakers unless given. What the train split lacks is empty.
    """

    def __init__(self, dialogs: Sequence[Dialog], words: int, attributes: Attributes | None) -> None:
        utterances = [utterance for dialog in dialogs for utterance in dialog.utterances]
        sentences = [utterance.words for utterance in utterances] + [[START]] * len(dialogs)
        # `<s>` and `</s>`, in every utterance, are among the `words`; `<pad>` and `<unk>` are not
        self.vocabulary = Vocabulary.of(sentences, max_types=words - 2)
        self.topics = _ranked(dialog.topic for dialog in dialogs)
        self.acts = _ranked(utterance.act for utterance in utterances)
        self.attributes = attributes or Attributes.of(
            person for dialog in dialogs for person in dialog.people
        )


def _ranked(names: Iterable[str | None]) -> dict[Any, int]:
    """Return the number of each name, by falling frequency, ties in alphabetical order; None has none."""
    counts = Counter(name for name in names if name is not None)
    return {name: n for n, name in enumerate(sorted(counts, key=lambda name: (-counts[name], name)))}
