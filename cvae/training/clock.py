"""Wall-clock time of training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of training over all starts of a run, and seconds of its steps since the last record."""

    def __init__(self) -> None:
        self._before = 0.0  # this start
        self._started: float | None = None
        self._step_seconds = self._mark = 0.0

    @property
    def seconds(self) -> float:
        """Seconds between `start` and `stop`, of earlier starts too."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._before + running

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._before = seconds

    def start(self) -> None:
        """Start counting."""
        self._started = self._mark = time.perf_counter()
        self._step_seconds = 0.0

    def stop(self) -> None:
        """Stop counting."""
        self._before, self._started = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside, such as a validation, out of the time of the steps."""
        self._step_seconds += time.perf_counter() - self._mark
        yield
        self._mark = time.perf_counter()

    def pop_step_seconds(self) -> float:
        """Return the seconds of the steps since the last call."""
        now = time.perf_counter()
        seconds = self._step_seconds + now - self._mark
        self._step_seconds, self._mark = 0.0, now
        return seconds
