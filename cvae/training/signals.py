"""Signals that end training after the current step: Ctrl-C, SIGTERM and a cluster's warnings."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

from cvae.training import collective

log = logging.getLogger("cvae")

# what SLURM sends before a time limit; Windows has neither
WARNINGS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class StopSignals:
    """Remember a signal that arrives inside this context; a second Ctrl-C interrupts at once.

    Submitit has handlers of its own: that of a warning requeues the job, so it is called after saving, and
    that of SIGTERM stays in place.
    """

    def __init__(self) -> None:
        self.received = 0  # no signal has this number
        self._former: dict[int, Any] = {}

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def agreed(self) -> int:
        """Return the signal that this process or another has received, 0 for none."""
        if number := collective.agreed(self.received):  # one may arrive during the call
            self.received = number
        return number

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            handled = [signal.SIGINT, *WARNINGS]
            if not callable(signal.getsignal(signal.SIGTERM)):
                handled.append(signal.SIGTERM)
            self._former = {number: signal.signal(number, self._receive) for number in handled}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def exit(self, updates: int) -> None:
        """End the process as the signal would have, after the former handler of a warning."""
        name = signal.Signals(self.received).name
        log.info(f"{name}: saved after {updates:,} updates; the same command continues from there")
        if self.received in WARNINGS and callable(former := self._former[self.received]):
            former(self.received, None)
        raise SystemExit(128 + self.received)
