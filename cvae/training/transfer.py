"""What a run takes from a finished one: its weights or encoder (`init_from`), or all (`continue_from`)."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import Any

from cvae.config.schema import Config, SentenceFiles
from cvae.data import vocabulary
from cvae.data.vocabulary import Vocabulary
from cvae.errors import CheckpointError, FolderError
from cvae.runs import hub
from cvae.runs.compatibility import refuse_as_source, refuse_other_data
from cvae.runs.continuation import refuse_to_continue
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import checkpoint


def keeps_vocabulary(config: Config) -> bool:
    """Return whether a run numbers its sentences by the vocabulary of the run that it starts from.

    A run that only classifies does not: its labels and splits must be those of the encoder's run.
    """
    starts_elsewhere = config.init_from is not None or config.continue_from is not None
    return starts_elsewhere and config.pretrains and isinstance(config.dataset, SentenceFiles)


def vocabulary_of(source: RunFolder, config: Config) -> Vocabulary:
    """Return the vocabulary of the run that `config` starts from.

    Raises FolderError for a run that cannot be started from, or has other tokens.
    """
    key = "init_from" if config.init_from is not None else "continue_from"
    refuse = refuse_as_source if config.init_from is not None else refuse_to_continue
    refuse(source, config)
    assert isinstance(config.dataset, SentenceFiles)
    here, there = config.dataset.tokens, (source.record or {})["config"]["dataset"].get("tokens", "words")
    if there != here:
        raise FolderError(f"{key}={source} has dataset.tokens={there}, and this run has {here}")
    try:
        return vocabulary.load(source.path, here)
    except OSError as error:
        raise FolderError(f"{key}={source} has no vocabulary to keep: {error.strerror}") from None


def stored_vocabulary(folder: RunFolder, config: Config) -> Vocabulary | None:
    """Return the vocabulary that a run of sentences began with, None for none: a tokenizer is trained once.

    Raises UserError where a tokenizer is not there any more.
    """
    if not isinstance(config.dataset, SentenceFiles) or folder.record is None:
        return None
    with suppress(FileNotFoundError):
        return vocabulary.load(folder.path, config.dataset.tokens)
    return None


def known_vocabulary(folder: RunFolder, config: Config) -> Vocabulary | None:
    """Return the vocabulary that is known before the data are read: the run's own, or that of its source."""
    own = None if config.overwrite else stored_vocabulary(folder, config)
    if not keeps_vocabulary(config):
        return own
    known = own or vocabulary_of(RunFolder(hub.source(config)), config)
    known.source = config.init_from or ""
    return known


def load_weights(source: RunFolder, task: Task, encoder_only: bool) -> None:
    """Load the weights that a finished run reports into a task's model, or those of its encoder only.

    Raises FolderError where there is no such run, where its words are others, or its data where they must be
    the same, and where weights are missing or differ in shape.
    """
    refuse_as_source(source, task.config)
    if not keeps_vocabulary(task.config):
        refuse_other_data(source, task.data.fingerprints)
    if (source / "vocabulary.txt").read_text(encoding="utf-8") != task.data.vocabulary.text:
        raise FolderError(f"init_from={source} has another vocabulary.txt: its weights are about other words")
    part = "encoder." if encoder_only else ""
    there, here = (
        {name: weight for name, weight in weights.items() if name.startswith(part)}
        for weights in (checkpoint.load(source.reported)["model"], task.model.state_dict())
    )
    shapes = [{name: tuple(weight.shape) for name, weight in side.items()} for side in (there, here)]
    if not here or shapes[0] != shapes[1]:
        differing = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        mismatch = ", ".join(dict.fromkeys(differing)) or "there is no encoder to take"
        raise FolderError(f"init_from={source} is a model of another shape: {mismatch}")
    task.model.load_state_dict(there, strict=not encoder_only)


def refuse_continuation(source: RunFolder, task: Task) -> None:
    """Raise FolderError unless a run can go on with this configuration, these data and this T."""
    refuse_to_continue(source, task.config)
    refuse_other_data(source, task.data.fingerprints)
    made, planned = int(source.results["step"]), int(source.results["updates"])
    total = task.config.train.total(len(task.batches["train"]))
    if total <= made:
        raise FolderError(
            f"continue_from={source} has made {made:,} updates, and this run would end at {total:,}:"
            " train.steps, which wins where it is given, or train.epochs must be longer"
        )
    scores = checkpoint.load(source / "checkpoint_last.pt").get("scores", [])
    if task.should_stop_early(scores):
        raise FolderError(
            f"continue_from={source} was out of patience after {made:,} of {planned:,} updates, and this run"
            " would stop at once: a longer task.patience, or null, lets it go on"
        )


def last_checkpoint(folder: RunFolder, config: Config) -> tuple[dict[str, Any] | None, bool]:
    """Return what training goes on from, None for nothing, and whether it is of another run, as a first one.

    Raises CheckpointError for a file that cannot be used.
    """
    own = checkpoint.latest(folder / "checkpoint_last.pt", config.container)
    takes_over = own is None and config.continue_from is not None
    return (take_over(folder, config) if takes_over else own), takes_over


def take_over(folder: RunFolder, config: Config) -> dict[str, Any]:
    """Copy the records and the best checkpoint of the run that `config` continues; return its last one."""
    source = RunFolder(config.source)
    own = (source.record or {}).get("config")
    saved, best = (checkpoint.load(source / f"checkpoint_{which}.pt", own) for which in ("last", "best"))
    if "optimizer" not in saved:
        raise CheckpointError(f"{source / 'checkpoint_last.pt'} has weights only: training cannot go on")
    checkpoint.save(folder / "checkpoint_best.pt", best | {"config": config.container})
    for name in ("metrics.jsonl", "latents.jsonl", "samples.jsonl"):
        if name in saved["offsets"]:
            shutil.copyfile(source / name, folder / name)  # which the logger cuts to the checkpoint's length
    return saved
