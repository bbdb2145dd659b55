"""The token cache: what a second start finds is what the first one read, and nothing else ever."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import sys
import time
import tracemalloc
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import safetensors
import torch
from filelock import FileLock

from cvae import data
from cvae.config.schema import OwnLabels, OwnText, Shares
from cvae.data import cache, parallel, sources, text, vocabulary
from cvae.data.encoding import encode_all
from cvae.data.text import Batches, Splits
from cvae.data.vocabulary import Pieces, Vocabulary
from cvae.errors import UserError
from cvae.io import sha256
from tests.helpers import CPU

WORDS = ["the", "a", "dog", "naïve", "猫", "sat", "<unk>", "on", "mat", "here"]
FORK = multiprocessing.get_context("fork")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Random sentences of 1 to 7 words."""
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, draws.integers(1, 8))) for _ in range(count)]


SMALLEST = cache.SMALLEST  # which the fixture replaces


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, caplog) -> Path:
    """The cache, in which the smallest corpus is kept."""
    caplog.set_level("INFO", "cvae")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(cache, "SMALLEST", 1)
    return tmp_path / "not" / "yet"


def own(folder: Path, **values) -> OwnText:
    """A text of 200 sentences."""
    (folder / "my.txt").write_text("\n".join(sentences(200)) + "\n")
    defaults = {"held_out": 0.1, "max_words": 20, "min_count": 2, "sampler": "equal_length"}
    return OwnText(name="text", path=str(folder / "my.txt"), **(defaults | values))


def labelled(folder: Path) -> OwnLabels:
    """Sentences of two classes."""
    rows = [f"{'good' if number % 3 else 'bad'}\t{text}" for number, text in enumerate(sentences(90))]
    (folder / "my.tsv").write_text("\n".join(["stars\ttext", *rows]) + "\n")
    values = {"share": Shares(0.5, 1.0, 1.0), "max_words": 20, "sampler": "equal_length"}
    values |= {"held_out": 0.2, "column": None, "label": "stars", "longest": None}
    return OwnLabels(name="labelled", path=str(folder / "my.tsv"), **values)


def unread(patch: pytest.MonkeyPatch) -> None:
    """Let nobody read a text."""

    def refuse(*_: object) -> None:
        raise AssertionError("a text was read")

    for name in ("texts", "rows", "lines"):
        patch.setattr(sources, name, refuse)


def same(one: Splits, other: Splits) -> bool:
    """Whether two data sets are equal in all that a run sees of them."""
    for field in ("in_train", "notes", "classes", "fingerprints"):
        assert getattr(one, field) == getattr(other, field)
    assert (
        type(one.vocabulary) is type(other.vocabulary) and one.vocabulary.content == other.vocabulary.content
    )
    assert list(one.corpora) == list(other.corpora)
    for mine, yours in zip(one.corpora.values(), other.corpora.values(), strict=True):
        assert mine.tokens.dtype == yours.tokens.dtype and torch.equal(mine.tokens, yours.tokens)
        for name in ("lengths", "words", "labels"):
            assert getattr(mine, name).dtype == getattr(yours, name).dtype
            assert np.array_equal(getattr(mine, name), getattr(yours, name))
        assert mine.unknown_share == yours.unknown_share and mine.counted == yours.counted
        rows = np.array([len(mine) - 1, 0, 2])
        assert torch.equal(mine.batch(rows).tokens, yours.batch(rows).tokens)
    return True


@pytest.mark.parametrize("tokens", ["words", "chars", "bpe", "labelled"])
def test_a_second_start_reads_no_text_and_has_the_same_sentences(
    tokens, tmp_path, monkeypatch, folder, caplog
):
    values = {"tokens": tokens, "vocabulary": 300 if tokens == "bpe" else 7}
    config = labelled(tmp_path) if tokens == "labelled" else own(tmp_path, **values)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "SMALLEST", 10**9)
        plain = data.build(config, CPU)
    assert not folder.exists()
    caplog.set_level("INFO")
    first = data.build(config, CPU)
    kept = f"the texts are kept as numbers in {folder}"
    assert caplog.text.count(kept) == 1
    unread(monkeypatch)
    second = data.build(config, CPU)
    assert caplog.text.count(kept) == 1
    if tokens != "bpe":  # training need not choose the same pieces twice
        assert same(plain, first)
    assert same(first, second)
    assert second.corpora["train"].unknown > 0 or tokens == "bpe"
    second.vocabulary.save(tmp_path)
    known = vocabulary.load(tmp_path, "words" if tokens == "labelled" else tokens)
    assert same(second, data.build(config, CPU, known))  # a run that goes on


def test_a_text_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch, folder):
    config, read = own(tmp_path), data.REGISTRY[OwnText]

    def edited(*given):
        with Path(config.path).open("a", encoding="utf-8") as file:
            file.write("one more\n")
        return read(*given)

    monkeypatch.setitem(data.REGISTRY, OwnText, edited)
    data.build(config, CPU)
    assert not list(folder.glob("*.safetensors"))


def folder_of_splits(folder: Path) -> OwnText:
    """A text of 200 sentences, and two of 20."""
    (folder / "my").mkdir()
    for seed, (name, count) in enumerate({"train": 200, "valid": 20, "test": 20}.items()):
        (folder / "my" / f"{name}.txt").write_text("\n".join(sentences(count, seed)) + "\n")
    return dataclasses.replace(own(folder), path=str(folder / "my"))


def folders_of_classes(folder: Path) -> OwnLabels:
    """Sentences of two classes, a folder of two files each."""
    for name in ("bad", "good"):
        (folder / "my" / name).mkdir(parents=True)
        for place in range(2):
            (folder / "my" / name / f"{place}.txt").write_text("\n".join(sentences(20, place)) + "\n")
    return dataclasses.replace(labelled(folder), path=str(folder / "my"), label=None)


@pytest.mark.parametrize("made", [own, folder_of_splits, folders_of_classes])
def test_what_is_smaller_than_the_smallest_is_read_as_ever(made, tmp_path, monkeypatch, folder):
    config = made(tmp_path)
    path = Path(config.path)  # of `own` one file, which has all three splits
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*.txt")))
    for smallest, kept in ((size + 1, False), (size, True)):
        monkeypatch.setattr(cache, "SMALLEST", smallest)
        data.build(config, CPU)
        assert folder.exists() == kept


CHANGES = {
    "max_words": {"max_words": 19},
    "longest": {"longest": 6},
    "held_out": {"held_out": 0.2},
    "min_count": {"min_count": 1},
    "vocabulary": {"vocabulary": 5},
    "tokens": {"tokens": "chars"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_setting_is_another_file(change, tmp_path, folder):
    config = own(tmp_path)
    data.build(config, CPU)
    data.build(dataclasses.replace(config, sampler="bucketed"), CPU)
    assert len(list(folder.glob("*.safetensors"))) == 1
    data.build(dataclasses.replace(config, **change), CPU)
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_a_text_elsewhere_is_the_same_and_one_of_another_name_is_not(tmp_path, folder):
    config = own(tmp_path)
    data.build(config, CPU)
    for place, files in (("moved/my.txt", 1), ("renamed.txt", 2), ("my.text", 3)):  # a note tells the name
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        shutil.copy(config.path, path)
        assert path.name in data.build(dataclasses.replace(config, path=str(path)), CPU).notes[0]
        assert len(list(folder.glob("*.safetensors"))) == files


def test_another_column_is_another_data_set(tmp_path):
    (tmp_path / "my.csv").write_text("one,two\n" + "a b,c d e\n" * 30)
    config = dataclasses.replace(own(tmp_path), path=str(tmp_path / "my.csv"), column="one")
    for column, length in (("one", 4), ("two", 5), ("one", 4)):
        built = data.build(dataclasses.replace(config, column=column), CPU)
        assert set(built.corpora["train"].lengths) == {length}


def test_an_edited_text_and_another_vocabulary_are_read_again(tmp_path, monkeypatch):
    config = own(tmp_path)
    data.build(config, CPU)
    known = Vocabulary(["<pad>", "<unk>", "<s>", "</s>", "dog"])

    def twice() -> list[Splits]:
        first = data.build(config, CPU, known)
        with monkeypatch.context() as patch:
            unread(patch)
            return [first, data.build(config, CPU, known)]

    for built in twice():
        assert built.vocabulary is known and len(built.notes) == 1  # of its own none is strange
        assert all(corpus.tokens.max() < len(known) for corpus in built.corpora.values())
    assert data.build(config, CPU).vocabulary.words != known.words
    for known.source in ("another run", "a third"):
        for built in twice():
            assert f"the vocabulary of {known.source} is kept" in built.notes[-1]
    Path(config.path).write_text("\n".join(["zebra zebra", *sentences(50)]) + "\n", encoding="utf-8")
    assert "zebra" in data.build(config, CPU).vocabulary.words


def test_an_edited_tokenizer_is_read_again_and_one_elsewhere_or_gone_is_none(tmp_path, folder):
    path = tmp_path / "tokenizer.json"
    for size in (260, 280):
        Pieces.trained(sentences(90), size).tokenizer.save(str(path))
        built = data.build(own(tmp_path, tokens="bpe", tokenizer=str(path)), CPU)
        assert built.vocabulary.content == Pieces.read(path).content
    path.rename(tmp_path / "moved.json")
    files = sorted(folder.glob("*.safetensors"))
    again = data.build(own(tmp_path, tokens="bpe", tokenizer=str(tmp_path / "moved.json")), CPU)
    assert same(built, again) and sorted(folder.glob("*.safetensors")) == files
    going_on = data.build(own(tmp_path, tokens="bpe", tokenizer=str(path)), CPU, built.vocabulary)
    assert same(built, going_on)


def test_other_code_reads_again_and_takes_the_place(tmp_path, monkeypatch, folder, caplog):
    config = own(tmp_path)
    data.build(config, CPU)
    monkeypatch.setattr(cache, "_version", lambda: "newer")
    data.build(config, CPU)
    assert caplog.text.count("the texts are kept as numbers in ") == 2
    unread(monkeypatch)
    data.build(config, CPU)
    assert len(list(folder.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_what_reads_texts_is_the_code_and_the_tokenizers_where_they_are_installed(installed, monkeypatch):
    def version(name: str) -> str:
        if not installed:
            raise metadata.PackageNotFoundError(name)
        return f"{name} 7"

    monkeypatch.setattr(cache.metadata, "version", version)
    code = sha256(Path(cache.__file__).parent)
    assert cache._version() == (f"{code} tokenizers 7" if installed else code)


def damage(path: Path, how: str) -> None:
    """Cut a file short, or change one of its bytes: of the facts, or of the tokens at its end."""
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[:-5]
    elif how == "empty":
        content = bytearray()
    else:
        place = content.index(b"here") if how == "facts" else len(content) - 3
        content[place] ^= 4
    path.unlink()  # others may have mapped it
    path.write_bytes(content)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path, monkeypatch, folder, caplog):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    first = data.build(own(tmp_path), CPU)
    (path,) = folder.glob("*.safetensors")
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr(cache, "_save", lambda *_: None)
    caplog.clear()
    assert same(first, data.build(own(tmp_path), CPU))
    assert path.exists() and not caplog.messages


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("truncated", "Error while deserializing header: incomplete metadata"),
        ("empty", "Error while deserializing header: header too small"),
        ("facts", "a checksum differs"),
        ("tokens", "a checksum differs"),
    ],
)
def test_a_damaged_file_is_noticed_and_rebuilt(how, why, tmp_path, monkeypatch, folder, caplog):
    config = own(tmp_path)
    first = data.build(config, CPU)
    (path,) = folder.glob("*.safetensors")
    damage(path, how)
    caplog.clear()
    assert same(first, data.build(config, CPU))
    said, kept = caplog.messages
    assert said.startswith(f"{path} is damaged ({why}") and said.endswith("): the texts are read again")
    assert str(path) in kept
    unread(monkeypatch)
    assert same(first, data.build(config, CPU))


def test_a_small_text_is_read_at_every_start(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(cache, "SMALLEST", SMALLEST)
    data.build(own(tmp_path), CPU)
    assert SMALLEST == 8 * 2**20 and not folder.exists()


@pytest.mark.parametrize(("size", "said"), [(None, "0 MiB"), (1234 * 2**20, "1,234 MiB")])
def test_it_is_said_where_the_numbers_are_and_how_large(size, said, tmp_path, monkeypatch, folder, caplog):
    def large(_arrays: object, path: Path, _facts: object) -> None:
        path.touch()
        os.truncate(path, size)  # of holes, which take no room

    if size is not None:
        monkeypatch.setattr("safetensors.numpy.save_file", large)
    data.build(own(tmp_path), CPU)
    (path,) = folder.glob("*.safetensors")
    assert caplog.messages == [f"the texts are kept as numbers in {path}, {said}"]


def test_the_folder_is_where_the_environment_says_with_a_tilde_for_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variables, expected in (
        ({"CVAE_CACHE": "~/own", "XDG_CACHE_HOME": "~/xdg"}, "own"),
        ({"CVAE_CACHE": "", "XDG_CACHE_HOME": "~/xdg"}, "xdg/cvae"),
        ({"CVAE_CACHE": "", "XDG_CACHE_HOME": ""}, ".cache/cvae"),
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert cache.folder() == tmp_path / expected


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "file"))
    assert len(data.build(own(tmp_path), CPU).corpora["train"]) == 160
    (said,) = caplog.messages
    assert said.startswith(
        f"every start reads the texts, for {tmp_path / 'file'} cannot keep them as numbers ("
    )
    assert said.endswith("); CVAE_CACHE names another place")


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(28, "No space left on device"), "cvae.data.cache.os.fsync"),
        (safetensors.SafetensorError("No space left on device"), "safetensors.numpy.save_file"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(error, where, tmp_path, monkeypatch, folder, caplog):
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, full)
    assert len(data.build(own(tmp_path), CPU).corpora["train"]) == 160
    (said,) = caplog.messages
    assert f"{folder} cannot keep them as numbers (No space left on device); " in said
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch, folder, caplog):
    class Unsupported(FileLock):
        def acquire(self, *_: object, **__: object) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(cache, "FileLock", Unsupported)
    assert len(data.build(own(tmp_path), CPU).corpora["train"]) == 160
    (said,) = caplog.messages
    assert f"{folder} cannot keep them as numbers (FileSystem does not appear to support flock); " in said
    assert not list(folder.iterdir())


def test_a_folder_that_can_only_be_read_serves_what_it_has_and_says_once_what_is_damaged(
    tmp_path, monkeypatch, folder, caplog
):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    config = labelled(tmp_path)  # whose reader needs no lock of its own
    first = data.build(config, CPU)
    (path,) = folder.glob("*.safetensors")
    caplog.clear()
    monkeypatch.setattr(FileLock, "acquire", refuse)
    with monkeypatch.context() as patch:
        unread(patch)
        assert same(first, data.build(config, CPU)) and not caplog.messages
    damage(path, "tokens")
    monkeypatch.setattr(Path, "unlink", refuse)
    assert same(first, data.build(config, CPU))
    damaged, kept = caplog.messages
    assert damaged.startswith(f"{path} is damaged (a checksum differs)")
    assert f"{folder} cannot keep them as numbers (Read-only file system); " in kept


def test_a_killed_builder_leaves_nothing_that_is_used(tmp_path, monkeypatch, folder):
    config = own(tmp_path)

    def build() -> None:
        cache.os.fsync = lambda _: time.sleep(60)
        data.build(config, CPU)

    builder = FORK.Process(target=build)
    builder.start()
    while not list(folder.glob("*.tmp/*.safetensors")):
        time.sleep(0.01)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert list(folder.glob("*.tmp/*")) and not list(folder.glob("*.safetensors"))
    data.build(dataclasses.replace(config, max_words=30), CPU)  # clears up after the other
    assert not list(folder.glob("*.tmp"))
    assert len(data.build(config, CPU).corpora["train"]) == 160
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_what_is_left_over_is_removed_and_what_another_process_writes_is_not(tmp_path, folder):
    config = own(tmp_path)
    data.build(config, CPU)
    (path,) = folder.glob("*.safetensors")
    path.unlink()
    for drafts in (path.with_suffix(".tmp"), folder / "dead.tmp", folder / "alive.tmp"):
        drafts.mkdir()
        (drafts / "half").touch()
    with FileLock(folder / "alive.lock"):
        data.build(config, CPU)
    assert path.exists() and list(folder.glob("*.tmp/*")) == [folder / "alive.tmp" / "half"]


def test_of_two_processes_one_reads_and_the_other_waits(tmp_path, monkeypatch, folder, caplog):
    config = own(tmp_path)
    reads, read = FORK.Semaphore(0), data.REGISTRY[OwnText]

    def slowly(*given):
        reads.release()
        time.sleep(0.5)
        return read(*given)

    monkeypatch.setitem(data.REGISTRY, OwnText, slowly)
    other = FORK.Process(target=data.build, args=(config, CPU))
    other.start()
    assert reads.acquire(timeout=20)  # it holds the lock
    data.build(config, CPU)
    other.join()
    assert other.exitcode == 0 and not reads.acquire(block=False)
    (path,) = folder.glob("*.safetensors")
    assert caplog.messages == [f"another process reads the same texts: waiting for {path}"]


@pytest.mark.parametrize("tokens", ["words", "chars"])
def test_several_processes_read_what_one_does(tokens, tmp_path, monkeypatch):
    config = own(tmp_path, tokens=tokens)
    monkeypatch.setattr(cache, "SMALLEST", 10**9)
    monkeypatch.setattr(parallel, "available", lambda: 1)
    serial = data.build(config, CPU)
    monkeypatch.setattr(parallel, "CHUNK", 7)
    for number in (1, 2, 3):
        monkeypatch.setattr(parallel, "available", lambda number=number: number)
        assert same(serial, data.build(config, CPU))


def test_pieces_are_encoded_here_by_a_library_that_has_threads_of_its_own(monkeypatch):
    pieces, texts = Pieces.trained(sentences(50), 270), sentences(20)
    monkeypatch.setattr(parallel, "CHUNK", 3)
    monkeypatch.setattr(parallel, "available", lambda: 2)
    monkeypatch.delattr(parallel, "_by_processes")
    assert encode_all(pieces, texts).tokens.tolist() == [n for t in pieces.encode_texts(texts) for n in t]


@pytest.mark.parametrize("count", [1, 6, 7, 8, 14, 15, 40])
def test_results_come_in_the_order_of_the_texts(count, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 2)
    texts = [str(number) for number in range(count)]
    found = list(parallel.in_chunks(lambda chunk: [os.getpid(), *chunk], texts, 3))
    assert [part for _, *parts in found for part in parts] == texts
    assert len({pid for pid, *_ in found} - {os.getpid()}) == (min(3, -(-count // 2)) if count > 2 else 0)


def test_a_daemonic_process_reads_alone(monkeypatch):
    """As joblib's are, in a sweep: they must not have children."""
    monkeypatch.setattr(parallel, "CHUNK", 2)
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(3))
    assert parallel.available() == (3 if sys.platform.startswith("linux") else 1)
    daemon = FORK.Process(target=lambda: list(parallel.in_chunks(len, ["a"] * 9)), daemon=True)
    daemon.start()
    daemon.join()
    assert daemon.exitcode == 0


@pytest.mark.parametrize(
    ("platform", "daemon", "cores", "number"),
    [
        ("linux", False, 3, 3),
        ("linux", False, 99, 8),
        ("linux", True, 3, 1),
        ("darwin", False, 3, 1),
        ("win32", False, 3, 1),
    ],
)
def test_only_linux_has_further_processes_and_not_of_a_daemon(platform, daemon, cores, number, monkeypatch):
    monkeypatch.setattr(parallel, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    process = SimpleNamespace(daemon=daemon)
    monkeypatch.setattr(parallel.multiprocessing, "current_process", lambda: process)
    assert parallel.available() == number


def test_further_processes_leave_signals_to_the_first_and_end_whenever_it_says_so(monkeypatch):
    def work(chunk: list[str]) -> list[str]:
        for number in (signal.SIGINT, signal.SIGTERM):  # as a terminal and SLURM send them to all
            os.kill(os.getpid(), number)
        if chunk[0] == "wait":
            time.sleep(60)
        return chunk

    monkeypatch.setattr(parallel, "CHUNK", 1)
    begun = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        found = parallel.in_chunks(work, ["go", "wait", "wait"], 2)
        assert next(found) == ["go"]
        found.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 50 and not multiprocessing.active_children()


def test_a_process_ends_when_the_first_is_gone(monkeypatch):
    ours, theirs = FORK.Pipe()
    server = FORK.Process(target=parallel._serve, args=(len, theirs, [ours]))  # of which it has a copy
    server.start()
    ours.close()
    theirs.close()
    server.join(10)
    server.kill()
    server.join()
    assert server.exitcode == 0


def test_an_error_in_another_process_is_the_user_s(monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 2)
    words = Vocabulary(["<pad>", "<unk>", "<s>", "</s>", "a"])
    with pytest.raises(UserError, match="<pad> in a sentence"):
        text.splits({"train": ["a"] * 9 + ["<pad>"] + ["a"] * 9}, words, CPU, {})
    monkeypatch.setattr(parallel, "available", lambda: 3)
    with pytest.raises(UserError, match="<pad> in a sentence"):
        text.splits({"train": ["a"] * 9 + ["<pad>"] + ["a"] * 9}, words, CPU, {})
    with pytest.raises(UserError, match="has died"):
        list(parallel.in_chunks(lambda _: os._exit(1), ["a"] * 9, 3))
    with pytest.raises(UserError, match="has died"):  # the last of the three alone
        list(parallel.in_chunks(lambda chunk: os._exit(1) if "b" in chunk else 0, [*"aaaab"], 3))
    ours, theirs = FORK.Pipe()
    ours.send(["a"])
    theirs.close()  # before it has read them: a reset, and no end
    with pytest.raises(UserError, match="has died"):
        parallel._answer(ours)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("sampler", text.SAMPLERS)
def test_a_sentence_takes_at_most_32_bytes(sampler, tmp_path):
    count = 50_000
    config = dataclasses.replace(own(tmp_path), held_out=0.01)
    (tmp_path / "my.txt").write_text("\n".join(sentences(1000) * (count // 1000)))
    data.build(config, CPU)
    tracemalloc.start()
    try:
        train = data.build(config, CPU).corpora["train"]
        batches = Batches(train, sampler, 32, seed=0)
        batches.at(0)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert train.lengths.nbytes + train.words.nbytes == 4 * len(train)  # are mapped
    assert kept < 24 * len(train) and peak < 32 * len(train), (kept / len(train), peak / len(train))
