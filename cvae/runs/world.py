"""The processes that train one run together, as torchrun's environment variables name them. Torch-free."""

from __future__ import annotations

import os

from cvae.config.schema import Config, Plain
from cvae.errors import UserError

MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what several processes meet by


def size() -> int:
    """Return the number of processes of this run, 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Return the number of this process: 0 owns the folder, the records and the checkpoints.

    A single process is 0, whatever else a cluster means by RANK.
    """
    return _number("RANK", 0) if size() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return _number("LOCAL_RANK", rank())


def described(device: str) -> str:
    """Return the device of a run by its name, with the number of processes where there are several."""
    return f"{size()} processes on {device}" if size() > 1 else device


def refuse(config: Config) -> None:
    """Raise UserError for what several processes cannot train, and where they could not meet."""
    if size() == 1:
        return
    if missing := [name for name in MEETING if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE={size()} announces several processes, without {' and '.join(missing)}: start the run"
            " by torchrun, which sets them, or unset WORLD_SIZE"
        )
    if rank() >= size():
        raise UserError(f"the environment variable RANK={rank()} must be below WORLD_SIZE={size()}")
    if not isinstance(config.update, Plain):
        raise UserError(f"update={config.update.name} trains in one process, and torchrun started {size()}")
    if getattr(config.model, "batch_norm", 0):
        raise UserError(
            "model.batch_norm normalises by the whole batch, of which each of torchrun's"
            f" {size()} processes sees a part: leave it out, or train in one process"
        )


def _number(variable: str, default: int) -> int:
    """Return a variable's number. Raises UserError where it is none."""
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UserError(f"the environment variable {variable} must be a whole number, found {text!r}")
    return int(text)
