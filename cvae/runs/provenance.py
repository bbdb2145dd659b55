"""Provenance: run.json holds all that is needed to repeat a run."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from cvae import __version__
from cvae.config.schema import Config
from cvae.io import write_json
from cvae.program import INSTALLED
from cvae.runs import continuation
from cvae.runs.compatibility import refuse_other_data
from cvae.runs.fingerprints import Fingerprints
from cvae.runs.folder import RECORD_FORMAT, RunFolder

PACKAGES = ("torch", "numpy", "hydra-core", "datasets", "scikit-learn", "sacrebleu")


def describe(
    folder: RunFolder, config: Config, command: str, data: Fingerprints, device: str = "cpu"
) -> None:
    """Write run.json, unless the run has one; `device` is where it began, a GPU by its name.

    Raises FolderError where its data are others.
    """
    if folder.record is not None:
        refuse_other_data(folder, data)
        return
    about: dict[str, Any] = {
        "format": RECORD_FORMAT,
        "config": config.container,
        "command": command,
        "device": device,
        "versions": versions(),
        "git": git_commit(),
        "data": {name: digest for name, digest in data.items() if digest is not None},
    }
    if earlier := continuation.stages(config):
        about["continues"] = earlier
    write_json(folder / "run.json", about)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result may depend on."""
    own = {"python": platform.python_version(), "cvae": __version__}
    return own | {name: metadata.version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """Return the commit of this source tree, with `+` for uncommitted changes; None outside git."""
    if INSTALLED:  # git would find the repository that a virtual environment lies in
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    """Return what git prints about the folder of this file."""
    command, here = ["git", *arguments], Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
