"""What small runs leave out, which takes longer than they do: pictures, the disk, words of new models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvae.evaluation.samples import Sampler
from cvae.report import figures

DRAWN = {"run_pictures": figures.run_pictures, "plane_picture": figures.plane_picture}


def _no_pictures(folder: Path) -> list[Path]:
    return []


def _dot(*_: Any) -> np.ndarray:
    """The picture of each validation, which TensorBoard shows: a black dot."""
    return np.zeros((1, 1, 3), np.uint8)


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Draw no pictures, cut samples after nine words, wait for no disk: a killed process leaves its files."""
    patch.setattr(figures, "run_pictures", _no_pictures)
    patch.setattr(figures, "plane_picture", _dot)
    patch.setattr(os, "fsync", lambda file: None)
    patch.setattr(Sampler.__init__, "__defaults__", (9, 0))  # the longest, and the seed


def draw(patch: pytest.MonkeyPatch) -> None:
    """Draw the pictures of runs."""
    for name, function in DRAWN.items():
        patch.setattr(figures, name, function)
