"""Dialogs from the jsonl files of the paper's authors, quirks included (protocol B1)."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch

from cvae.config.schema import DialogData
from cvae.data import dialog_records, dialogs
from cvae.data.dialog_records import UNKNOWN, Attributes, Dialog, Malformed, Utterance, tokenise
from cvae.data.dialogs import DialogSplits
from cvae.data.sources import shown
from cvae.data.text import fixed_subset
from cvae.data.vocabulary import BYTE_ORDER_MARK
from cvae.io import sha256

SPEAKERS = ("A", "B")
SEXES = {"FEMALE": (1.0, 0.0), "MALE": (0.0, 1.0), "UNK": (0.0, 0.0)}
EDUCATION = {"0": 0, "1": 1, "2": 2, "3": 3, "9": 2}  # 9 is unknown and counts as the commonest
# age / 100, education / 3 and the sex: as they are, whatever the train split's mean
ATTRIBUTES = Attributes(dict.fromkeys(("age", "education", "female", "male"), (0.0, 1.0)), {})


def build(config: DialogData, device: torch.device) -> DialogSplits:
    """Return the dialogs below `config.path`, numbered by what is left of the train split.

    The held-out dialogs are the same for every seed; their share is `config.held_out`. Raises UserError
    naming the file, the line and what is wrong with it.
    """
    rows, prints = read(config)
    train = rows["train"]
    held = set(fixed_subset(int(config.held_out * len(train)), len(train)).tolist())
    rows["train"] = [dialog for number, dialog in enumerate(train) if number not in held]
    if held:
        rows["held"] = [train[number] for number in sorted(held)]
    return dialogs.splits(rows, prints, config, device, ATTRIBUTES)


def read(config: DialogData) -> tuple[dict[str, list[Dialog]], dict[str, str]]:
    """Return the dialogs and the sha256 of every file. Raises UserError."""
    config.refuse_missing()
    parse = partial(_dialog, lower=config.lower)
    paths = config.files()
    rows = {split: dialog_records.read(path, parse) for split, path in paths.items()}
    return rows, {split: sha256(path) for split, path in paths.items()}


def _dialog(line: Any, lower: bool) -> Dialog:
    """Return the dialog that a line of JSON describes. Raises Malformed."""
    if not isinstance(line, dict):
        raise Malformed(f"a dialog is an object with A, B, topic and utts, found {shown(line)}")
    if missing := [key for key in (*SPEAKERS, "topic", "utts") if key not in line]:
        raise Malformed(f"{', '.join(missing)} missing")
    if not isinstance(line["topic"], str):
        raise Malformed(f"topic must be text, found {shown(line['topic'])}")
    if not isinstance(line["utts"], list) or not line["utts"]:
        raise Malformed(f"utts must be a list of utterances, found {shown(line['utts'])}")
    people = [_person(name, line[name]) for name in SPEAKERS]
    numbers = {name: number for number, name in enumerate(SPEAKERS)}
    utterances = [_utterance(n, value, numbers, lower) for n, value in enumerate(line["utts"], start=1)]
    others = list(numbers)[len(SPEAKERS) :]  # nothing is known of them, not even a name to show
    if all(utterance.speaker >= len(SPEAKERS) for utterance in utterances):
        only = ", ".join(others[:3])[:60]
        raise Malformed(f"speakers must be named as they are described, A and B, found only {only}")
    names = [*SPEAKERS, *(f"?{number}" if number > 1 else "?" for number in range(1, len(others) + 1))]
    return Dialog(_clean(line["topic"]), names, [*people, *({} for _ in others)], utterances)


def _person(name: str, value: Any) -> dict[str, float]:
    """Return the attributes of a speaker. Raises Malformed."""
    if not isinstance(value, dict) or (missing := {"age", "education", "sex"} - set(value)):
        what = f"{', '.join(sorted(missing))} missing" if isinstance(value, dict) else shown(value)
        raise Malformed(f"{name} must have an age, education and sex, found {what}")
    age, education, sex = (_clean(str(value[key])) for key in ("age", "education", "sex"))
    if not re.fullmatch(r"\d{1,3}", age):
        raise Malformed(f"{name}.age must be a whole number, found {shown(value['age'])}")
    if education not in EDUCATION:
        raise Malformed(
            f"{name}.education must be 0, 1, 2, 3 or 9 (unknown), found {shown(value['education'])}"
        )
    if sex not in SEXES:
        raise Malformed(f"{name}.sex must be FEMALE, MALE or UNK (unknown), found {shown(value['sex'])}")
    female, male = SEXES[sex]
    return {"age": int(age) / 100, "education": EDUCATION[education] / 3, "female": female, "male": male}


def _utterance(place: int, value: Any, numbers: dict[str, int], lower: bool) -> Utterance:
    """Return an utterance; a speaker who is not in `numbers` yet gets the next one. Raises Malformed."""
    match value:
        case [str(speaker), str(text), [str(act), *_]]:
            number = numbers.setdefault(_clean(speaker), len(numbers))
            # A and B speak to each other whoever else is on the line; to whom others speak is unknown
            addressee = 1 - number if number < len(SPEAKERS) else UNKNOWN
            return Utterance(number, tokenise(text, lower), _clean(act), addressee)
    raise Malformed(f"utterance {place} must be [speaker, text, [dialog act, ...]], found {shown(value)}")


def _clean(text: str) -> str:
    """Return a value without the quotes and spaces that the files have around many."""
    return text.replace(BYTE_ORDER_MARK, "").strip(' "')
