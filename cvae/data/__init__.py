"""Corpora: `build` turns a dataset's configuration into integer tensors on the device."""

from __future__ import annotations

import torch

from cvae.config import LabelledData, TextData, TinyData, ToyData
from cvae.data import files, generated
from cvae.data.text import Splits, splits


def build(config: ToyData | TinyData | TextData | LabelledData, device: torch.device) -> Splits:
    """The vocabulary and the corpora train, val and test."""
    if isinstance(config, LabelledData):
        sentences, labels, prints = files.labelled(config)
        return splits(sentences, device, prints, labels, config.min_count)
    if isinstance(config, TextData):
        sentences, prints = files.read(config)
        return splits(sentences, device, prints)
    sentences = generated.toy(config) if isinstance(config, ToyData) else generated.tiny(config)
    prints = {split: generated.fingerprint(rows) for split, rows in sentences.items()}
    return splits(sentences, device, prints)
