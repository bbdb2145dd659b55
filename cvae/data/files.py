"""Corpora of sentences in files, cached by Hugging Face `datasets`."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cvae.config import layout
from cvae.config.schema import HubText, OwnText, SentenceFiles, TextFiles
from cvae.data import sources
from cvae.data import vocabulary as vocabularies
from cvae.data.sources import place, text_column
from cvae.data.text import Splits, order, splits
from cvae.data.vocabulary import RESERVED, WHY_RESERVED, Vocabulary, words_of
from cvae.errors import UserError, in_a_line
from cvae.io import located, sha256

TEXTS_A_ROW = 1000  # of the cache; one text a row takes twice the time


def build_text(
    config: TextFiles | OwnText, device: torch.device, vocabulary: Vocabulary | None = None
) -> Splits:
    """Return the data set of sentence files, numbered by `vocabulary` or by that of its train split."""
    texts, prints, notes = read(config)
    notes += vocabularies.strangers(vocabulary, texts)
    vocabulary = vocabulary or vocabularies.build(config, texts["train"])
    return replace(splits(texts, vocabulary, device, prints), notes=notes)


class Checked(NamedTuple):
    """A file that may be used: its sha256, its sentences, and how many texts are left out and why."""

    fingerprint: str
    sentences: int
    empty: int = 0
    longer: int = 0
    of_one_word: int = 0


@dataclass(frozen=True)
class Texts:
    """The texts of files that have any words: iterable again and again, never in memory as a whole.

    `column` is None for plain text. `chosen` are the numbers of the texts to yield, None for all; those of
    more than `longest` words have no number and are left out.
    """

    paths: tuple[Path, ...]
    fingerprint: str
    column: str | None = None
    chosen: np.ndarray | None = None
    longest: float = math.inf

    def __iter__(self) -> Iterator[str]:
        every = self._all()
        return every if self.chosen is None else itertools.compress(every, np.bincount(self.chosen))

    def _all(self) -> Iterator[str]:
        """Yield every text; the fingerprint keeps the cache from serving an older file, or another format.

        Not by the builders of `datasets`, of which that of text takes a path with `::` for a URL and a text
        that begins with BZh for an archive, and none names the line of what it cannot read.
        """
        import datasets

        datasets.disable_progress_bars()
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # no request to the network, not even for this
        kind = f"{layout.table_format(self.paths[0])} {self.column}"
        column = hashlib.sha256(kind.encode()).hexdigest()[:16] if self.column else "all"
        try:
            rows = datasets.Dataset.from_generator(
                _rows,
                datasets.Features({"lines": datasets.List(datasets.Value("string"))}),
                str(datasets.config.HF_DATASETS_CACHE),
                gen_kwargs={"paths": self.paths, "column": self.column},
                fingerprint=f"texts-{self.fingerprint}-{column}",
            )
        except (OSError, datasets.exceptions.DatasetGenerationError) as error:
            raise UserError(
                f"{self.paths[0]} cannot be kept in the cache {datasets.config.HF_DATASETS_CACHE}:"
                f" {in_a_line(error.__cause__ or error)}; HF_DATASETS_CACHE names another place"
            ) from None
        for row in rows:
            for text in row["lines"]:
                if 0 < len(words_of(text)) <= self.longest:
                    yield text


def _rows(paths: Sequence[Path], column: str | None) -> Iterator[dict[str, list[str]]]:
    """Yield the texts of files in rows of the cache."""
    remaining = (text for path in paths for _, text in sources.texts(path, column))
    while row := list(itertools.islice(remaining, TEXTS_A_ROW)):
        yield {"lines": row}


def read(config: TextFiles | OwnText) -> tuple[dict[str, Texts], dict[str, str], tuple[str, ...]]:
    """Return the texts of every split, the sha256 of each file, and notes on what was read.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    config.refuse_missing()
    own = config if isinstance(config, OwnText) else None
    parts = _parts(config)
    longest = config.longest or math.inf
    texts, checked = {}, {}
    for split, paths in parts.items():
        column = text_column(paths[0], own.column) if own else None
        several = checked[split] = [check(path, config.max_words, longest, column) for path in paths]
        texts[split] = Texts(tuple(paths), _joined(several), column, None, longest)
    if own and (missing := [split for split in layout.SPLIT_NAMES if split not in parts]):
        count = sum(part.sentences for part in checked["train"])
        chosen = held_out(parts["train"][0], count, own.held_out, missing)
        texts |= {split: replace(texts["train"], chosen=numbers) for split, numbers in chosen.items()}
    prints = {name: sha256(path) for name, path in _named(parts).items()}
    return texts, prints, _notes(own, checked, texts) if own else ()


def _parts(config: TextFiles | OwnText) -> layout.Parts:
    """Return the files of each split that has any."""
    if isinstance(config, HubText):
        return sources.hub_parts(config)
    if isinstance(config, OwnText):
        return config.parts()
    return {split: [path] for split, path in config.files().items()}


def named_files(config: SentenceFiles) -> dict[str, Path]:
    """Return the files of a data set by the names of their fingerprints, those of the hub once fetched."""
    return _named(_parts(config)) if isinstance(config, HubText) else config.files()


def _named(parts: layout.Parts) -> dict[str, Path]:
    return layout.named({split: parts.get(split, parts["train"]) for split in layout.SPLIT_NAMES})


def _joined(checked: Sequence[Checked]) -> str:
    """Return one fingerprint of several files."""
    prints = [part.fingerprint for part in checked]
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()


def _notes(
    config: OwnText, checked: Mapping[str, Sequence[Checked]], texts: Mapping[str, Texts]
) -> tuple[str, ...]:
    """Return a line on what was read, held out and left out, and another on a text without spaces."""
    parts = []
    for split, part in texts.items():
        if split not in checked and part.chosen is not None:
            parts.append(f"{split} {len(part.chosen):,} held out of train (dataset.held_out)")
            continue
        count, empty, longer = (sum(numbers) for numbers in list(zip(*checked[split], strict=True))[1:4])
        reasons = {"empty": empty, f"of more than {config.longest} words (dataset.longest)": longer}
        left_out = " and ".join(f"{number:,} {why}" for why, number in reasons.items() if number)
        name = _name(part.paths[0], config) if len(part.paths) == 1 else f"{len(part.paths)} files"
        parts.append(
            f"{split} {count if part.chosen is None else len(part.chosen):,} sentences of {name}"
            + (f", column {part.column}" if part.column else "")
            + (f", without {left_out}" if left_out else "")
        )
    train = checked["train"]
    single, count = sum(file.of_one_word for file in train), sum(file.sentences for file in train)
    spaceless = config.tokens == "words" and 2 * single > count
    advice = "most sentences are one word: text without spaces is for dataset.tokens=chars or bpe"
    return ("; ".join(parts), *([advice] if spaceless else []))


def held_out(
    path: Path, count: int, share: float, missing: Sequence[str], kind: str = "sentences"
) -> dict[str, np.ndarray]:
    """Return the numbers of the sentences of train and of each split without a file; they do not overlap.

    The same for every run on the same text, whatever its seed. Raises UserError for too few sentences,
    which `kind` may call otherwise.
    """
    size = max(1, round(count * share))
    shuffled = order(count, seed=0, epoch=0)
    if len(missing) * size >= count:
        raise UserError(
            f"{path} has {count} {kind}: too few to hold {size} out for {' and '.join(missing)} each"
        )
    parts = {split: shuffled[place * size :][:size] for place, split in enumerate(missing)}
    parts["train"] = shuffled[len(missing) * size :]
    return {split: np.sort(numbers) for split, numbers in parts.items()}


def check(path: Path, max_words: float, longest: float = math.inf, column: str | None = None) -> Checked:
    """Return what a file holds.

    Raises UserError for a file without a sentence of at most `longest` words and, naming the line, for what
    is no text, a sentence of more than `max_words` words, and a reserved word.
    """
    sentences = empty = longer = single = 0
    for number, text in sources.texts(path, column):
        words = allowed(path, number, text, max_words)
        sentences += 0 < len(words) <= longest
        empty += not words
        longer += len(words) > longest
        single += len(words) == 1
    if not sentences:
        limit = "" if longest == math.inf else f" of at most {longest} words"
        raise UserError(f"{path} has no sentence{limit} in it")
    return Checked(sha256(path), sentences, empty, longer, single)


def allowed(path: Path, number: int, text: str, max_words: float) -> list[str]:
    """Return the words of a text. Raises UserError for too many, and for a reserved one."""
    words = words_of(text)
    if len(words) > max_words:
        raise UserError(f"{place(path, number)}: {len(words)} words, dataset.max_words allows {max_words}")
    if reserved := RESERVED.intersection(words):
        raise UserError(f"{place(path, number)}: {', '.join(sorted(reserved))}: {WHY_RESERVED}")
    return words


def _name(path: Path, config: OwnText) -> str:
    """Return a file's name, below the folder of the data set if it is there."""
    folder = located(config.path)
    return str(path.relative_to(folder)) if folder in path.parents else path.name
