"""Which files hold the splits of a corpus of one's own. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from cvae.errors import UserError

SPLIT_NAMES = {"train": ("train",), "val": ("valid", "val", "validation", "dev"), "test": ("test",)}
TABLES = (".jsonl", ".csv", ".tsv", ".parquet", ".arrow")
TEXTS = (".txt", *TABLES)
_SHARD = r"-\d+-of-\d+"  # of a split in several files, as `datasets` names them

Parts = dict[str, list[Path]]  # the files of each split


def extension(path: Path) -> str:
    """Return `.csv` for reviews.csv and reviews.csv.gz."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def table_format(path: Path) -> str:
    """Return the extension of a table, "" for plain text."""
    return extension(path) if extension(path) in TABLES else ""


def parts(path: Path, extensions: Collection[str] = TEXTS) -> Parts:
    """Return the files of each split that is there: a file is train, a folder is searched for usual names.

    A folder that `datasets` saved is its splits. Raises UserError where two files claim to be the same split.
    """
    if not path.is_dir():
        return {"train": [path]}
    if (path / "state.json").is_file():
        return {"train": sorted(path.glob("*.arrow"))}
    if (path / "dataset_dict.json").is_file():
        folders = {sub.name: [sub] for sub in sorted(path.iterdir()) if (sub / "state.json").is_file()}
        return {split: sorted(sub.glob("*.arrow")) for split, [sub] in by_split(path, folders).items()}
    found: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if extension(file) in extensions and file.is_file():
            stem = file.name[: file.name.lower().rindex(extension(file))]
            found.setdefault(re.sub(f"{_SHARD}$", "", stem) + file.name[len(stem) :], []).append(file)
    return by_split(path, found)


def labelled_parts(path: Path) -> Parts:
    """Return the tables of each split, or the folders of its classes: `<class>/` or `<split>/<class>/`."""
    if not path.is_dir():
        return parts(path)
    folders = sorted(sub for sub in path.iterdir() if sub.is_dir())
    inside = {sub.name: [part for part in sorted(sub.iterdir()) if part.is_dir()] for sub in folders}
    if splits := by_split(path, {name: subs for name, subs in inside.items() if subs}):
        return splits
    classes = [sub for sub in folders if any(extension(file) == ".txt" for file in sub.iterdir())]
    return {"train": classes} if classes else parts(path, TABLES)


def by_split(source: object, found: Mapping[str, list[Path]]) -> Parts:
    """Return the files of each split by the names in use. Raises UserError for several."""
    splits: Parts = {}
    for split, names in SPLIT_NAMES.items():
        own = [name for used in names for name in found if name.partition(".")[0] == used]
        if len(own) > 1:
            what = {"val": "validation", "train": "training"}.get(split, split)
            raise UserError(f"{source} has {' and '.join(own)}: one of them must be the {what} text")
        if own:
            splits[split] = found[own[0]]
    return splits


def named(splits: Mapping[str, list[Path]]) -> dict[str, Path]:
    """Return each file under its split or, where a split has several, split and name."""
    return {
        split if len(files) == 1 else f"{split}/{file.name}": file
        for split, files in splits.items()
        for file in files
    }
