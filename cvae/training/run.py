"""A run from its configuration to its results: read this first."""

from __future__ import annotations

import dataclasses
import logging
import math
from contextlib import suppress
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cvae import data, models, tasks
from cvae.config.schema import Config
from cvae.data.vocabulary import Vocabulary
from cvae.errors import FolderError
from cvae.io import write_atomically
from cvae.models.kernels import memory
from cvae.runs import continuation, fingerprints, hub, world
from cvae.runs.compatibility import refuse_other_data, refuse_other_run, unchecked_files
from cvae.runs.fingerprints import Fingerprints
from cvae.runs.folder import ERROR, RunFolder, discard_if_empty
from cvae.runs.provenance import describe
from cvae.tasks.base import Task
from cvae.training import collective, follower
from cvae.training.device import choose_device, describe_device, device_name
from cvae.training.guards import disk_errors, log_file
from cvae.training.located import located, with_tokenizer
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.precision import precision_notes, refuse_precision
from cvae.training.results import conclude, load_checkpoint
from cvae.training.tracker import refuse_unusable
from cvae.training.transfer import known_vocabulary, load_weights, refuse_continuation, stored_vocabulary

log = logging.getLogger("cvae")


def run(
    config: Config, folder: RunFolder, command: str = "", composition: dict[str, str] | None = None
) -> float:
    """Train, or continue to train, in a folder that has accepted the configuration.

    `command` repeats the run; `composition` is what Hydra would have written to .hydra/, by file name.
    Returns the objective, in nats per sequence: -ELBO of the reported checkpoint on validation, rec for an
    autoencoder. Of torchrun's processes, those above rank 0 return NaN.
    """
    with collective.joined(config.device):
        if world.rank() == 0:
            return _lead(config, folder, command, composition or {})
        task = _prepared(follower.quiet(config), folder)
        follower.follow(folder, task, _fingerprints(task, config))
        return math.nan


def _lead(config: Config, folder: RunFolder, command: str, composition: dict[str, str]) -> float:
    """Train in the folder, which is this process's own: rank 0 of several, or the only one."""
    with suppress(OSError):
        (folder / ERROR).unlink()
    try:
        refuse_unusable(config)
        task = _prepared(config, folder)
        starts = config.overwrite or not folder.has_checkpoint
        refuse_precision(config.precision, task.device, None if starts else folder.record)
        if config.init_from is not None and config.pretrains and starts:
            load_weights(RunFolder(hub.source(config)), task, encoder_only=config.reset_decoder)
        if config.continue_from is not None and starts:
            refuse_continuation(RunFolder(hub.source(config)), task)
    except BaseException:
        discard_if_empty(folder)
        raise
    with folder.held():
        refuse_other_run(folder, config)
        if config.overwrite:
            folder.clear()
        with log_file(folder), disk_errors(folder), logging_redirect_tqdm():
            prints = _fingerprints(task, config)
            describe(folder, config, command, prints, world.described(device_name(task.device)))
            _write_texts(folder, task, composition)
            collective.share(follower.identity(task, prints))
            return _train(config, folder, task)


def _prepared(config: Config, folder: RunFolder) -> Task:
    """Return the task of a run, which goes on with what its folder has unless it starts anew."""
    return prepare(config, known_vocabulary(folder, config), None if config.overwrite else folder)


def prepare(config: Config, known: Vocabulary | None = None, folder: RunFolder | None = None) -> Task:
    """Read the data, initialise a model on the device, and return the task.

    Sentences are numbered by the `known` vocabulary, if there is one. `folder` is the run's.
    """
    memory.keep_freed()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    settings = located(config, folder)
    splits = data.build(with_tokenizer(config.dataset, settings), device, known)
    torch.manual_seed(config.seed)
    model = models.build(settings, splits).to(device)
    task = tasks.build(config, model, splits)
    if config.init_from is not None and not config.pretrains:
        load_weights(RunFolder(hub.local(config.init_from)), task, encoder_only=True)
    return task


def _fingerprints(task: Task, config: Config) -> Fingerprints:
    """Return the fingerprints of the data that were read, and of the other files of a configuration."""
    return {**task.data.fingerprints, **fingerprints.others(config)}


def reopen(config: Config, folder: RunFolder, which: str | None = None, split: str = "val") -> Task:
    """Return the task with the weights of a run's best or last checkpoint, by default the reported one.

    Raises FolderError where the data are not those of the run or have no such split, CheckpointError for an
    unusable file.
    """
    task = prepare(config, stored_vocabulary(folder, config), folder)
    if split not in task.data.corpora:
        raise FolderError(f"{folder} has no split {split}: {', '.join(task.data.corpora)}")
    prints = _fingerprints(task, dataclasses.replace(config, init_from=None, continue_from=None))
    refuse_other_data(folder, prints)
    if unchecked := unchecked_files(folder, prints):
        log.warning(f"{folder}: {unchecked}")
    load_checkpoint(task, folder, which)
    return task


def evaluate(task: Task, split: str) -> dict[str, float]:
    """Return all measures of a split, by their names in results.json."""
    return {f"{split}/{name}": value for name, value in task.evaluate(split, thorough=True).items()}


def _write_texts(folder: RunFolder, task: Task, composition: dict[str, str]) -> None:
    """Write Hydra's record of the composition, the words behind the numbers, and the model's own files."""
    for name, text in composition.items():
        (folder / ".hydra").mkdir(exist_ok=True)
        write_atomically(folder / ".hydra" / name, text)
    task.data.vocabulary.save(folder.path)
    for name, text in task.model.files().items():
        write_atomically(folder / name, text)


def _train(config: Config, folder: RunFolder, task: Task) -> float:
    """Train from where the folder stands, write the results and return the objective."""
    loop = Loop(config, task, folder)
    facts: dict[str, Any] = {f"data/{name}": count for name, count in task.counts().items()}
    facts |= {"model/parameters": sum(p.numel() for p in task.model.parameters()), "updates": loop.total}
    notes = [*task.data.notes, *precision_notes(config.precision, task.device)]
    if loop.rates.stages:
        notes.append(continuation.sentence(config, loop.rates))
    facts |= {"notes": notes} if notes else {}
    with Logger(folder, config, *loop.resume()) as logger:
        step = loop.state.step
        start = f"after {step:,} updates" if step else "from the start"
        device = world.described(describe_device(task.device))
        log.info(f"{folder}: {start}, going to {loop.end:,} of {loop.total:,}, on {device}")
        for note in notes:
            log.info(note)
        folder.write_results({"finished": False, "step": step} | facts)
        loop.run(logger)
        collective.leave()
        return conclude(loop, logger, facts)
