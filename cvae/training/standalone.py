"""A run's model without its corpus: to encode, to decode, and to measure another text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from cvae import models
from cvae.config.schema import DialogModel, ToyTaskConfig
from cvae.data import files, sources, text, vocabulary
from cvae.data.text import Splits
from cvae.errors import CheckpointError, FolderError, UserError
from cvae.models.normalisation import normalisation
from cvae.models.text import TextVAE
from cvae.runs.folder import RunFolder
from cvae.tasks.language_model import LanguageTask
from cvae.training.device import choose_device
from cvae.training.located import located
from cvae.training.results import load_checkpoint


def without_corpus(
    folder: RunFolder, device: str = "auto", which: str | None = None, **task: Any
) -> LanguageTask:
    """Return the task of a run or an exported model with the model and its vocabulary only.

    `data.corpora` is empty; `task` are keys of the task to change. torch's random numbers stay as they are.
    Raises FolderError for a run without a model of single sentences or without a vocabulary, CheckpointError
    for unusable weights.
    """
    config = folder.configuration(device, **task)
    if isinstance(config.model, DialogModel):
        raise FolderError(
            f"{folder} answers in dialogs and has no z of a single sentence; it can be used by `sample`, with"
            " --chat too, and by `evaluate` on its own corpus"
        )
    try:
        words = vocabulary.load(folder.path, getattr(config.dataset, "tokens", "words"))
    except OSError as error:
        raise FolderError(f"{folder} has no vocabulary that can be read: {error}") from None
    splits: Splits = Splits(words, {}, {}, {})
    with torch.random.fork_rng(devices=[]):
        model = models.build(located(config, folder), splits).to(choose_device(device))
    assert isinstance(model, TextVAE)
    opened = LanguageTask(config, model, splits)
    load_checkpoint(opened, folder, which)
    if (layer := normalisation(model.encoder)) is not None and layer.unknown:
        raise CheckpointError(
            f"{folder.weights(which)} was saved between two validations, without the statistics of"
            " model.batch_norm: take the best checkpoint"
        )
    return opened


def measure(task: LanguageTask, path: Path, column: str | None) -> dict[str, float]:
    """Return all measures of another text, its sizes and its share of unknown tokens, as text/*.

    Raises UserError for what is no text, for words that are reserved, and for the toy.
    """
    if isinstance(task.config.task, ToyTaskConfig):
        raise UserError("a run of task=toy knows its ten sequences only: there is no other text to measure")
    column = sources.text_column(path, column, setting="--column")
    longest = getattr(task.config.dataset, "max_words", math.inf)
    checked = files.check(path, longest, column=column)
    texts = {"text": files.Texts((path,), checked.fingerprint, column)}
    data = text.splits(texts, task.data.vocabulary, task.device, {})
    measured = LanguageTask(task.config, task.model, data)
    counts = measured.counts()
    sizes = {key: counts[key] for key in ("text/sentences", "text/tokens", "text/unknown_share")}
    return sizes | {f"text/{key}": value for key, value in measured.evaluate("text", thorough=True).items()}
