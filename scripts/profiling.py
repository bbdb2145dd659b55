"""Where the time of a training step goes, by torch's profiler, and how many operations it dispatches."""

from __future__ import annotations

import functools
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from cvae.config.schema import Config
from cvae.models import kernels
from cvae.runs.folder import RunFolder
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.run import prepare

STEPS = 6  # profiled, after as many to warm up
REST = "the rest"
# The calls that a part consists of, as the profiler names them; the innermost one counts.
PARTS = {
    "data": r"cvae/data/\w+\.py\(\d+\): at",
    "embedding": r"nn\.Module: \w*Embedding_\d+",
    "encoder and prior": r"cvae/models/\w+\.py\(\d+\): (posterior|prior|shared)",
    "decoder": r"cvae/models/\w+\.py\(\d+\): decode_nll",
    "output layer and loss": r"cvae/models/kernels/output\.py\(\d+\): layer_nll",
    "bag of words": r"cvae/models/dialog\.py\(\d+\): extra_losses",
    "clipping and Adam": r"cvae/training/steps/\w+\.py\(\d+\): optimizer_step",
    "logging": r"cvae/training/loop\.py\(\d+\): (_read_steps|_report)",
    "saving": r"cvae/training/loop\.py\(\d+\): save",
    REST: r"cvae/training/loop\.py\(\d+\): run",
}


def parts(config: Config) -> dict[str, float]:
    """Return the seconds of a step in each of its parts, forward and backward; checkpoints are left out.

    To be called in a process of its own. Python calls and small operations look slower than they are, since
    the profiler records each of them.
    """
    task = prepare(config)
    cuda = task.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    verbose = torch._C._profiler._ExperimentalConfig(verbose=True)  # without it no Python calls
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(config, task, RunFolder(folder))
        with Logger(RunFolder(folder), config, 0, {}) as logger:
            loop.end = STEPS
            loop.run(logger)
            loop.end += STEPS
            with profile(activities=activities, with_stack=True, experimental_config=verbose) as profiler:
                loop.run(logger)
    seconds = attributed(profiler.events(), cuda)
    return {part: spent for part, spent in seconds.items() if part != "saving"}


class Operations(TorchDispatchMode):
    """Count the operations that a GPU would be sent: views are none."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.namespace == "aten" and not function.is_view
        return function(*args, **(kwargs or {}))


def operations(config: Config) -> dict[str, int]:
    """Return how many operations a step dispatches by torch's own layers, and those only for the record."""
    task = prepare(config)
    task.model.train()
    with tempfile.TemporaryDirectory() as folder, kernels.disabled():
        loop = Loop(config, task, RunFolder(folder))
        loop._advance()  # in which Adam makes its moments
        batches, rates = task.batches["train"], loop.rates(loop.state.step)
        with Operations() as trained:
            loop.train_step(batches.at(loop.state.step), *rates)
        with Operations() as whole:
            loop._advance()
    return {"operations": whole.count, "for the record": whole.count - trained.count}


@functools.cache
def part_of(name: str) -> str | None:
    """Return the part that a call or operation of this name begins, None for any other."""
    return next((part for part, calls in PARTS.items() if re.search(f"{calls}$", name)), None)


def attributed(events: Sequence[Any], cuda: bool) -> dict[str, float]:
    """Return the seconds per step of each part, the innermost one; a backward operation has its forward's."""
    forward: dict[int, str] = {}

    def owner(event: Any) -> str | None:
        while event is not None:
            if (part := part_of(event.name)) is not None:
                return part
            if event.name.startswith("autograd::engine::evaluate_function"):
                return forward.get(event.sequence_nr, REST)
            event = event.cpu_parent
        return None

    # on a GPU an annotation has a row of its own, which spans kernels that have theirs
    events = (event for event in events if not (cuda and event.is_user_annotation))
    events = sorted(events, key=lambda event: event.time_range.start)
    for event in events:
        if event.sequence_nr >= 0 and (part := owner(event)):
            forward[event.sequence_nr] = part  # the last operation with a number made its node
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if (part := owner(event)) is not None:
            spent = event.self_device_time_total if cuda else event.self_cpu_time_total
            seconds[part] += spent / 1e6 / STEPS
    return dict(seconds)
