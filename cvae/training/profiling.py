"""Where the time of an update goes, by torch's profiler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from cvae.config.schema import Config
from cvae.models import dialog, sentence
from cvae.runs.folder import RunFolder
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.run import prepare

UPDATES = 6  # that are taken apart, after as many
PART = "part: "


def parts(config: Config) -> dict[str, float]:
    """Seconds of an update in each of its parts, forward and backward, in a process that does nothing else.

    Small operations look larger than they are: profiling them costs time, too.
    """
    task = prepare(config)
    model, cuda = task.model, config.device == "cuda"
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.forward = within("embedding", module.forward)
    for name in ("posterior", "prior", "shared"):
        if hasattr(model, name):
            setattr(model, name, within("encoder and prior", getattr(model, name)))
    model.decode_nll = within("decoder", model.decode_nll)
    for where in (sentence, dialog):
        where.layer_nll = within("output layer and loss", where.layer_nll)
    if hasattr(model, "bag_nll"):
        model.bag_nll = within("bag of words", model.bag_nll)
    train = task.batches["train"]
    train.at = within("data", train.at)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(config, task, RunFolder(folder))
        loop.train_step.optimizer_step = within("clipping and Adam", loop.train_step.optimizer_step)
        loop._record, loop._report = within("logging", loop._record), within("logging", loop._report)
        loop.save = lambda recorder: None
        with Logger(RunFolder(folder), config, 0, {}) as recorder:
            loop.end = UPDATES
            loop.run(recorder)
            loop.end += UPDATES
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
            with profile(activities=kinds) as profiler, record_function(PART + "the rest"):
                loop.run(recorder)
    return attributed(profiler.events(), cuda)


def within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, as a part of the update."""

    def inside(*arguments: Any, **named: Any) -> Any:
        with record_function(PART + name):
            return function(*arguments, **named)

    return inside


def attributed(events: Sequence[Any], cuda: bool) -> dict[str, float]:
    """Seconds an update by part, the innermost one; what runs backward belongs to what ran forward."""
    forward: dict[int, str] = {}

    def owner(event: Any) -> str | None:
        while event is not None:
            if event.name.startswith(PART):
                return event.name.removeprefix(PART)
            if event.name.startswith("autograd::engine::evaluate_function"):
                return forward.get(event.sequence_nr, "the rest")
            event = event.cpu_parent
        return None

    events = sorted(events, key=lambda event: event.time_range.start)
    for event in events:
        if event.sequence_nr >= 0 and "Backward" not in event.name and (part := owner(event)):
            forward[event.sequence_nr] = part  # the last one to bear a number is what made its node
    spent: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if (part := owner(event)) is not None:
            taken = event.self_device_time_total if cuda else event.self_cpu_time_total
            spent[part] += taken / 1e6 / UPDATES
    return dict(sorted(spent.items(), key=lambda item: (item[0] == "the rest", -item[1])))
