"""Files of z: .npz, .parquet or .jsonl with a mean, a std and a text for each sentence."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cvae.config.messages import listing
from cvae.data.sources import rows
from cvae.errors import UserError, in_a_line
from cvae.io import write_atomically

FORMATS = (".npz", ".parquet", ".jsonl")
COLUMNS = ("z", "mean")  # where `read` looks, in this order


def refuse_format(path: Path) -> None:
    """Raise UserError for a file of another format than FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a file of z ends in {listing(FORMATS)}")


def write(path: Path, mean: np.ndarray, std: np.ndarray, texts: Sequence[str]) -> None:
    """Write mean and std [N, Z] and the N texts, completely or not at all. Raises OSError."""
    writers: dict[str, Callable[..., bytes]] = {".npz": _npz, ".parquet": _parquet, ".jsonl": _jsonl}
    write_atomically(path, memoryview(writers[path.suffix.lower()](mean, std, texts)))


def _npz(mean: np.ndarray, std: np.ndarray, texts: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=mean, std=std, text=np.array(texts, dtype=np.str_))
    return buffer.getvalue()


def _parquet(mean: np.ndarray, std: np.ndarray, texts: Sequence[str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    columns = {"text": list(texts), "mean": list(mean), "std": list(std)}
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _jsonl(mean: np.ndarray, std: np.ndarray, texts: Sequence[str]) -> bytes:
    lines = [
        json.dumps({"text": text, "mean": _short(m), "std": _short(s)}, ensure_ascii=False)
        for text, m, s in zip(texts, mean, std, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _short(row: np.ndarray) -> list[float]:
    """Return float32 numbers with the nine digits that make them out."""
    return [float(f"{value:.9g}") for value in row]


def read(path: Path, size: int) -> np.ndarray:
    """Return the z [N, size] of a file, its `z` or else its `mean`.

    Raises UserError for a file without such numbers.
    """
    refuse_format(path)
    values = _arrays(path) if path.suffix.lower() == ".npz" else _rows(path)
    try:
        z = np.array(values, dtype=np.float32)
    except (ValueError, TypeError):
        raise UserError(f"{path}: z must be {size} numbers in every row") from None
    if z.ndim != 2 or z.shape[1] != size:
        found = " x ".join(map(str, z.shape))
        raise UserError(f"{path}: z must be {size} numbers in every row, as the model has, found {found}")
    if not np.isfinite(z).all():
        raise UserError(f"{path}, row {int((~np.isfinite(z)).any(1).argmax()) + 1}: z must be finite numbers")
    return z


def _arrays(path: Path) -> np.ndarray:
    try:
        if isinstance(arrays := np.load(path, allow_pickle=False), np.ndarray):
            raise UserError(f"{path} is one array, where a .npz file has arrays by name")
        with arrays:
            if name := next((name for name in COLUMNS if name in arrays), None):
                return arrays[name]
            raise UserError(f"{path} has no array {' or '.join(COLUMNS)}: it has {listing(arrays)}")
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # numpy and zipfile refuse other files in many ways
        raise UserError(f"{path} is no usable .npz file: {in_a_line(error)}") from None


def _rows(path: Path) -> list[object]:
    values = []
    for number, row in rows(path):
        if (value := next((row[name] for name in COLUMNS if name in row), None)) is None:
            raise UserError(f"{path}, row {number} has no {' or '.join(COLUMNS)}: it has {listing(row)}")
        values.append(value)
    return values
