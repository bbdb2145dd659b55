"""Anybody's dialogs: a dialog a line of JSON, of two speakers or more, with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cvae.config import layout
from cvae.config.schema import OwnDialogs
from cvae.data import dialog_records, dialogs, files
from cvae.data.dialog_records import UNKNOWN, Dialog, Malformed, Person, Utterance, tokenise
from cvae.data.dialogs import DialogSplits
from cvae.data.sources import shown
from cvae.data.vocabulary import BYTE_ORDER_MARK
from cvae.errors import UserError
from cvae.io import sha256

UNNAMED = ("A", "B")  # the speakers of turns that are plain texts
LARGEST = 1e30  # an attribute that is a number; float32 must hold it


def build(config: OwnDialogs, device: torch.device) -> DialogSplits:
    """Return the dialogs of `config.path`, numbered by the train split.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    rows, prints, note = read(config)
    data = dialogs.splits(rows, prints, config, device)
    counted = f"{_count(data.topics, 'topic')}, {_count(data.acts, 'dialog act')}"
    known = ", ".join(data.corpora["train"].labels.attributes.names) or "nothing"
    return replace(data, notes=(note, f"train has {counted}, and tells {known} of its speakers"))


def read(config: OwnDialogs) -> tuple[dict[str, list[Dialog]], dict[str, str], str]:
    """Return the dialogs of every split, the sha256 of each file, and a note on what was read and held out.

    Raises UserError.
    """
    config.refuse_missing()
    parts, parser = config.parts(), Parser(config.lower)
    rows = {
        split: [dialog for path in paths for dialog in dialog_records.read(path, parser.dialog)]
        for split, paths in parts.items()
    }
    if all(_is_monologue(dialog) for part in rows.values() for dialog in part):
        raise UserError(f"{config.path}: every dialog has one speaker, and a response needs two")
    if missing := [split for split in layout.SPLIT_NAMES if split not in parts]:
        every, path = rows["train"], parts["train"][0]
        chosen = files.held_out(path, len(every), config.held_out, missing, config.content)
        rows |= {split: [every[number] for number in numbers] for split, numbers in chosen.items()}
    notes = [
        f"{split} {len(rows[split]):,} dialogs of {', '.join(path.name for path in parts[split])}"
        if split in parts
        else f"{split} {len(rows[split]):,} held out of train (dataset.held_out)"
        for split in layout.SPLIT_NAMES
    ]
    return rows, {name: sha256(path) for name, path in config.files().items()}, "; ".join(notes)


def _is_monologue(dialog: Dialog) -> bool:
    """Return whether all turns are of one speaker."""
    return len({utterance.speaker for utterance in dialog.utterances}) == 1


def _count(names: Sequence[str], what: str) -> str:
    """Return how many there are of something, as in "no topics"."""
    return f"{len(names) or 'no'} {what}{'' if len(names) == 1 else 's'}"


@dataclass(frozen=True)
class Parser:
    """Turns lines into dialogs; an attribute keeps the type, number or word, that it has first."""

    lower: bool
    types: dict[str, type] = field(default_factory=dict)

    def dialog(self, line: Any) -> Dialog:
        """Return the dialog that a line's JSON describes. Raises Malformed."""
        if not isinstance(line, dict):
            raise Malformed(f"a dialog is an object with turns, found {shown(line)}")
        if "turns" not in line:
            raise Malformed(f"turns missing, found {shown(list(line))}")
        people = self._people(line.get("speakers"))
        turns = named(line["turns"], people)
        numbers = {name: number for number, name in enumerate(people)}
        said = [self._turn(f"turn {place}", turn, numbers) for place, turn in enumerate(turns, start=1)]
        whom = addressees([turn.speaker for turn in said], len(numbers))
        utterances = [turn._replace(addressee=number) for turn, number in zip(said, whom, strict=True)]
        described = [people.get(name, {}) for name in numbers]
        return Dialog(_text(line, "topic", "topic"), list(numbers), described, utterances)

    def _turn(self, place: str, turn: dict[str, Any], numbers: dict[str, int]) -> Utterance:
        """Return an utterance; a speaker who is not in `numbers` yet gets the next one. Raises Malformed."""
        speaker, text, act = (_text(turn, key, f"{place}: {key}") for key in ("speaker", "text", "act"))
        if speaker is None or text is None:
            raise Malformed(f"{place} has no {'speaker' if speaker is None else 'text'}")
        number = numbers.setdefault(speaker, len(numbers))
        return Utterance(number, tokenise(text, self.lower), act)

    def _people(self, speakers: Any) -> dict[str, Person]:
        """Return the attributes of each speaker who is described, without unknown ones. Raises Malformed."""
        if not isinstance(speakers, dict | None):
            raise Malformed(f"speakers must be an object, attributes by name, found {shown(speakers)}")
        people: dict[str, Person] = {}
        for name, person in by_name(speakers or {}, "speakers").items():
            place = f"speakers.{name}"
            if not isinstance(person, dict | None):
                raise Malformed(f"{place} must be an object of attributes, found {shown(person)}")
            given = by_name(person or {}, place)
            values = {key: bare(value) if isinstance(value, str) else value for key, value in given.items()}
            known = {key: value for key, value in values.items() if value not in (None, "")}
            people[name] = {key: self._attribute(place, key, value) for key, value in known.items()}
        return people

    def _attribute(self, person: str, key: str, value: Any) -> float | str:
        """Return the value of an attribute. Raises Malformed."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise Malformed(f"{person}.{key} must be a number or a word, found {shown(value)}")
        if not (isinstance(value, str) or abs(value) <= LARGEST):  # nan too
            raise Malformed(f"{person}.{key} must be a number of at most {LARGEST:g}, found {shown(value)}")
        kind = str if isinstance(value, str) else float
        if (first := self.types.setdefault(key, kind)) is not kind:
            before = "a word" if first is str else "a number"
            raise Malformed(f"{person}.{key} must be {before}, as it was before, found {shown(value)}")
        return value


def named(turns: Any, people: Mapping[str, Person]) -> list[dict[str, Any]]:
    """Return turns as objects; plain texts get two speakers without a name in turn. Raises Malformed."""
    if not isinstance(turns, list) or not turns:
        raise Malformed(f"turns must be a list of one turn at least, found {shown(turns)}")
    for place, turn in enumerate(turns, start=1):
        if not isinstance(turn, str | dict):
            raise Malformed(
                f"turn {place} must be a text or an object with speaker and text, found {shown(turn)}"
            )
        if type(turn) is not type(turns[0]):
            raise Malformed(f"turn {place}: all turns of a dialog must be texts, or all objects")
    if isinstance(turns[0], dict):
        return turns
    if people:
        raise Malformed(f"speakers describes {shown(list(people))}, and the turns do not name their speakers")
    return [{"speaker": UNNAMED[place % 2], "text": text} for place, text in enumerate(turns)]


def addressees(speakers: Sequence[int], people: int) -> Iterator[int]:
    """Yield to whom each speaker in a dialog of so many people speaks, UNKNOWN where that is unknown.

    Of two people to the other one, of more to the last other one who spoke before.
    """
    present = set(speakers) if len(set(speakers)) > 1 else set(range(people))
    last = other = UNKNOWN
    for speaker in speakers:
        if speaker != last:
            last, other = speaker, last
        yield sum(present) - speaker if len(present) == 2 else other


def _text(holder: Mapping[str, Any], key: str, place: str) -> str | None:
    """Return the text under a key, None where it is absent, null or blank. Raises Malformed."""
    value = holder.get(key)
    if not isinstance(value, str | None):
        raise Malformed(f"{place} must be text, found {shown(value)}")
    return bare(value or "") or None


def by_name(holder: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return what a JSON object holds, names without spaces around them. Raises Malformed for two alike."""
    found: dict[str, Any] = {}
    for name, value in holder.items():
        if (name := bare(name)) in found:
            raise Malformed(f"{place}.{name} stands twice, but for spaces around the name")
        found[name] = value
    return found


def bare(text: str) -> str:
    """Return a text without byte order marks and without spaces around it."""
    return text.replace(BYTE_ORDER_MARK, "").strip()
