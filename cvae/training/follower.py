"""The part of torchrun's processes above rank 0: they make the steps, and leave the run's folder alone."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.runs import world
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import collective
from cvae.training.loop import Loop
from cvae.training.means import read


def quiet(config: Config) -> Config:
    """Return the configuration without a progress bar, and silence what rank 0 says, too."""
    logging.getLogger("cvae").setLevel(logging.ERROR)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, progress=False))


def follow(config: Config, folder: RunFolder, task: Task, identity: dict[str, Any]) -> None:
    """Take the steps of rank 0's run; `identity` says of which configuration, data and words.

    Raises FolderError where rank 0 has others.
    """
    theirs = collective.share(identity)
    if differing := [name for name, value in identity.items() if value != theirs[name]]:
        raise FolderError(
            f"rank {world.rank()} has another {' and '.join(differing)} than rank 0: all processes must have"
            " the same"
        )
    loop = Follower(config, task, folder)
    loop.resume()
    records: Any = None
    loop.run(records)


class Follower(Loop):
    """The loop without measures, records and checkpoints; rank 0 sends what it decides by them."""

    def resume(self) -> tuple[int, dict[str, int]]:
        """Take over the state and the rates of rank 0."""
        state, self.rates = collective.share((self.state.state_dict(), self.rates))
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
        if self._reporting:
            self._read_steps()

    def _validate(self, logger: Any) -> None:
        self._read_steps()
        self.state.scores.append(collective.share(0.0))
