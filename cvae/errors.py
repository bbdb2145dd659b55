"""Errors that a user can cause: one sentence, printed without a traceback."""

from __future__ import annotations

from typing import Any

from hydra.errors import CompactHydraException


def in_a_line(error: BaseException) -> str:
    """Return what another library says in one line, its class where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class UserError(CompactHydraException):
    """A mistake or a circumstance the user can act on."""


class ConfigError(UserError):
    """The configuration is wrong; the message holds one line for each problem."""


class FolderError(UserError):
    """The run folder cannot be used by this command."""


class RunsError(UserError):
    """Runs cannot be read or compared; the message names the file and, if any, the line."""


class CheckpointError(UserError):
    """A checkpoint cannot be used."""


class LostProcess(UserError):
    """Another process of the run has ended; the message names it."""


class Diverged(UserError):
    """A loss, a gradient or a weight is not finite; `rows` are the sentences of a classifier's batch."""

    def __init__(self, message: str, rows: Any = None) -> None:
        super().__init__(message)
        self.rows = rows
