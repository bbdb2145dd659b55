"""Plain text corpora, cached by Hugging Face `datasets`: one sentence a line, words split at spaces."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cvae.config.schema import LabelledData, OwnText, TextFiles
from cvae.data.text import SPECIALS, Splits, order, splits, words_of
from cvae.errors import UserError

LINES_A_ROW = 1000  # of the cache; one line a row takes twice the time


def build_text(config: TextFiles | OwnText, device: torch.device) -> Splits:
    """Return the data set of sentence files."""
    sentences, prints = read(config)
    min_count = config.min_count if isinstance(config, OwnText) else 1
    data = splits(sentences, device, prints, min_count, config.vocabulary)
    return replace(data, notes=notes(config, data.corpora))


def build_labelled(config: LabelledData, device: torch.device) -> Splits:
    """Return the data set of sentence files that have a class each."""
    sentences, labels, prints = labelled(config)
    data = splits(sentences, device, prints, config.min_count, labels=labels)
    return replace(data, notes=notes(config, data.corpora))


@dataclass(frozen=True)
class Sentences:
    """The words of every line that has any: iterable again and again, never in memory as a whole.

    `chosen` are the numbers of the sentences to yield, None for all; those of more than `longest` words have
    no number and are left out.
    """

    path: Path
    fingerprint: str
    chosen: np.ndarray | None = None
    longest: float = math.inf

    def __iter__(self) -> Iterator[list[str]]:
        every = self._all()
        return every if self.chosen is None else itertools.compress(every, np.bincount(self.chosen))

    def _all(self) -> Iterator[list[str]]:
        """Yield every sentence; the fingerprint keeps the cache from serving an older file.

        Not by the text builder of `datasets`, which takes a path with `::` for a URL and a text that begins
        with BZh for an archive.
        """
        import datasets

        datasets.disable_progress_bars()
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # no request to the network, not even for this
        try:
            rows = datasets.Dataset.from_generator(
                _rows,
                datasets.Features({"lines": datasets.List(datasets.Value("string"))}),
                str(datasets.config.HF_DATASETS_CACHE),
                gen_kwargs={"path": self.path},
                fingerprint=f"lines-{self.fingerprint}",
            )
        except (OSError, datasets.exceptions.DatasetGenerationError) as error:
            raise UserError(
                f"{self.path} cannot be kept in the cache {datasets.config.HF_DATASETS_CACHE}:"
                f" {error.__cause__ or error}; HF_DATASETS_CACHE names another place"
            ) from None
        for row in rows:
            sentences = map(words_of, row["lines"])
            yield from (words for words in sentences if 0 < len(words) <= self.longest)


def _rows(path: Path) -> Iterator[dict[str, list[str]]]:
    """Yield the lines of a file in rows of the cache."""
    remaining = lines(path)
    while row := list(itertools.islice(remaining, LINES_A_ROW)):
        yield {"lines": row}


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, which end in LF, CRLF or a lone CR."""
    with path.open(encoding="utf-8") as file:
        yield from (line.removesuffix("\n") for line in file)


def read(config: TextFiles | OwnText) -> tuple[dict[str, Sentences], dict[str, str]]:
    """Return the sentences of every split, and the sha256 of the file of each.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    config.refuse_missing()
    longest = (isinstance(config, TextFiles) and config.longest) or math.inf
    paths = config.files()
    checked = {path: check(path, config.max_words, longest) for path in paths.values()}
    sentences = {split: Sentences(path, checked[path][0], None, longest) for split, path in paths.items()}
    missing = [split for split in ("val", "test") if paths[split] == paths["train"]]
    if missing and isinstance(config, OwnText):
        path = paths["train"]
        digest, count = checked[path]
        parts = held_out(path, count, config.held_out, missing)
        sentences |= {split: Sentences(path, digest, numbers) for split, numbers in parts.items()}
    return sentences, {split: part.fingerprint for split, part in sentences.items()}


def labelled(config: LabelledData) -> tuple[dict[str, list[list[str]]], dict[str, list[int]], dict[str, str]]:
    """Return the first share of each class's sentences, class by class, their labels and the files' sha256.

    Rounds down, as the authors do (protocol C1). Raises UserError for a share without a sentence, and for
    what `read` refuses.
    """
    config.refuse_missing()
    checked = {key: (path, *check(path, config.max_words)) for key, path in config.files().items()}
    sentences: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}
    labels: dict[str, list[int]] = {split: [] for split in sentences}
    for key, (path, digest, count) in checked.items():
        split, _, label = key.partition("/")
        share = getattr(config.share, split)
        first = np.arange(int(share * count + 1e-9))  # 0.29 * 100 is 28.999…
        if not len(first):
            raise UserError(f"{path} has {count} sentences: dataset.share.{split}={share} takes none")
        sentences[split] += Sentences(path, digest, first)
        labels[split] += [int(label)] * len(first)
    return sentences, labels, {key: digest for key, (_, digest, _) in checked.items()}


def notes(config: TextFiles | OwnText | LabelledData, corpora: Mapping[str, Sized]) -> tuple[str, ...]:
    """Return a sentence about each split that is not the whole of a file of its own."""
    if isinstance(config, LabelledData):
        shares = {split: getattr(config.share, split) for split in corpora}
        return tuple(
            f"{split}: {len(corpora[split]):,} sentences, the first {100 * share:g} % of each class's file"
            f" (dataset.share.{split})"
            for split, share in shares.items()
            if share < 1
        )
    paths = config.files()
    return tuple(
        f"{split}: {len(corpora[split]):,} sentences held out of {paths['train'].name} (dataset.held_out)"
        for split in ("val", "test")
        if paths[split] == paths["train"]
    )


def held_out(path: Path, count: int, share: float, missing: list[str]) -> dict[str, np.ndarray]:
    """Return the numbers of the sentences of train and of each split without a file; they do not overlap.

    The same for every run on the same text, whatever its seed. Raises UserError for too few sentences.
    """
    size = max(1, round(count * share))
    shuffled = order(count, seed=0, epoch=0)
    if len(missing) * size >= count:
        raise UserError(
            f"{path} has {count} sentences: too few to hold {size} out for {' and '.join(missing)} each"
        )
    parts = {split: shuffled[place * size :][:size] for place, split in enumerate(missing)}
    parts["train"] = shuffled[len(missing) * size :]
    return {split: np.sort(numbers) for split, numbers in parts.items()}


def check(path: Path, max_words: float, longest: float = math.inf) -> tuple[str, int]:
    """Return a file's sha256 and its number of sentences of at most `longest` words.

    Raises UserError for a file without any and, naming the line, for bytes that are not UTF-8, a NUL (every
    other byte of UTF-16 is one), a sentence of more than `max_words` words, and a reserved word.
    """
    digest, sentences = hashlib.sha256(), 0
    for number, raw in enumerate(_lines(path, digest), start=1):
        try:
            words = words_of(raw.decode())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not UTF-8 (byte {raw[error.start]:#04x} at place {error.start})"
            ) from None
        if b"\0" in raw:
            raise UserError(f"{path}, line {number}: a NUL character; text is UTF-8, and this may be UTF-16")
        if len(words) > max_words:
            raise UserError(
                f"{path}, line {number}: {len(words)} words, dataset.max_words allows {max_words}"
            )
        if reserved := {"<pad>", "<s>", "</s>"} & set(words):
            raise UserError(
                f"{path}, line {number}: {', '.join(sorted(reserved))} is reserved; "
                f"of {', '.join(SPECIALS)} only <unk> may stand in a corpus"
            )
        sentences += 0 < len(words) <= longest
    if not sentences:
        limit = "" if longest == math.inf else f" of at most {longest} words"
        raise UserError(f"{path} has no sentence{limit} in it")
    return digest.hexdigest(), sentences


def _lines(path: Path, digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the lines of a file, which end in LF, CRLF or a lone CR, and update the digest of its bytes."""
    with path.open("rb") as file:
        for raw in file:
            digest.update(raw)
            yield from raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")
