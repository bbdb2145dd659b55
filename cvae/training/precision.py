"""The precision of a training step's products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from cvae.errors import UserError
from cvae.models.kernels import multiplies_bf16
from cvae.training.device import HAS_BF16


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


def refuse_precision(precision: str, device: torch.device, record: Mapping[str, Any] | None) -> None:
    """Raise UserError where the device has not this precision, or has not what the run began with.

    `record` is the run.json of a run that goes on.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision=tf32 is arithmetic of GPUs, and this run is on the CPU: take float32")
    began_with_it = record is not None and HAS_BF16 in str(record.get("device"))
    if precision == "bf16" and device.type == "cpu" and began_with_it and not multiplies_bf16():
        raise UserError(
            "precision=bf16: this run began on a processor with products in bf16, which this one has not: go"
            " on where it began, or start anew with overwrite=true precision=float32"
        )


def precision_notes(precision: str, device: torch.device) -> list[str]:
    """Return what a run in this precision should know of its device, a sentence or none."""
    if precision != "bf16" or device.type != "cpu" or multiplies_bf16():
        return []
    return ["precision=bf16: this processor has no products in bf16, so float32 is faster here"]
