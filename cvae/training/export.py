"""A run for others: safetensors, JSON, the vocabulary and a model card, in a folder that can be shared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cvae import __version__
from cvae.config.load import load
from cvae.errors import FolderError
from cvae.io import write_atomically, write_json
from cvae.report.card import card
from cvae.runs.folder import WEIGHTS, RunFolder
from cvae.training.standalone import without_corpus

UNSHARED = ("command", "git")  # of run.json: what is typed names folders of this machine


def export(folder: RunFolder, target: Path, which: str | None = None) -> list[Path]:
    """Write a run of single sentences to a new or empty folder; return its files.

    Raises FolderError for a folder with anything in it, and for a run that `cvae.load` would not open.
    """
    from safetensors.torch import save

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FolderError(f"{target} is not empty: export to a new folder")
    task = without_corpus(folder, "cpu", which)
    record, results = dict(folder.record or {}), folder.results
    checkpoint = record.get("checkpoint") or which or task.config.task.reported
    # tensors that modules share are kept under each of their names
    weights = {name: weight.clone().contiguous() for name, weight in task.model.state_dict().items()}
    content = save(weights, {"format": "pt", "cvae": __version__})
    record = {key: value for key, value in record.items() if key not in UNSHARED}
    record |= {"config": _shareable(record["config"]), "checkpoint": checkpoint}
    record["weights"] = hashlib.sha256(content).hexdigest()
    page = card(load(_shareable(task.config.container)), results, checkpoint, record.get("data", {}))
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / WEIGHTS, memoryview(content))
    task.data.vocabulary.save(target)
    for name, text in task.model.files().items():
        write_atomically(target / name, text)
    write_atomically(target / "README.md", page)
    write_json(target / "results.json", results)
    write_json(target / "run.json", record)
    return sorted(target.iterdir())


def _shareable(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the names only of files and folders that lie elsewhere on this machine."""
    return {key: _name(value) for key, value in config.items()}


def _name(value: Any) -> Any:
    if isinstance(value, dict):
        return _shareable(value)
    is_elsewhere = isinstance(value, str) and (value.startswith(("/", "~", "..")))
    return Path(value).name if is_elsewhere else value
