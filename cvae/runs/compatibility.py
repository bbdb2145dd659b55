"""Whether a run may use a folder: as its own, only with the same configuration and the same data."""

from __future__ import annotations

from typing import Any

from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.runs import fingerprints
from cvae.runs.fingerprints import Fingerprints
from cvae.runs.folder import RunFolder


def refuse_other_run(folder: RunFolder, config: Config) -> None:
    """Raise FolderError, naming the keys or files that differ, where the folder holds another run."""
    if config.overwrite or (record := folder.record) is None:
        return
    if differing := differences(identity(record["config"]), identity(config.container)):
        raise FolderError(
            f"{folder} holds a different run: {'; '.join(differing)}."
            " Give this one another name=…, or overwrite=true to lose that one"
        )
    advice = "; give a run on these another name=…, or overwrite=true to lose that one"
    refuse_other_data(folder, fingerprints.of_config(config), advice)


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return in what two flat configurations differ, a phrase for each key."""
    return [
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
    ]


def refuse_other_data(folder: RunFolder, data: Fingerprints, advice: str = "") -> None:
    """Raise FolderError where a file differs from the one that the run began with.

    A file that is not on this machine, or that run.json does not list, is unknown and passes.
    """
    recorded = _recorded(folder)
    changed = [name for name, digest in data.items() if digest not in (None, recorded.get(name, digest))]
    if changed:
        raise FolderError(
            f"{folder} was trained on other data: {' and '.join(changed)} changed since{advice}"
        )


def unchecked_files(folder: RunFolder, data: Fingerprints) -> str:
    """Return which files cannot be compared with those of the run, and why; empty for none."""
    recorded = _recorded(folder)
    absent = [name for name, digest in data.items() if digest is None]
    unlisted = [name for name, digest in data.items() if digest is not None and name not in recorded]
    reasons = [f"{', '.join(absent)} not on this machine"] if absent else []
    reasons += [f"{', '.join(unlisted)} not in its run.json"] if unlisted else []
    return f"corpus not checked: {'; '.join(reasons)}" if reasons else ""


def _recorded(folder: RunFolder) -> dict[str, str]:
    """Return the fingerprints in run.json."""
    return (folder.record or {}).get("data", {})


def refuse_as_source(folder: RunFolder, config: Config) -> None:
    """Raise FolderError unless the folder holds a finished run that `init_from` may name.

    A run that only trains classifiers needs a source with its own task, model and schedule.
    """
    if (record := folder.record) is None or not folder.finished:
        raise FolderError(f"init_from={folder} is not the folder of a finished run")
    if not folder.reported.exists():
        raise FolderError(f"init_from={folder} was not trained: it has no {folder.reported.name}")
    for group in () if config.pretrains else ("task", "model", "schedule"):
        there, here = record["config"][group]["name"], config.container[group]["name"]
        if there != here:
            raise FolderError(
                f"init_from={folder} was run with {group}={there}, and this run has {group}={here}"
            )
