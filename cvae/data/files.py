"""Plain text corpora, cached by Hugging Face `datasets`: one sentence a line, words split at spaces."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvae.config.schema import LabelledData, OwnText, TextData
from cvae.data.text import SPECIALS, order, words_of
from cvae.errors import UserError

ROW = 1000  # lines in a row of the cache: a row for each line takes twice the time


@dataclass(frozen=True)
class Sentences:
    """The words of every line that has any; can be gone through again, and never lies in memory as a whole.

    `chosen` are the numbers of the sentences that belong to it, in rising order; None for all. Those of more
    than `longest` words do not.
    """

    path: Path
    fingerprint: str
    chosen: np.ndarray | None = None
    longest: float = math.inf

    def __iter__(self) -> Iterator[list[str]]:
        if self.chosen is None:
            yield from self._all()
            return
        wanted = iter(self.chosen.tolist())
        number = next(wanted, None)
        for place, words in enumerate(self._all()):
            if place == number:
                yield words
                number = next(wanted, None)

    def _all(self) -> Iterator[list[str]]:
        """Every sentence; the fingerprint keeps the cache from serving an older file.

        The text builder of `datasets` would take a path with `::` for a URL, and a text that begins with BZh
        for an archive.
        """
        import datasets

        datasets.disable_progress_bars()
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # nothing is asked of the network, not even that
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
    """The lines of a file as they are cached."""
    every = lines(path)
    while row := list(itertools.islice(every, ROW)):
        yield {"lines": row}


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, which end in LF, CRLF or a lone CR."""
    with path.open(encoding="utf-8") as file:
        yield from (line.removesuffix("\n") for line in file)


def read(config: TextData | OwnText) -> tuple[dict[str, Sentences], dict[str, str]]:
    """The sentences of every split, and the sha256 of the file each comes from.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    config.refuse_missing()
    longest = getattr(config, "longest", None) or math.inf
    paths = config.files()
    checked = {path: check(path, config.max_words, longest) for path in paths.values()}
    found = {split: Sentences(path, checked[path][0], None, longest) for split, path in paths.items()}
    if missing := [split for split in ("val", "test") if paths[split] == paths["train"]]:
        path = paths["train"]
        digest, count = checked[path]
        parts = held_out(path, count, config.held_out, missing)
        found |= {split: Sentences(path, digest, chosen) for split, chosen in parts.items()}
    return found, {split: sentences.fingerprint for split, sentences in found.items()}


def labelled(
    config: LabelledData,
) -> tuple[dict[str, list[list[str]]], dict[str, list[int]], dict[str, str]]:
    """The first share of each class's sentences, class after class; their labels; the files' sha256.

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


def notes(config: TextData | OwnText | LabelledData, corpora: Mapping[str, Sized]) -> tuple[str, ...]:
    """What a split is, where it is not the whole of a file of its own."""
    if isinstance(config, LabelledData):
        shares = {split: getattr(config.share, split) for split in corpora}
        return tuple(
            f"{split}: {len(corpora[split]):,} sentences, the first {100 * share:g} % of each class's file"
            f" (dataset.share.{split})"
            for split, share in shares.items()
            if share < 1
        )
    files = config.files()
    return tuple(
        f"{split}: {len(corpora[split]):,} sentences held out of {files['train'].name} (dataset.held_out)"
        for split in ("val", "test")
        if files[split] == files["train"]
    )


def held_out(path: Path, count: int, share: float, missing: list[str]) -> dict[str, np.ndarray]:
    """The numbers of the sentences of train and of each split without a file; they overlap nowhere.

    The same for every run on the same text, whatever its seed. Raises UserError for too few sentences.
    """
    size = max(1, round(count * share))
    mixed = order(count, seed=0, epoch=0)
    if len(missing) * size >= count:
        raise UserError(
            f"{path} has {count} sentences: too few to hold {size} out for {' and '.join(missing)} each"
        )
    parts = {split: mixed[place * size :][:size] for place, split in enumerate(missing)}
    parts["train"] = mixed[len(missing) * size :]
    return {split: np.sort(numbers) for split, numbers in parts.items()}


def check(path: Path, max_words: int, longest: float = math.inf) -> tuple[str, int]:
    """The file's sha256 and its number of sentences, after making sure that it is text with some in it.

    Sentences of more than `longest` words do not count, those of more than `max_words` are refused, and so is
    a NUL character, which UTF-16 has at every other place and a text nowhere.
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
    """The lines of a file, which end in LF, CRLF or a lone CR, while its bytes are digested."""
    with path.open("rb") as file:
        for raw in file:
            digest.update(raw)
            yield from raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")
