"""The state of training: everything that a resumed run continues from, beside its record files."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvae.runs import world
from cvae.training import checkpoint
from cvae.training.device import device_name
from cvae.training.means import RunningMeans
from cvae.training.steps import TrainStep

log = logging.getLogger("cvae")


class TrainingState:
    """Steps made, validation scores, running means, weights, optimizer and random-number generators.

    `scores` are those of all validations, `best` the lowest of them.
    """

    def __init__(self, model: nn.Module, train_step: TrainStep) -> None:
        self.model, self.train_step = model, train_step
        self.device = next(model.parameters()).device
        self.step, self.best = 0, math.inf
        self.scores: list[float] = []
        self.recent, self.since_validation = RunningMeans(), RunningMeans()
        self.seconds = 0.0  # of training, over all starts
        self.start_clock()

    def start_clock(self) -> None:
        """Start the first lap."""
        self.lap_start, self.step_seconds = time.perf_counter(), 0.0

    def lap(self, of_steps: bool = True) -> None:
        """Count the seconds since the last lap, which training steps took or something else."""
        now = time.perf_counter()
        seconds, self.lap_start = now - self.lap_start, now
        self.seconds += seconds
        self.step_seconds += seconds if of_steps else 0.0

    def pop_step_seconds(self) -> float:
        """Return the seconds that the steps since the last call took."""
        self.lap()
        seconds, self.step_seconds = self.step_seconds, 0.0
        return seconds

    def state_dict(self) -> dict[str, Any]:
        """Return plain containers and tensors, for a checkpoint."""
        on_gpu = self.device.type == "cuda"
        return {
            "step": self.step,
            "best": self.best,
            "scores": self.scores,
            "model": self.model.state_dict(),
            "optimizer": self.train_step.optimizer.state_dict(),
            "update": self.train_step.state_dict(),
            "recent": self.recent.state_dict(),
            "since_validation": self.since_validation.state_dict(),
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "arithmetic": self._arithmetic(),
            "processes": world.size(),
        }

    def load_state_dict(self, saved: dict[str, Any], path: Path) -> None:
        """Continue from a checkpoint; `path` names it in errors.

        Raises CheckpointError for weights of another model.
        """
        checkpoint.restore(self.model, saved["model"], path)
        self.train_step.optimizer.load_state_dict(saved["optimizer"])
        self.train_step.load_state_dict(saved.get("update", {}))
        self.step, self.best, self.scores = saved["step"], saved["best"], saved.get("scores", [])
        self.recent.load_state_dict(saved["recent"])
        self.since_validation.load_state_dict(saved["since_validation"])
        self.seconds = saved["seconds"]
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)
        before, now = saved["arithmetic"], self._arithmetic()
        if before != now:
            effect = "numbers will differ in their last digits"
            if saved.get("processes", 1) != world.size():
                effect = "dropout masks will be others, and sums are taken in another order"
            if ("cuda" in before) != ("cuda" in now):
                effect = "noise will be another"
            log.warning(f"warning: {before} before, {now} now: {effect}")

    def _arithmetic(self) -> str:
        """Return what the last digits of a sum depend on, and whose random numbers are drawn."""
        threads = "" if self.device.type == "cuda" else f"{torch.get_num_threads()} threads on "
        return world.described(threads + device_name(self.device))
