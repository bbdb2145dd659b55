"""The lock of a run folder: one process writes to it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class FolderLock:
    """A lock file in a folder. The system releases it when the process that holds it dies."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._inode: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock in a folder, which is made. Raises Timeout where another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path, timeout=1):  # longer than `busy` takes to look
            self._inode = self.path.stat().st_ino
            try:
                yield
            finally:
                self._inode = None

    @property
    def busy(self) -> bool:
        """Whether a process holds the lock now."""
        if not self.path.exists():
            return False
        try:
            with FileLock(self.path, timeout=0):
                return False
        except Timeout:
            return True

    @property
    def lost(self) -> bool:
        """Whether this process holds the lock of a folder that was deleted or replaced since."""
        try:
            return self._inode is not None and self._inode != self.path.stat().st_ino
        except OSError:
            return True
