"""The precision of a training step's products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cvae.models.kernels import multiplies_bf16


@contextmanager
def autocast(precision: str, device: str) -> Iterator[None]:
    """Form products in bf16 if `precision` says so; weights, their gradients and sums stay float32."""
    if precision != "bf16":
        yield
        return
    onednn: Any = torch.backends.mkldnn
    enabled = onednn.enabled
    # on CPUs without bf16 oneDNN's LSTM refuses it, torch's own does not
    onednn.enabled = enabled and multiplies_bf16()
    try:
        with torch.autocast(device, torch.bfloat16):
            yield
    finally:
        onednn.enabled = enabled


def precision_notes(precision: str, device: torch.device) -> list[str]:
    """Return what a run in this precision should know of its device, a sentence or none."""
    if precision != "bf16" or device.type != "cpu" or multiplies_bf16():
        return []
    return ["precision=bf16: this processor has no products in bf16, so float32 is faster here"]
