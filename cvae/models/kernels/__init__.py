"""Layers that train faster on a CPU than torch's own, equal to them in value and gradient.

They can be differentiated once only. Inside `with kernels.disabled():` all models use torch's own operations,
inside `with kernels.twice_differentiable():` those of them that have a second derivative. Under autocast they
form products in bf16 where the processor has them, and all else in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
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


def multiplies_bf16() -> bool:
    """Return whether this processor has products in bf16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def enabled(inputs: Tensor) -> bool:
    """Return whether a layer reads `inputs` by its kernel: on a CPU and, under autocast, one with bf16."""
    autocast_has_bf16 = not torch.is_autocast_enabled("cpu") or multiplies_bf16()
    return _enabled.get() and inputs.device.type == "cpu" and autocast_has_bf16


@contextmanager
def products_in_bf16(asked: bool) -> Iterator[None]:
    """Compute in float32 but for products, if asked: oneDNN rounds their factors to bf16 and sums in float32.

    Autocast, which is off here, would round the products as well.
    """
    if not asked:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast_forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a Function's forward pass so that autocast makes its products bf16, and nothing else."""

    @functools.wraps(forward)
    def decorated(ctx: Any, *read: Any) -> Any:
        ctx.in_bf16 = torch.is_autocast_enabled("cpu")
        with products_in_bf16(ctx.in_bf16):
            return forward(ctx, *(widened(value) if ctx.in_bf16 else value for value in read))

    return decorated


def autocast_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a Function's backward pass so that its products are as those of its forward pass."""

    @functools.wraps(backward)
    def decorated(ctx: Any, upstream: Tensor) -> Any:
        with products_in_bf16(ctx.in_bf16):
            return backward(ctx, upstream)

    return decorated


def call_rnn(rnn: Callable[..., Any], inputs: Any, state: Any = None) -> Any:
    """Return rnn(inputs, state), under CUDA's autocast in float32.

    Autocast would make cuDNN's RNNs float16, whatever dtype it is given, and without loss scaling
    (pytorch/pytorch#42385).
    """
    if not torch.is_autocast_enabled("cuda"):
        return rnn(inputs, state)
    with torch.autocast("cuda", enabled=False):
        return rnn(widened(inputs), widened(state))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return torch's fused attention, under the CPU's autocast in float32.

    Its backward pass takes eight times as long in bf16.
    """
    if torch.is_autocast_enabled("cpu"):
        query, key, value = widened((query, key, value))
    with torch.autocast("cpu", enabled=False):
        return functional.scaled_dot_product_attention(query, key, value, mask)


def widened(value: Any) -> Any:
    """Return a tensor, or those of a tuple or PackedSequence, in float32 where they are bf16 or float16."""
    if isinstance(value, PackedSequence):
        return value._replace(data=widened(value.data))
    if isinstance(value, tuple):
        return tuple(map(widened, value))
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value
