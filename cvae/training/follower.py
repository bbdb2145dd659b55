"""The part of torchrun's processes above rank 0: they make the steps, and leave the run's folder alone."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from cvae.config.load import identity as flat
from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.runs.fingerprints import Fingerprints
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import collective
from cvae.training.loop import Loop
from cvae.training.means import read


def quiet(config: Config) -> Config:
    """Return the configuration without a progress bar, and silence what rank 0 says, too."""
    logging.getLogger("cvae").setLevel(logging.ERROR)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, progress=False))


def identity(task: Task, prints: Fingerprints) -> dict[str, Any]:
    """Return what all processes of a run must have in common."""
    words = task.data.vocabulary.text
    return {"configuration": flat(task.config.container), "vocabulary": words, "data": dict(prints)}


def follow(folder: RunFolder, task: Task, prints: Fingerprints) -> None:
    """Take the steps of rank 0's run. Raises FolderError where rank 0 has another corpus or configuration."""
    ours = identity(task, prints)
    theirs = collective.share(ours)
    if differing := [name for name in ours if ours[name] != theirs[name]]:
        raise FolderError(f"differs from rank 0 in its {' and '.join(differing)}")
    loop = Follower(task.config, task, folder)
    loop.resume()
    no_records: Any = None
    loop.run(no_records)


class Follower(Loop):
    """The loop without measures, records and checkpoints; rank 0 sends what it decides by them."""

    def resume(self) -> tuple[int, dict[str, int]]:
        """Take over the state of rank 0."""
        state = collective.share(self.state.state_dict())
        self.state.load_state_dict(state, self.folder / "checkpoint_last.pt")
        self._saved = self.state.step
        return self._saved, {}

    def save(self, logger: Any) -> None:
        self._read_steps()
        self._saved = self.state.step

    def _read_steps(self) -> None:
        """Add this process's sums to those of the others; rank 0 checks and keeps them."""
        read(self._unread)
        self._unread = []

    def _report(self, logger: Any, bar: Any) -> None:
        self._read_steps()

    def _validate(self, logger: Any) -> None:
        self._read_steps()
        self.state.scores.append(collective.share(0.0))
