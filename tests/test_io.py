"""Files that are written completely or not at all, and JSON that is refused in a sentence."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import pytest

from cvae import io
from cvae.errors import FolderError, in_a_line


def test_a_file_is_replaced_and_the_old_one_kept_where_it_is_asked_for(tmp_path):
    path, previous = tmp_path / "a.txt", tmp_path / "previous.txt"
    for content in ("one", memoryview(b"two"), "drei é"):
        io.write_atomically(path, content, previous)
    assert path.read_text(encoding="utf-8") == "drei é" and previous.read_text() == "two"
    io.write_atomically(path, "four")
    assert path.read_text() == "four" and previous.read_text() == "two"
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_on_a_full_disk_the_old_file_stays_and_no_draft(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path, previous = tmp_path / "a.txt", tmp_path / "previous.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        io.write_atomically(path, "new", previous)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_records_are_appended_a_line_each_and_a_half_one_is_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    io.cut_unfinished(path)
    assert not path.exists()
    for whole in (b"", b'{"a": 1}\n', b'{"a": 1}\n\n{"b": 2}\n'):
        for half in (b"", b"{", b'{"c": 3}'):
            path.write_bytes(whole + half)
            io.cut_unfinished(path)
            assert path.read_bytes() == whole
    io.append_line(path, {"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n\n{"b": 2}\n{"c": 3}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.append_line(path, {"c": math.nan})


def test_the_print_of_a_folder_is_of_the_names_and_contents_of_its_files(tmp_path):
    def print_of(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    names = ("b.txt", "a.txt", "c.txt")  # in the order of no folder
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    lines = "\n".join(f"{print_of(name.encode())} {name}" for name in sorted(names))
    assert io.sha256(tmp_path / "b.txt") == print_of(b"b.txt")
    assert io.sha256(tmp_path) == print_of(lines.encode())


def test_an_object_is_read_from_a_file_and_anything_else_refused_by_its_name(tmp_path):
    path = tmp_path / "a.json"
    assert io.read_json(path) is None
    io.write_json(path, {"é": 1})
    assert io.read_json(path) == {"é": 1} and path.read_text(encoding="utf-8") == '{\n "é": 1\n}\n'
    with pytest.raises(FolderError, match=f"^{tmp_path} cannot be read: .*Is a directory"):
        io.read_json(tmp_path)
    for content, why in ((b"[]", "must hold a JSON object, found list$"), (b'"\xff"', "cannot be read: ")):
        path.write_bytes(content)
        with pytest.raises(FolderError, match=f"^{path} {why}"):
            io.read_json(path)


@pytest.mark.parametrize("half", ["d800", "D800", "dBfF", "dc00", "DFFF"])
def test_half_a_character_is_refused_and_a_whole_one_is_not(half):
    for text in (rf'["\u{half}"]', rf'["\u{half}"]'.encode()):
        with pytest.raises(ValueError, match="half a character"):
            io.parse_json(text)
    assert io.parse_json(r'"\uD83D\uDE00"') == "😀"


@pytest.mark.parametrize(
    ("digits", "finite"), [(1, True), (308, True), (309, False), (350, False), (5000, False)]
)
def test_a_whole_number_too_large_for_a_measure_is_infinite_as_it_is_with_an_exponent(digits, finite):
    value = io.parse_json("9" * digits)
    assert io.is_number(value) == finite and float(value) == float("9" * digits)


@pytest.mark.parametrize(
    ("record", "wrong"),
    [
        ({"step": 3, "val/elbo": None, "time": "noon", "a/b": 0.5}, ""),
        ({"val/elbo": True}, "val/elbo must be a number, found 'True'"),
        ({"val/elbo": math.inf}, "val/elbo must be a number, found 'inf'"),
        ({"a/b": 1, "step": "x" * 50}, f"step must be a number, found {'x' * 40!r}"),
    ],
)
def test_what_is_no_number_among_measures_is_told(record, wrong):
    assert io.not_numbers(record, "step") == wrong


def test_a_path_is_relative_to_where_the_command_was_started(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert io.located("~/a.txt") == tmp_path / "a.txt" and io.located("a/b.txt") == Path("a/b.txt")
    monkeypatch.setattr(io, "to_absolute_path", lambda path: str(Path("/started", path)))
    assert io.located("a.txt") == Path("/started/a.txt")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\r\n\n  two\tthree\n"), "one two three"),
        (EOFError(), "EOFError"),
        (KeyError("\n"), r"'\n'"),
        (ValueError("a" * 301), "a" * 300),
    ],
)
def test_what_another_library_says_is_a_line_in_a_sentence(error, line):
    assert in_a_line(error) == line
