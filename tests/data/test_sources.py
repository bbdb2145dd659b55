"""Texts from files of every format, and from folders of splits."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from cvae import data
from cvae.config import layout
from cvae.config.schema import HubText, OwnText
from cvae.data import sources
from cvae.errors import UserError
from tests.helpers import CPU

TEXTS = ["the cat, it sat", "a “dog” ran", 'said "no" and\nleft', "the end"]
ROWS = [{"id": number, "review": text, "stars": "3"} for number, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keeps what `datasets` caches out of the home folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def own(path: Path, **values) -> OwnText:
    base = {"max_words": 200, "held_out": 0.25, "sampler": "bucketed"}
    return OwnText(name="text", path=str(path), **(base | values))


def quoted(text: str | None) -> str:
    return '"' + (text or "").replace('"', '""') + '"'


def written(folder: Path, kind: str, rows: list[dict] = ROWS, stem: str = "reviews") -> Path:
    """Write rows in a format."""
    path = folder / f"{stem}{kind}"
    if kind == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        lines = {
            ".jsonl": [json.dumps(row) for row in rows],
            ".csv": ["id,review,stars", *(f"{r['id']},{quoted(r['review'])},{r['stars']}" for r in rows)],
            ".tsv": ["id\treview\tstars"]
            + [f"{r['id']}\t{(r['review'] or '').replace(chr(10), ' ')}\t{r['stars']}" for r in rows],
        }[kind.removesuffix(".gz")]
        content = "\n".join(lines).encode() + b"\n"
        path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return path


KINDS = [".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.gz", ".tsv.gz", ".parquet", ""]


def test_datasets_is_told_to_count_no_downloads_and_to_draw_no_bars(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    datasets.enable_progress_bars()
    data.build(own(written(tmp_path, ".csv"), column="review"), CPU)
    assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS and datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_come_out_of_every_format_and_the_column_is_found(tmp_path, kind):
    built = data.build(own(written(tmp_path, kind), column=None), CPU)
    texts = []
    for part in built.corpora.values():
        rows = part.batch(np.arange(len(part))).tokens.tolist()
        texts += [built.vocabulary.sentence(row) for row in rows]
    known = {word for text in texts for word in text.split()} - {"<unk>"}
    assert len(texts) == 4 and known <= {word for text in TEXTS for word in text.split()}
    assert sorted(len(text.split()) for text in texts) == sorted(len(text.split()) for text in TEXTS)
    assert ", column review" in built.notes[0] and "held out of train" in built.notes[0]
    assert built.fingerprints.keys() == {"train", "val", "test"}
    assert list(data.build(own(written(tmp_path, kind), column="review"), CPU).notes) == list(built.notes)


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_column_of_numbers_and_blanks_is_no_text(tmp_path, kind):
    rows = [row | {"stars": stars} for row, stars in zip(ROWS, ["3", "", "4.5", ""], strict=True)]
    assert sources.text_column(written(tmp_path, kind, rows), None) == "review"


@pytest.mark.parametrize("other", [3, ["good"], {"of": 5}])
def test_a_column_of_which_one_value_is_no_string_is_no_text(tmp_path, other):
    rows = [row | {"stars": stars} for row, stars in zip(ROWS, ["good", "", other, None], strict=True)]
    assert sources.text_column(written(tmp_path, ".jsonl", rows), None) == "review"


@pytest.mark.parametrize(("row", "looked_at"), [(100, True), (101, False)])
def test_a_hundred_rows_tell_which_columns_are_text(row, looked_at, tmp_path):
    path = tmp_path / "a.csv"
    numbers = ["seven" if place == row else "7" for place in range(1, 103)]
    path.write_text("id,review\n" + "".join(f"{number},a b\n" for number in numbers))
    if not looked_at:
        assert sources.text_column(path, None) == "review"
        return
    with pytest.raises(UserError, match="has the text columns id, review: "):
        sources.text_column(path, None)


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_texts_may_have_a_number_among_them(tmp_path, kind):
    rows = [row | {"review": text} for row, text in zip(ROWS, ["10", *TEXTS[1:]], strict=True)]
    assert sources.text_column(written(tmp_path, kind, rows), None) == "review"


def test_quotes_in_tsv_are_ordinary_characters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('review\tstars\n"quoted" at first\t3\n"never closed\t4\nthe end\t5\n')
    assert [text for _, text in sources.texts(path, "review")] == [
        '"quoted" at first',
        '"never closed',
        "the end",
    ]


def test_lines_of_a_table_are_those_of_its_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n\nx y,1\n"y\nz",2\n\nz w,3\n', encoding="utf-8")
    assert list(sources.texts(path, "a")) == [(3, "x y"), (5, "y\nz"), (7, "z w")]


def test_a_field_may_be_longer_than_numbers_are(tmp_path):
    path, limit = tmp_path / "a.csv", csv.field_size_limit(1000)
    path.write_text(f"a,b\n{'x ' * 70_000},1\n")  # more than the limit of Python, too
    assert [len(text) for _, text in sources.texts(path, "a")] == [140_000]
    csv.field_size_limit(limit)


def test_columns_are_those_of_any_row_and_a_row_without_one_is_empty(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "review": "a b"}\n{"review": null, "more": 3}\n')
    assert sources.columns(path) == ["id", "review", "more"]
    assert list(sources.texts(path, sources.text_column(path, None))) == [(1, ""), (2, "a b"), (3, "")]


def test_what_is_found_is_shown_up_to_60_characters():
    assert sources.shown("a" * 58) == f'"{"a" * 58}"'
    assert sources.shown("a" * 59) == f'"{"a" * 56}...'
    assert sources.shown({"on": datetime.date(2024, 1, 2)}) == '{"on": "2024-01-02"}'


@pytest.mark.parametrize("kind", [".parquet", ""])
def test_a_binary_table_has_rows_from_1_on_and_no_lines(tmp_path, kind):
    with pytest.raises(UserError, match=r", row 1: id must be text, found 0$"):
        data.build(own(written(tmp_path, kind), column="id"), CPU)


def test_each_column_of_a_file_is_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"a": f"one {n}", "b": f"two {n}"}) + "\n" for n in range(8)))
    for column, word, other in (("a", "one", "two"), ("b", "two", "one"), ("a", "one", "two")):
        words = data.build(own(path, column=column), CPU).vocabulary.words
        assert word in words and other not in words


def test_the_same_bytes_are_another_text_in_another_format(tmp_path):
    for kind, word in ((".csv", "one"), (".tsv", '"one')):  # the name was wrong, and is put right
        path = tmp_path / f"a{kind}"
        path.write_text("text\n" + '"one two"\n' * 8)
        assert word in data.build(own(path), CPU).vocabulary.words


def test_texts_keep_their_commas_quotes_and_line_ends(tmp_path):
    for kind in (".jsonl", ".csv", ".parquet"):
        found = [text for _, text in sources.texts(written(tmp_path, kind), "review")]
        assert found == TEXTS


def test_a_folder_of_splits_may_hold_any_format_and_shards(tmp_path):
    for stem, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 1), ("dev", 2)):
        written(tmp_path, ".parquet", ROWS[:count], stem)
    (tmp_path / "README.md").write_text("no split")
    built = data.build(own(tmp_path), CPU)
    assert {split: len(part) for split, part in built.corpora.items()} == {"train": 3, "val": 2, "test": 1}
    assert built.notes[0].startswith(
        "train 3 sentences of 2 files, column review; val 2 sentences of dev.parquet"
    )
    assert {
        "train/train-00000-of-00002.parquet",
        "train/train-00001-of-00002.parquet",
    } <= built.fingerprints.keys()
    changed = [row | {"review": "another word"} for row in ROWS[:1]]
    written(tmp_path, ".parquet", changed, "train-00001-of-00002")
    assert (
        "another" in data.build(own(tmp_path), CPU).vocabulary.words
    )  # not what the cache knows of the first
    written(tmp_path, ".csv", ROWS, "train")
    with pytest.raises(UserError, match=r"has train\.\w+ and train\.\w+: one of them must be the tr"):
        layout.parts(tmp_path)


def test_a_saved_folder_of_splits_is_read_by_its_splits(tmp_path):
    splits = {"train": ROWS, "validation": ROWS[:2], "test": ROWS[:1]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in splits.items()}).save_to_disk(
        tmp_path / "d"
    )
    built = data.build(own(tmp_path / "d"), CPU)
    assert {split: len(part) for split, part in built.corpora.items()} == {"train": 4, "val": 2, "test": 1}
    assert "val 2 sentences of validation/data-" in built.notes[0]


def test_what_is_empty_or_longer_is_left_out_and_said(tmp_path):
    more = ["", None, "one two three four five", *TEXTS[:1], "", *["one two three four six"] * 2]
    rows = [*ROWS, *({"id": 4 + number, "review": text, "stars": "1"} for number, text in enumerate(more))]
    for place, part in enumerate((rows[:7], rows[7:])):
        written(tmp_path, ".jsonl", part, f"train-{place}-of-2")
    for stem in ("valid", "test"):
        written(tmp_path, ".jsonl", ROWS[:2], stem)
    built = data.build(own(tmp_path, longest=4), CPU)
    assert built.notes[0].startswith(
        "train 5 sentences of 2 files, column review,"
        " without 3 empty and 3 of more than 4 words (dataset.longest); val 2 sentences of valid.jsonl,"
    )
    assert len(built.corpora["train"]) == 5


def test_text_without_spaces_is_told_about_other_tokens(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("今日は天気がいい\n猫が好きです\n" * 8)
    assert (
        data.build(own(path), CPU).notes[1].startswith("most sentences are one word: text without spaces is")
    )
    assert len(data.build(own(path, tokens="chars"), CPU).notes) == 1
    path.write_text("今日は天気がいい\n猫 が 好きです\n" * 8)  # most are more than half
    assert len(data.build(own(path), CPU).notes) == 1
    for place, text in enumerate(("猫 が 好きです\n" * 3, "今日は天気がいい\n" * 8)):  # most of both files
        (tmp_path / f"train-{place}-of-2.txt").write_text(text)
    assert len(data.build(own(tmp_path), CPU).notes) == 2


BAD = [
    (".jsonl", b'{"review": "a b"}\n[1]\n', None, "line 2: a row is an object, found [1]"),
    (".jsonl", b'{"review": "a b"}\n{"review": }\n', None, "line 2: not JSON: Expecting value at place 11"),
    (".jsonl", b'{"review": "a b"}\n{"review": 3}\n', "review", "line 2: review must be text, found 3"),
    (
        ".jsonl",
        b'{"a": "x y", "b": "y z"}\n',
        None,
        "has the text columns a, b: dataset.column must name one of a, b",
    ),
    (
        ".jsonl",
        b'{"a": 1, "b": "2.5"}\n',
        None,
        "has no column of text: dataset.column must name one of a, b",
    ),
    (".csv", b"a,b\nx y,1\n", "c", "has no column c (dataset.column): it has a, b"),
    (".csv", b"a,b\nx y,1\nx y\n", "a", "line 3: 1 fields, and the first line names 2"),
    (".csv", b"a,a\nx y,1\n", "a", "line 1: the first line names each column once, found a, a"),
    (".csv", b'a,b\n"x y,1\n', "a", "line 2: unexpected end of data"),
    (".csv", b"a,b\nx \xff,1\n", "a", "line 2: not UTF-8 (byte 0xff at place 2)"),
    (".csv", b"a, \nx y,1\n", "a", "line 1: the first line names each column once, found  , a"),
    (".csv", b"", None, "has no column of text"),
    (".csv", b"", "a", "has no sentence in it"),
    (".csv.gz", b"a,b\nx y,1\n", "a", "is no complete gzip file: Not a gzipped file"),
    (".tsv", b"a\tb\nx y\t1\t2\n", "a", "line 2: 3 fields, and the first line names 2"),
    (".parquet", b"PAR1 not", "a", "is no usable Parquet file: Parquet magic bytes not found in footer"),
    (".txt", b"a b\n", "a", "dataset.column=a names a column, and "),
]


@pytest.mark.parametrize(("kind", "content", "column", "sentence"), BAD, ids=range(len(BAD)))
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, kind, content, column, sentence):
    path = tmp_path / f"reviews{kind}"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        data.build(own(path, column=column), CPU)
    assert sentence in str(refusal.value) and str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_half_a_gzip_file_and_a_damaged_one_are_refused(tmp_path):
    path = written(tmp_path, ".csv.gz", ROWS * 200).rename(tmp_path / "REVIEWS.CSV.GZ")
    whole = path.read_bytes()
    no_block, no_checksum = whole[:10] + b"\xff" + whole[11:], whole[:-8] + bytes(8)
    for content in (whole[:-20], no_block, no_checksum):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no complete gzip file"):
            data.build(own(path), CPU)


def test_a_saved_folder_whose_table_is_broken_is_refused(tmp_path):
    folder = written(tmp_path, "")
    (path,) = folder.glob("*.arrow")
    path.write_bytes(b"broken")
    sentence = rf"^{re.escape(str(path))} is no usable file of a saved datasets folder: Expected to read"
    with pytest.raises(UserError, match=sentence):
        data.build(own(folder, column="review"), CPU)
    path.unlink()
    for read, kind in (
        (sources._arrow_rows, "file of a saved datasets folder"),
        (sources._parquet_rows, "Parquet file"),
    ):
        gone = rf"^{re.escape(str(path))} is no usable {kind}: \[Errno 2\] .*No such file or directory$"
        with pytest.raises(UserError, match=gone):  # gone in the meantime
            list(read(path))


def hub(**values) -> HubText:
    return HubText(name="hub", path="me/mine", max_words=200, held_out=0.25, sampler="bucketed", **values)


def test_a_dataset_of_the_hub_is_read_as_a_saved_one(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(folder)
    asked = []

    def load(*arguments, **options):
        assert datasets.are_progress_bars_disabled()
        asked.append((arguments, options))
        return datasets.load_from_disk(folder)

    monkeypatch.setattr(datasets, "load_dataset", load)
    datasets.enable_progress_bars()
    built = data.build(hub(subset="plain", revision="v1"), CPU)
    assert asked == [(("me/mine", "plain"), {"revision": "v1"})]
    assert sum(map(len, built.corpora.values())) == 4 and built.fingerprints["train"]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            ConnectionError("Couldn't reach 'me/mine' on the Hub\n(offline)"),
            "Couldn't reach .* Hub .offline.; ",
        ),
        (TimeoutError(), "TimeoutError; "),
        (ValueError("one " * 99), "(one ){75}; where there is no network"),
    ],
)
def test_a_dataset_that_the_hub_does_not_give_ends_in_a_sentence(error, what, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=f"^dataset.path=me/mine cannot be had from the hub: {what}"):
        data.build(hub(), CPU)


def test_a_dataset_of_the_hub_has_a_split_train(monkeypatch):
    splits = {name: SimpleNamespace(cache_files=[{"filename": "a.arrow"}]) for name in ("test", "extra")}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    with pytest.raises(UserError, match=r"^dataset\.path=me/mine has no split train: it has extra, test$"):
        sources.hub_parts(hub(subset="without train"))


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CVAE_DATA"), reason="CVAE_DATA is not set")
@pytest.mark.parametrize(("name", "words"), [("snli", 9.68), ("yahoo", 79.07)])
def test_the_fields_corpora_are_read_whole(tmp_path, configured, name, words):
    folder = Path(os.environ["CVAE_DATA"]) / name
    for part, file in (("train", "valid"), ("valid", "valid"), ("test", "test")):
        (tmp_path / f"{name}.{part}.txt").symlink_to((folder / f"{name}.{file}.txt").resolve())
    built = data.build(configured("task=ptb", f"dataset={name}", f"dataset.path={tmp_path}").dataset, CPU)
    assert {len(corpus) for corpus in built.corpora.values()} == {10_000}
    assert built.corpora["val"].words.mean() == pytest.approx(words, abs=0.01)
    assert built.in_train["val"] == 1.0
