"""Plain text corpora through Hugging Face `datasets`: one sentence a line, words split at spaces."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from cvae.config import LabelledData, TextData
from cvae.data.text import SPECIALS, Sentences
from cvae.reading import UserError


def read(config: TextData | LabelledData) -> tuple[Sentences, dict[str, str]]:
    """The sentences of every file by its key, and the sha256 of every file.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    config.refuse_missing()
    files = config.files()
    prints = {key: check(path, config.max_words) for key, path in files.items()}
    return {key: _lines(path, prints[key]) for key, path in files.items()}, prints


def labelled(config: LabelledData) -> tuple[Sentences, dict[str, list[int]], dict[str, str]]:
    """The first share of each class's sentences, class after class; their labels; the files' sha256.

    Rounds down, as the authors do (protocol C1). Raises UserError for a share without a sentence.
    """
    found, prints = read(config)
    sentences: Sentences = {"train": [], "val": [], "test": []}
    labels: dict[str, list[int]] = {split: [] for split in sentences}
    for key, rows in found.items():
        split, _, label = key.partition("/")
        share = getattr(config.share, split)
        count = int(share * len(rows) + 1e-9)  # 0.29 * 100 is 28.999…
        if not count:
            raise UserError(
                f"{config.files()[key]} has {len(rows)} sentences: dataset.share.{split}={share} takes none"
            )
        sentences[split] += rows[:count]
        labels[split] += [int(label)] * count
    return sentences, labels, prints


def _lines(path: Path, fingerprint: str) -> list[list[str]]:
    """The words of every line that has any; the fingerprint keeps the cache from serving an older file."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("text", fingerprint[:16], data_files=glob.escape(str(path)), split="train")[
        "text"
    ]
    return [words for words in (line.split() for line in rows) if words]


def check(path: Path, max_words: int) -> str:
    """The file's sha256, after making sure that it is text with sentences in it.

    The `datasets` text builder reports bad bytes and empty files only as an error while generating.
    """
    digest, sentences = hashlib.sha256(), 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            digest.update(raw)
            try:
                words = raw.decode("utf-8").split()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not UTF-8 (byte {raw[error.start]:#04x} at place {error.start})"
                ) from None
            if len(words) > max_words:
                raise UserError(
                    f"{path}, line {number}: {len(words)} words, dataset.max_words allows {max_words}"
                )
            if reserved := {"<pad>", "<s>", "</s>"} & set(words):
                raise UserError(
                    f"{path}, line {number}: {', '.join(sorted(reserved))} is reserved; "
                    f"of {', '.join(SPECIALS)} only <unk> may stand in a corpus"
                )
            sentences += bool(words)
    if not sentences:
        raise UserError(f"{path} has no sentence in it")
    return digest.hexdigest()
