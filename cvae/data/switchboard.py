"""Dialogs from the jsonl files of the paper's authors, quirks included (protocol B1)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cvae.config.schema import DialogData
from cvae.data.vocabulary import BYTE_ORDER_MARK
from cvae.errors import UserError
from cvae.io import parse_json

# NLTK's WordPunctTokenizer: runs of letters and digits, and runs of anything else but space
TOKEN = re.compile(r"\w+|[^\w\s]+")
SPEAKERS = ("A", "B")
STRANGER = 2  # the number of the first speaker beside A and B; nothing is known of 2, 3, ...
SEXES = {"FEMALE": (1.0, 0.0), "MALE": (0.0, 1.0), "UNK": (0.0, 0.0)}
EDUCATION = {"0": 0, "1": 1, "2": 2, "3": 3, "9": 2}  # 9 is unknown and counts as the commonest


class Utterance(NamedTuple):
    """The number of the speaker (in SPEAKERS, or from STRANGER on), lower-case words, and the dialog act."""

    speaker: int
    words: list[str]
    act: str


class Dialog(NamedTuple):
    """A telephone call: `people` holds age / 100, education / 3 and the sex, two numbers, of A and B."""

    topic: str
    people: list[tuple[float, float, float, float]]
    utterances: list[Utterance]


class Malformed(ValueError):
    """What is wrong with a line, without where."""


def read(config: DialogData) -> tuple[dict[str, list[Dialog]], dict[str, str]]:
    """Return the dialogs and the sha256 of every file.

    Raises UserError naming the file, the line and what is wrong with it.
    """
    config.refuse_missing()
    dialogs, prints = {}, {}
    for split, path in config.files().items():
        dialogs[split] = list(_dialogs(path))
        if not dialogs[split]:
            raise UserError(f"{path} has no dialog in it")
        prints[split] = hashlib.sha256(path.read_bytes()).hexdigest()
    return dialogs, prints


def tokenise(text: str) -> list[str]:
    """Return lower-case words as NLTK's WordPunctTokenizer cuts them: "don't" is three."""
    return TOKEN.findall(text.replace(BYTE_ORDER_MARK, "").lower())


def _dialogs(path: Path) -> Iterator[Dialog]:
    """Yield the dialogs of a file, one a line, blank lines skipped. Raises UserError."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.replace(BYTE_ORDER_MARK.encode(), b"").strip():
                continue
            try:
                yield _dialog(parse_json(raw))
            except UnicodeDecodeError as error:
                wrong = f"not UTF-8 (byte {raw[error.start]:#04x} at place {error.start})"
            except json.JSONDecodeError as error:
                wrong = f"not JSON: {error.msg} at place {error.pos}"
            except ValueError as error:  # Malformed is one
                wrong = str(error)
            else:
                continue
            raise UserError(f"{path}, line {number}: {wrong}")


def _dialog(line: Any) -> Dialog:
    """Return the dialog that a line of JSON describes. Raises Malformed."""
    if not isinstance(line, dict):
        raise Malformed(f"a dialog is an object with A, B, topic and utts, found {_short(line)}")
    if missing := [key for key in (*SPEAKERS, "topic", "utts") if key not in line]:
        raise Malformed(f"{', '.join(missing)} missing")
    if not isinstance(line["topic"], str):
        raise Malformed(f"topic must be text, found {_short(line['topic'])}")
    if not isinstance(line["utts"], list) or not line["utts"]:
        raise Malformed(f"utts must be a list of utterances, found {_short(line['utts'])}")
    people = [_person(name, line[name]) for name in SPEAKERS]
    numbers = {name: number for number, name in enumerate(SPEAKERS)}
    utterances = [_utterance(place, value, numbers) for place, value in enumerate(line["utts"], start=1)]
    if all(utterance.speaker >= STRANGER for utterance in utterances):
        others = ", ".join(list(numbers)[STRANGER:][:3])
        raise Malformed(f"speakers must be named as they are described, A and B, found only {others[:60]}")
    return Dialog(_clean(line["topic"]), people, utterances)


def _person(name: str, value: Any) -> tuple[float, float, float, float]:
    """Return the four numbers of a speaker. Raises Malformed."""
    if not isinstance(value, dict) or (missing := {"age", "education", "sex"} - set(value)):
        what = f"{', '.join(sorted(missing))} missing" if isinstance(value, dict) else _short(value)
        raise Malformed(f"{name} must have an age, education and sex, found {what}")
    age, education, sex = (_clean(str(value[key])) for key in ("age", "education", "sex"))
    if not re.fullmatch(r"\d{1,3}", age):
        raise Malformed(f"{name}.age must be a whole number, found {_short(value['age'])}")
    if education not in EDUCATION:
        raise Malformed(
            f"{name}.education must be 0, 1, 2, 3 or 9 (unknown), found {_short(value['education'])}"
        )
    if sex not in SEXES:
        raise Malformed(f"{name}.sex must be FEMALE, MALE or UNK (unknown), found {_short(value['sex'])}")
    return int(age) / 100, EDUCATION[education] / 3, *SEXES[sex]


def _utterance(place: int, value: Any, numbers: dict[str, int]) -> Utterance:
    """Return an utterance; a speaker who is not in `numbers` yet gets the next one. Raises Malformed."""
    match value:
        case [str(speaker), str(text), [str(act), *_]]:
            number = numbers.setdefault(_clean(speaker), len(numbers))
            return Utterance(number, tokenise(text), _clean(act))
    raise Malformed(f"utterance {place} must be [speaker, text, [dialog act, ...]], found {_short(value)}")


def _clean(text: str) -> str:
    """Return a value without the quotes and spaces that the files have around many."""
    return text.replace(BYTE_ORDER_MARK, "").strip(' "')


def _short(value: Any) -> str:
    """Return a value as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
