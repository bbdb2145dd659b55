"""Texts from files: plain text, JSON lines, CSV, TSV (these also gzipped), Parquet and Arrow."""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from cvae.config.layout import Parts, by_split, table_format
from cvae.config.messages import listing
from cvae.config.schema import HubText
from cvae.errors import UserError, in_a_line
from cvae.io import parse_json

SEEN = 100  # rows that tell which columns are text
LONGEST_FIELD = 2**31 - 1  # of a CSV file; the default, 131,072 characters, is for numbers

Row = tuple[int, dict[str, Any]]  # its line or number, and its values by column


def texts(path: Path, column: str | None) -> Iterator[tuple[int, str]]:
    """Yield each text with its line, or its row of a binary table; an absent value is an empty text.

    `column` is None for plain text. Raises UserError, naming file and line, for what is no text.
    """
    if column is None:
        yield from lines(path)
        return
    for number, row in rows(path):
        text = row.get(column)
        if not isinstance(text, str | None):
            raise UserError(f"{place(path, number)}: {column} must be text, found {shown(text)}")
        yield number, text or ""


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table. Raises UserError, naming file and line, for what is none."""
    readers = {
        ".jsonl": _json_rows,
        ".csv": _csv_rows,
        ".tsv": _csv_rows,
        ".parquet": _parquet_rows,
        ".arrow": _arrow_rows,
    }
    return readers[table_format(path)](path)


def columns(path: Path) -> list[str]:
    """Return the columns of a table, as its first rows have them."""
    return list(dict.fromkeys(name for _, row in itertools.islice(rows(path), SEEN) for name in row))


def text_column(
    path: Path, wanted: str | None, besides: str | None = None, setting: str = "dataset.column"
) -> str | None:
    """Return the column of a table that holds its text: the wanted one, or the only one; None for no table.

    `besides` is a column that is not meant, `setting` the key that names the wanted one. Raises UserError
    where there is no such column, or more than one.
    """
    if not table_format(path):
        if wanted is not None:
            raise UserError(f"{setting}={wanted} names a column, and {path} is plain text")
        return None
    names = columns(path)
    if wanted is not None:
        if names and wanted not in names:
            raise UserError(f"{path} has no column {wanted} ({setting}): it has {listing(names)}")
        return wanted
    seen = [row for _, row in itertools.islice(rows(path), SEEN)]
    found = [name for name in names if name != besides and _is_text([row.get(name) for row in seen])]
    if len(found) != 1:
        what = f"the text columns {listing(found)}" if found else "no column of text"
        raise UserError(f"{path} has {what}: {setting} must name one of {listing(names)}")
    return found[0]


def _is_text(values: Sequence[Any]) -> bool:
    """Return whether a column holds text: strings that are not all numbers."""
    given = [value for value in values if value not in (None, "")]
    return all(isinstance(v, str) for v in given) and not all(map(is_numeral, given))


def is_numeral(text: str) -> bool:
    """Return whether a text is a number and nothing else."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line of UTF-8, which ends in LF, CRLF or a lone CR.

    Raises UserError naming the line, for other bytes and for a NUL (every other byte of UTF-16 is one).
    """
    number = 0
    for raw in _raw_lines(path):
        for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            number += 1
            yield number, decoded(path, number, part)


def decoded(path: Path, number: int, raw: bytes) -> str:
    """Return the text of a line. Raises UserError where it is not UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {raw[error.start]:#04x} at place {error.start}"
        raise UserError(f"{place(path, number)}: not UTF-8 ({byte})") from None
    if "\0" in text:
        raise UserError(
            f"{place(path, number)}: a NUL character; text is UTF-8, and this may be UTF-16"
        ) from None
    return text


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, or of what is gzipped in it, with their ends. Raises UserError."""
    zipped = path.suffix.lower() == ".gz"
    try:
        with cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is no complete gzip file: {in_a_line(error)}") from None


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the value of each line of JSON that is not blank. Raises UserError naming the line."""
    for number, raw in enumerate(_raw_lines(path), start=1):
        if not (text := decoded(path, number, raw).removeprefix("\ufeff").strip()):
            continue
        try:
            yield number, parse_json(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{place(path, number)}: not JSON: {error.msg} at place {error.pos}") from None
        except ValueError as error:
            raise UserError(f"{place(path, number)}: {error}") from None


def _json_rows(path: Path) -> Iterator[Row]:
    for number, value in json_lines(path):
        if not isinstance(value, dict):
            raise UserError(f"{place(path, number)}: a row is an object, found {shown(value)}")
        yield number, value


def _csv_rows(path: Path) -> Iterator[Row]:
    """Yield rows by the names in the first line. In a TSV file quotes are ordinary characters."""
    csv.field_size_limit(LONGEST_FIELD)
    numbered = enumerate(_raw_lines(path), start=1)
    texts = (decoded(path, n, raw).removeprefix("\ufeff" if n == 1 else "") for n, raw in numbered)
    if table_format(path) == ".tsv":
        reader = csv.reader(texts, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(texts, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise UserError(f"{path}, line 1: the first line names each column once, found {listing(names)}")
        for row in reader:
            if row and len(row) != len(names):
                where = place(path, reader.line_num)
                raise UserError(f"{where}: {len(row)} fields, and the first line names {len(names)}")
            if row:
                yield reader.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{place(path, reader.line_num)}: {error}") from None


@functools.cache
def hub_parts(config: HubText) -> Parts:
    """Return the Arrow files of each split of a dataset of the hub, fetched or in the cache.

    Raises UserError where it cannot be had.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(config.path, config.subset, revision=config.revision)
    except Exception as error:  # many kinds, of several libraries
        raise UserError(
            f"dataset.path={config.path} cannot be had from the hub: {in_a_line(error)};"
            " where there is no network, dataset=text reads a folder that `save_to_disk` of the datasets"
            " library wrote elsewhere"
        ) from None
    files = {name: [Path(file["filename"]) for file in split.cache_files] for name, split in found.items()}
    if "train" not in (splits := by_split(config.path, files)):
        raise UserError(f"dataset.path={config.path} has no split train: it has {listing(found)}")
    return splits


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches())
            yield from enumerate(itertools.chain.from_iterable(batches), start=1)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} is no usable Parquet file: {in_a_line(error)}") from None


def _arrow_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of a saved `datasets` folder."""
    import datasets
    from pyarrow import ArrowException

    try:
        yield from enumerate(datasets.Dataset.from_file(str(path)), start=1)
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} is no usable file of a saved datasets folder: {in_a_line(error)}") from None


def place(path: Path, number: int) -> str:
    """Return where a text stands, for errors."""
    return f"{path}, {'row' if table_format(path) in ('.parquet', '.arrow') else 'line'} {number}"


def shown(value: Any) -> str:
    """Return a value as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
