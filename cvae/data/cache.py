"""Large corpora of sentences as numbers, kept in files that later starts map into memory.

A file is found by the fingerprints of the texts and by all settings that change what is read or how it is
numbered. It may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from cvae.config.schema import SentenceFiles
from cvae.data import vocabulary as vocabularies
from cvae.data.encoding import Numbers
from cvae.data.files import named_files
from cvae.data.text import Corpus, Splits
from cvae.data.vocabulary import Vocabulary
from cvae.errors import in_a_line
from cvae.io import located, sha256

SMALLEST = 8 * 2**20  # bytes of the files of a data set; less is read in a few seconds
NOT_READ = ("path", "sampler", "tokenizer")  # settings that do not change what is read
ARRAYS = ("tokens", "lengths", "words", "labels")  # of a Numbers

Reader = Callable[[Any, torch.device, Vocabulary | None], Splits]
log = logging.getLogger("cvae")


def through(read: Reader, config: SentenceFiles, device: torch.device, known: Vocabulary | None) -> Splits:
    """Return what `read` returns; a large data set is read once and comes from its file afterwards.

    Of several processes one reads and the others wait for it. Where no file can be written, a line says so.
    """
    config.refuse_missing()
    files = named_files(config)
    if sum(map(_size, set(files.values()))) < SMALLEST:  # one file may hold several splits
        return read(config, device, known)
    prints = {name: sha256(path) for name, path in files.items()}
    places = [folder() / f"{key}.safetensors" for key in _keys(config, files, prints, known)]

    def kept() -> Splits | None:
        opened = (_load(path, config.tokens, prints, device, known) for path in places)
        return next((splits for splits in opened if splits is not None), None)

    if (splits := kept()) is not None:
        return splits
    with _alone(places[-1]) as writable:
        if writable and (splits := kept()) is not None:
            return splits
        splits = read(config, device, known)
        if writable and splits.fingerprints == prints:  # else a file has changed while it was read
            _save(places[-1], splits)
        return splits


def folder() -> Path:
    """Return where the files are: CVAE_CACHE, or `cvae` in the user's folder for caches."""
    if own := os.environ.get("CVAE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cvae"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def _keys(
    config: SentenceFiles,
    files: Mapping[str, Path],
    prints: Mapping[str, str],
    known: Vocabulary | None,
) -> list[str]:
    """Return the names under which a data set may be kept; under the last one it is.

    A run that goes on with its own vocabulary may find what it began with, before there was one.
    """
    settings = {key: v for key, v in dataclasses.asdict(config).items() if key not in NOT_READ}
    tokenizer = None
    if config.tokenizer is not None:
        with suppress(OSError):  # a run that goes on has its own
            tokenizer = sha256(located(config.tokenizer))
    read = {name: (path.name, prints[name]) for name, path in files.items()}  # notes tell the names
    facts = [settings, read, tokenizer]
    if known is None:
        return [_hash(facts)]
    own = _hash([*facts, known.content, known.source])
    return [own] if known.source else [_hash(facts), own]


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _version() -> str:
    """Return what changes with the code that reads texts: its hash, and the version of the tokenizers."""
    with suppress(metadata.PackageNotFoundError):
        return f"{sha256(Path(__file__).parent)} {metadata.version('tokenizers')}"
    return sha256(Path(__file__).parent)


def _load(
    path: Path, tokens: str, prints: Mapping[str, str], device: torch.device, known: Vocabulary | None
) -> Splits | None:
    """Return the data set in a file, mapped into memory, on the device.

    None where there is none, and where other code wrote it or the vocabulary is not the known one. A damaged
    one is removed, and a line says so.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = _facts(file.metadata())
            if facts["version"] != _version() or (known and known.content != facts["vocabulary"]):
                return None
            arrays = {name: file.get_tensor(name) for name in facts["crc32"]}
        if any(zlib.crc32(arrays[name].numpy().data) != crc for name, crc in facts["crc32"].items()):
            raise ValueError("a checksum differs")
    except OSError:
        return None
    except Exception as error:  # of Rust, too
        log.info(f"{path} is damaged ({in_a_line(error)}): the texts are read again")
        with suppress(OSError):
            path.unlink()
        return None
    corpora = {split: _corpus(arrays, split, unknown, device) for split, unknown in facts["unknown"].items()}
    words = known or vocabularies.restored(facts["vocabulary"], tokens)
    notes, classes = tuple(facts["notes"]), tuple(facts["classes"])
    return Splits(words, corpora, dict(prints), facts["in_train"], notes=notes, classes=classes)


def _facts(stored: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file says beside its arrays. Raises ValueError where that is damaged."""
    if zlib.crc32(stored["facts"].encode()) != int(stored["crc32"]):
        raise ValueError("a checksum differs")
    return json.loads(stored["facts"])


def _corpus(arrays: Mapping[str, torch.Tensor], split: str, unknown: int, device: torch.device) -> Corpus:
    """Return a split; labels are kept where there are any."""
    tokens, *rest = (arrays.get(f"{split}/{name}", torch.empty(0, dtype=torch.long)) for name in ARRAYS)
    lengths, words, labels = (part.numpy() for part in rest)
    return Corpus.of(Numbers(tokens, lengths, words, labels, unknown), device)


def _arrays(splits: Splits) -> dict[str, np.ndarray]:
    """Return what is kept of all splits, by split and name."""
    return {
        f"{split}/{name}": array
        for split, corpus in splits.corpora.items()
        for name in ARRAYS
        if len(array := corpus.tokens.cpu().numpy() if name == "tokens" else getattr(corpus, name))
    }


def _save(path: Path, splits: Splits) -> None:
    """Write a data set to a file, completely or not at all; a line says so."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = _arrays(splits)
    facts = json.dumps(
        {
            "version": _version(),
            "vocabulary": splits.vocabulary.content,
            "unknown": {split: corpus.unknown for split, corpus in splits.corpora.items()},
            "in_train": splits.in_train,
            "notes": splits.notes,
            "classes": splits.classes,
            "crc32": {name: zlib.crc32(array.data) for name, array in arrays.items()},
        }
    )
    drafts = path.with_suffix(".tmp")
    try:
        _discard_leftovers(path)
        drafts.mkdir()
        save_file(arrays, drafts / path.name, {"facts": facts, "crc32": str(zlib.crc32(facts.encode()))})
        with (drafts / path.name).open("rb") as file:
            os.fsync(file.fileno())
        (drafts / path.name).replace(path)
    except (OSError, SafetensorError) as error:
        _complain(path, error)
    else:
        log.info(f"the texts are kept as numbers in {path}, {path.stat().st_size / 2**20:,.0f} MiB")
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


def _discard_leftovers(path: Path) -> None:
    """Remove what killed processes left unfinished: nobody else holds its lock."""
    for drafts in path.parent.glob("*.tmp"):
        own = drafts.stem == path.stem
        with suppress(OSError), nullcontext() if own else FileLock(drafts.with_suffix(".lock"), timeout=0):
            shutil.rmtree(drafts, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock of a file and yield whether it can be written; say where it cannot, and who waits."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info(f"another process reads the same texts: waiting for {path}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        _complain(path, error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _complain(path: Path, error: Exception) -> None:
    why = f"{path.parent} cannot keep them as numbers ({getattr(error, 'strerror', None) or error})"
    log.info(f"every start reads the texts, for {why}; CVAE_CACHE names another place")
