"""Plain text corpora through Hugging Face `datasets`: one sentence a line, words split at spaces."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from cvae.config import TextData
from cvae.data.text import SPECIALS
from cvae.reading import UserError


def read(config: TextData) -> tuple[dict[str, list[list[str]]], dict[str, str]]:
    """The sentences of every split, and the sha256 of every file.

    Raises UserError naming the file, and the line where there is one, for what cannot be used.
    """
    config.refuse_missing()
    files = config.files()
    prints = {split: check(path, config.max_words) for split, path in files.items()}
    return {split: _lines(path, prints[split]) for split, path in files.items()}, prints


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
