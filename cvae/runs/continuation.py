"""`continue_from`: a finished run goes on in another folder, to a longer T. Torch-free.

run.json of that folder has a stage for each run that was continued, so that it needs none of them any more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import FolderError
from cvae.runs.compatibility import differences
from cvae.runs.folder import RunFolder
from cvae.schedules import Cyclical, Rates, Stage

CHECKPOINTS = ("checkpoint_last.pt", "checkpoint_best.pt")
# what may change, beside train.*: how long to train, and where the earlier run came from
FREE = {"continue_from", "continue_beta", "continue_lr", "init_from", "reset_decoder", "task.patience"}


def refuse_to_continue(source: RunFolder, config: Config) -> None:
    """Raise FolderError unless the folder holds a finished run that can go on as `config` says."""
    where = f"continue_from={source}"
    if (record := source.record) is None:
        raise FolderError(
            f"{where} is not the folder of a run; where one was continued already, the command in the"
            " run.json of its continuation needs it no more"
        )
    if not source.finished:
        raise FolderError(f"{where} is not finished, its own command continues it: {record.get('command')}")
    if not source.results.get("step") or not source.results.get("updates"):
        raise FolderError(f"{where} has made no updates that could go on")
    if missing := [name for name in CHECKPOINTS if not (source / name).exists()]:
        raise FolderError(
            f"{where} cannot go on without {' and '.join(missing)}: published folders have results only"
        )
    there, here = (
        {k: v for k, v in identity(side).items() if k not in FREE and not k.startswith("train.")}
        for side in (record["config"], config.container)
    )
    if differing := differences(there, here):
        raise FolderError(
            f"{where} is another run than this: {'; '.join(differing)}. Only train.* may change as it goes on"
        )


def stages(config: Config) -> list[dict[str, Any]]:
    """Return what run.json keeps of the runs that a run continues, oldest first; empty for none."""
    if config.continue_from is None:
        return []
    source = RunFolder(config.source)
    beta, lr = config.continue_beta == "cycles", config.continue_lr != "hold"
    last = Stage(int(source.results["updates"]), beta, lr)
    return [*(source.record or {}).get("continues", []), dataclasses.asdict(last)]


def rates(config: Config, folder: RunFolder, total: int, epoch: int) -> Rates:
    """Return β and the learning rate of every step. Raises FolderError for an unusable run.json."""
    try:
        found = tuple(_stage(**stage) for stage in (folder.record or {}).get("continues", []))
    except (TypeError, ValueError) as error:
        raise FolderError(f"{folder / 'run.json'}: 'continues' cannot be read: {error}") from None
    return Rates(config.schedule, config.lr, found[0].end if found else total, epoch, found)


def _stage(end: int, beta: bool, lr: bool) -> Stage:
    """Return a stage as run.json has it. Raises ValueError for other values."""
    if type(end) is not int or end < 1 or not (isinstance(beta, bool) and isinstance(lr, bool)):
        found = f"{end!r}, {beta}, {lr}"
        raise ValueError(f"end is a number of updates, beta and lr true or false, found {found}")
    return Stage(end, beta, lr)


def sentence(config: Config, rates: Rates) -> str:
    """Return what a run continues and what follows the old end, for the console."""
    stage, schedule = rates.stages[-1], rates.schedule
    beta, lr = rates(stage.end)
    after = f"β holds at {beta:.4g}"
    if stage.beta and isinstance(schedule, Cyclical):
        after = f"β goes on in cycles of {rates.total / schedule.cycles:g} updates"
    after += f" and the learning rate {'goes on as it was' if stage.lr else f'holds at {lr:.4g}'}"
    return f"continues {config.continue_from}: nothing changes up to update {stage.end:,}, after it {after}"
