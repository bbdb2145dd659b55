"""`tracker=trackio`: the records of metrics.jsonl in an experiment tracker, too."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any

from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import UserError, in_a_line
from cvae.io import read_json, write_json
from cvae.runs.folder import RunFolder

RECORD = "tracker.json"
REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")  # by which trackio would write elsewhere


def refuse_unusable(config: Config) -> None:
    """Raise UserError where the tracker is not installed, or would not write to this machine."""
    if config.tracker is None:
        return
    if importlib.util.find_spec(config.tracker) is None:
        raise UserError("tracker=trackio needs the trackio package: pip install 'cvae-lab[trackio]'")
    if given := [name for name in REMOTE if os.environ.get(name)]:
        raise UserError(
            f"tracker=trackio writes to this machine, and {given[0]} names another: unset it; trackio sync"
            " sends a project there later"
        )


class Tracker:
    """A run of trackio with the name of the run's folder, in the project `name`.

    trackio cannot take records back, so that each start makes its run anew from those that the run has kept:
    nothing is there twice, or missing, whatever ended the last start.
    """

    def __init__(self, folder: RunFolder, config: Config, records: Iterable[dict[str, Any]]) -> None:
        import trackio

        self._trackio: Any = trackio
        project, name = config.name.replace("/", "-"), folder.path.resolve().name
        with _reported():
            self._remove(project, (read_json(folder / RECORD) or {}).get("run"))
            self._run = self._trackio.init(
                project,
                name=name,
                config=identity(config.container) | {"folder": str(folder)},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        write_json(folder / RECORD, {"project": project, "run": str(self._run.id)})
        for record in records:
            self.write(record)

    def _remove(self, project: str, run: str | None) -> None:
        """Remove the run of an earlier start; a project that does not exist has none."""
        with contextlib.suppress(ValueError):
            for earlier in self._trackio.Api().runs(project):
                if earlier.id == run:
                    earlier.delete()

    def write(self, record: dict[str, Any]) -> None:
        """Send a record of metrics.jsonl; nulls are left out."""
        values = {key: value for key, value in record.items() if key != "step" and value is not None}
        self._run.log(values, step=record["step"])

    def close(self) -> None:
        """Wait until all is written."""
        with _quiet():
            self._trackio.finish()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what trackio prints off the console."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """Turn whatever keeps trackio from starting into a UserError."""
    try:
        with _quiet():
            yield
    except Exception as error:
        raise UserError(f"tracker=trackio cannot start: {in_a_line(error)}") from None
