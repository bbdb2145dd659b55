"""Layers that train faster on a CPU than torch's own, equal to them in value and gradient.

They can be differentiated once only. `with kernels.twice_differentiable():` is the one switch: inside it all
models use torch's own operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_enabled = ContextVar("kernels enabled", default=True)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use operations whose gradients can be differentiated; they take more time and memory."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def enabled(inputs: Tensor) -> bool:
    """Return whether a layer reads `inputs` by its kernel: on a CPU and without autocast."""
    return _enabled.get() and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
