"""Layers that train faster on a CPU than torch's own, equal to them in value and gradient.

They can be differentiated once only. Inside `with kernels.disabled():` all models use torch's own operations,
inside `with kernels.twice_differentiable():` those of them that have a second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence

_enabled = ContextVar("kernels enabled", default=True)


@contextmanager
def disabled() -> Iterator[None]:
    """Use torch's own operations."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use operations whose gradients can be differentiated; they take more time and memory.

    torch's fused attention is none of them, its attention from matrix products is.
    """
    with disabled(), sdpa_kernel(SDPBackend.MATH):
        yield


def enabled(inputs: Tensor) -> bool:
    """Return whether a layer reads `inputs` by its kernel: on a CPU and without autocast."""
    return _enabled.get() and inputs.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def call_rnn(rnn: Callable[..., Any], inputs: Any, state: Any = None) -> Any:
    """Return rnn(inputs, state), under CUDA's autocast in float32.

    Autocast would make cuDNN's RNNs float16, whatever dtype it is given, and without loss scaling
    (pytorch/pytorch#42385).
    """
    if not torch.is_autocast_enabled("cuda"):
        return rnn(inputs, state)
    with torch.autocast("cuda", enabled=False):
        return rnn(_in_float32(inputs), _in_float32(state))


def _in_float32(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.float())
    if isinstance(value, tuple):
        return tuple(map(_in_float32, value))
    return None if value is None else value.float()
