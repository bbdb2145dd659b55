"""Corpora: `build` turns a dataset's configuration into integer tensors on the device."""

from __future__ import annotations

from dataclasses import replace

import torch

from cvae.config.schema import DialogData, LabelledData, OwnText, TextData, TinyData, ToyData
from cvae.data import dialogs, files, toy
from cvae.data.text import Splits, splits


def build(
    config: ToyData | TinyData | TextData | OwnText | LabelledData | DialogData, device: torch.device
) -> Splits:
    """The vocabulary and the corpora train, val and test."""
    if isinstance(config, DialogData):
        return dialogs.build(config, device)
    if isinstance(config, LabelledData):
        sentences, labels, prints = files.labelled(config)
        found = splits(sentences, device, prints, config.min_count, labels=labels)
        return replace(found, notes=files.notes(config, found.corpora))
    if isinstance(config, TextData | OwnText):
        sentences, prints = files.read(config)
        least = config.min_count if isinstance(config, OwnText) else 1
        found = splits(sentences, device, prints, least, config.vocabulary)
        return replace(found, notes=files.notes(config, found.corpora))
    sentences = toy.toy(config) if isinstance(config, ToyData) else toy.tiny(config)
    prints = {split: toy.fingerprint(rows) for split, rows in sentences.items()}
    return splits(sentences, device, prints)
