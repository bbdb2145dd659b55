"""Sentences with a class each: Shen's files, tables with a column of classes, or a folder for each class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cvae.config import layout
from cvae.config.layout import table_format
from cvae.config.messages import listing
from cvae.config.schema import OwnLabels, ShenFiles, ShortYelp
from cvae.data import sources
from cvae.data import vocabulary as vocabularies
from cvae.data.files import Texts, allowed, check, held_out
from cvae.data.sources import place, shown, text_column
from cvae.data.text import Splits, splits
from cvae.data.vocabulary import Vocabulary, words_of
from cvae.errors import UserError
from cvae.io import sha256

Reviews = ShenFiles | ShortYelp
Classes = dict[str, list[str]]  # the texts of each class, in the order of the files


def build(config: Reviews | OwnLabels, device: torch.device, vocabulary: Vocabulary | None = None) -> Splits:
    """Return the data set of sentences that have a class each, class by class in the order of `classes`."""
    found, notes = read_own(config) if isinstance(config, OwnLabels) else (read_reviews(config), ())
    classes = ranked(found) if isinstance(config, OwnLabels) else config.classes
    texts: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    for split, by_class in found.items():
        share = getattr(config.share, split)
        taken = [first(by_class.get(name, []), share, f"{split}, {name}") for name in classes]
        texts[split] = [text for part in taken for text in part]
        labels[split] = [number for number, part in enumerate(taken) for _ in part]
        if share < 1:
            size = f"{len(texts[split]):,} sentences"
            notes += (f"{split}: {size}, the first {100 * share:g} % of each class (dataset.share.{split})",)
    notes += vocabularies.strangers(vocabulary, texts)
    vocabulary = vocabulary or vocabularies.build(config, texts["train"])
    prints = {key: sha256(path) for key, path in config.files().items()}
    return replace(splits(texts, vocabulary, device, prints, labels), notes=notes, classes=classes)


def first(texts: Sequence[str], share: float, whose: str) -> Sequence[str]:
    """Return the first share of texts, rounded down as the authors do (protocol C1).

    Raises UserError for a share that takes none.
    """
    count = int(share * len(texts) + 1e-9)  # 0.29 * 100 is 28.999…
    if texts and not count:
        split = whose.partition(",")[0]
        raise UserError(f"{whose}: {len(texts)} sentences, and dataset.share.{split}={share} takes none")
    return texts[:count]


def ranked(found: dict[str, Classes]) -> tuple[str, ...]:
    """Return the names of the classes of train, finite numbers by their size, others by the alphabet.

    Raises UserError for a single one, and for a class that another split has alone.
    """

    def place_of(name: str) -> tuple[bool, float, str]:
        number = float(name) if sources.is_numeral(name) else math.inf
        return (False, number, name) if math.isfinite(number) else (True, 0, name)

    names = sorted(found["train"], key=place_of)
    if len(names) < 2:
        raise UserError(f"all training sentences are of one class, {names[0]}: a classifier needs two")
    for split, classes in found.items():
        if new := sorted(set(classes) - set(names)):
            raise UserError(f"{split} has the class {listing(new)}, and train has only {listing(names)}")
    return tuple(names)


def read_reviews(config: Reviews) -> dict[str, Classes]:
    """Return the texts of each split and sentiment. Raises UserError for what `files.check` refuses."""
    config.refuse_missing()
    found: dict[str, Classes] = {split: {name: [] for name in config.classes} for split in layout.SPLIT_NAMES}
    for key, path in config.files().items():
        split, _, number = key.partition("/")
        digest = check(path, config.max_words).fingerprint
        for row, text in enumerate(Texts((path,), digest), start=1):
            label, tab, sentence = (number, "\t", text) if number else text.partition("\t")
            if not tab or label not in ("0", "1") or not words_of(sentence):
                what = "a line is 0 or 1, a tab and a sentence"
                raise UserError(f"{path}, sentence {row}: {what}, found {shown(text)}")
            found[split][config.classes[int(label)]].append(sentence)
    return found


def read_own(config: OwnLabels) -> tuple[dict[str, Classes], tuple[str, ...]]:
    """Return the texts of each split and class of a table or of folders, and what was read as notes.

    Raises UserError naming file and line for what cannot be used.
    """
    config.refuse_missing()
    found: dict[str, Classes] = {}
    left_out = 0
    for split, paths in config.parts().items():
        found[split] = {}
        for path in paths:
            for file, number, text, label in _labelled(config, path):
                words = len(allowed(file, number, text, config.max_words))
                if 0 < words <= (config.longest or words):
                    found[split].setdefault(label, []).append(text)
                else:
                    left_out += 1
        if not found[split]:
            raise UserError(f"{paths[0]} has no sentence in it")
    ranked(found)
    read = list(found)
    if missing := [split for split in layout.SPLIT_NAMES if split not in found]:
        _hold_out(config, found, missing)
    parts = [f"{split} {_size(found[split]):,} sentences of {len(found[split])} classes" for split in read]
    parts += [f"{split} {_size(found[split]):,} held out of train (dataset.held_out)" for split in missing]
    note = "; ".join(parts) + (f"; {left_out:,} empty or longer ones left out" if left_out else "")
    return found, (note,)


def _size(classes: Classes) -> int:
    return sum(map(len, classes.values()))


def _labelled(config: OwnLabels, path: Path) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line, text and class. Raises UserError for a row without a class, and what is no text."""
    if path.is_dir():  # a class: each line of its files is a text
        for file in sorted(path.iterdir()):
            if layout.extension(file) == ".txt":
                yield from ((file, number, text, path.name) for number, text in sources.lines(file))
        return
    if not table_format(path):
        advice = "dataset=labelled reads tables, and folders with one for each class"
        raise UserError(f"{path} is plain text: {advice}")
    columns = sources.columns(path)
    if config.label not in columns:
        name = config.label
        wrong = " must name the column of the classes" if name is None else f"={name} is no column"
        raise UserError(f"dataset.label{wrong}: {path} has {listing(columns)}")
    column = text_column(path, config.column, besides=config.label)
    for number, row in sources.rows(path):
        label, text = row.get(config.label), row.get(column or "")
        if label is None or not str(label).strip() or isinstance(label, list | dict):
            raise UserError(f"{place(path, number)}: {config.label} must name a class, found {shown(label)}")
        if not isinstance(text, str | None):
            raise UserError(f"{place(path, number)}: {column} must be text, found {shown(text)}")
        yield path, number, text or "", str(label).strip()


def _hold_out(config: OwnLabels, found: dict[str, Classes], missing: Sequence[str]) -> None:
    """Move a share of each class of train to each split that is missing; the same for every seed."""
    whole = found["train"]
    for split in missing:
        found[split] = {}
    for name, texts in whole.items():
        chosen = held_out(Path(f"the class {name} of {config.path}"), len(texts), config.held_out, missing)
        for split, rows in chosen.items():
            found[split][name] = [texts[row] for row in rows]
