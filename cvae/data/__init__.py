"""Corpora: `build` turns a dataset's configuration into integer tensors on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cvae.config.schema import (
    Dataset,
    DialogData,
    LabelledData,
    OwnDialogs,
    OwnText,
    SentenceFiles,
    TextFiles,
    TinyData,
    ToyData,
)
from cvae.data import cache, files, labelled, own_dialogs, switchboard, toy
from cvae.data.dialogs import ResponseBatch
from cvae.data.text import Batch, Splits
from cvae.data.vocabulary import Vocabulary

AnyBatch = Batch | ResponseBatch
REGISTRY: dict[type, Callable[[Any, torch.device, Vocabulary | None], Splits]] = {
    ToyData: lambda config, device, _: toy.build(toy.toy(config), device),
    TinyData: lambda config, device, _: toy.build(toy.tiny(config), device),
    TextFiles: files.build_text,
    OwnText: files.build_text,
    LabelledData: labelled.build,
    DialogData: lambda config, device, _: switchboard.build(config, device),
    OwnDialogs: lambda config, device, _: own_dialogs.build(config, device),
}


def build(config: Dataset, device: torch.device, vocabulary: Vocabulary | None = None) -> Splits:
    """Return the vocabulary and the corpora train, val and test.

    Sentences are numbered by `vocabulary` where it is given, else by that of their train split.
    """
    for cls in type(config).__mro__:
        if cls in REGISTRY:
            if isinstance(config, SentenceFiles):
                return cache.through(REGISTRY[cls], config, device, vocabulary)
            return REGISTRY[cls](config, device, vocabulary)
    raise KeyError(f"{type(config).__name__} has no reader in REGISTRY of cvae.data")
