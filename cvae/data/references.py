"""Several references for each context: the authors' test_multi_ref.json."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from cvae.data.dialog_records import UNKNOWN, tokenise
from cvae.data.dialogs import DialogCorpus
from cvae.errors import UserError
from cvae.io import parse_json

FIRST_UTTERANCE = "<s> <d> </s>"  # of the authors' contexts, whose texts are as in "A: uh-huh"


class References(NamedTuple):
    """The right responses to a context: word numbers, acts (none if the file has none), and all words."""

    responses: list[list[int]]
    acts: list[int]
    words: list[list[str]]


def read(path: Path, corpus: DialogCorpus) -> tuple[dict[int, References], int]:
    """Return the references of a split's responses, by number, and how many entries match no response.

    The file is a list of {responses, resp_dialog_acts, context}, the last two optional. Entries are matched
    by `context`, the utterances before the response as texts or [speaker, text], oldest first; without it by
    place in the split, as by the authors, whose order depends on how a sort breaks ties (protocol B5.7).
    Raises UserError, naming the file and the entry, for what cannot be used, and where most match nothing.
    """
    try:
        entries = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"task.references: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} must be a list of references, one entry a context")
    parsed = [_references(path, number, entry, corpus) for number, entry in enumerate(entries, start=1)]
    contexts = ["context" in entry for entry in entries]
    if not any(contexts):
        if len(parsed) != len(corpus):
            raise UserError(
                f"{path} has {len(parsed):,} entries without a context for {len(corpus):,} responses:"
                " they can be matched by place only where there are as many"
            )
        return dict(enumerate(parsed)), 0
    if not all(contexts):
        raise UserError(f"{path}, entry {contexts.index(False) + 1}: no context, though others have one")
    return _by_context(path, entries, parsed, corpus)


def _references(path: Path, number: int, entry: Any, corpus: DialogCorpus) -> References:
    """Return the references of an entry. Raises UserError."""
    match entry:
        case {"responses": [str(), *_] as responses} if all(isinstance(r, str) for r in responses):
            acts = entry.get("resp_dialog_acts") or []
            if acts and (not isinstance(acts, list) or len(acts) != len(responses)):
                raise UserError(f"{path}, entry {number}: resp_dialog_acts must be one for each response")
            numbers = [corpus.labels.acts.get(str(act), UNKNOWN) for act in acts]
            words = [tokenise(text, corpus.config.lower) for text in responses]
            return References([corpus.numbers(response) for response in words], numbers, words)
    raise UserError(f"{path}, entry {number}: responses must be a list of texts")


def _by_context(
    path: Path, entries: list[Any], parsed: list[References], corpus: DialogCorpus
) -> tuple[dict[int, References], int]:
    """Return what `read` does, matched by context.

    Entries with the same context belong to its responses in turn, the last one to all that are left.
    """
    places = defaultdict(list)
    for number in range(len(corpus)):
        places[tuple(map(tuple, corpus.context(number)))].append(number)
    waiting = defaultdict(list)
    for number, (entry, references) in enumerate(zip(entries, parsed, strict=True), start=1):
        keys = _keys(path, number, entry["context"], corpus)
        waiting[next((key for key in keys if key in places), keys[0])].append(references)
    matched = {
        number: waiting[key][min(turn, len(waiting[key]) - 1)]
        for key, numbers in places.items()
        if key in waiting
        for turn, number in enumerate(numbers)
    }
    used = sum(min(len(waiting[key]), len(numbers)) for key, numbers in places.items())
    if 2 * used < len(entries):
        which = f"{used:,} are those" if used > 1 else "one is one" if used else "none is one"
        raise UserError(
            f"{path}: of its {len(entries):,} contexts {which} of this split, which has {len(corpus):,}:"
            " at least half must be, or they are of another corpus"
        )
    return matched, len(entries) - used


def _keys(path: Path, number: int, context: Any, corpus: DialogCorpus) -> list[Any]:
    """Return the context as `DialogCorpus.context` has it, read as plain texts and as "A: text"."""
    config = corpus.config
    texts = [part[1] if isinstance(part, list) and len(part) > 1 else part for part in context or []]
    if not isinstance(context, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}, entry {number}: context must be a list of utterances")
    readings = [texts]
    if all(":" in text for text in texts):
        spoken = (text.partition(":")[2].strip() for text in texts)
        readings.append([text for text in spoken if text != FIRST_UTTERANCE])
    return [
        tuple(tuple(corpus.numbers(tokenise(text, config.lower))) for text in reading)[1 - config.window :]
        for reading in readings
    ]
