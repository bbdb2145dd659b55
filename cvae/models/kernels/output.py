"""The output layer and its loss in one: no logits tensor, and gradients formed while the logits are cached.

At 10,002 words two thirds of a step's arithmetic are the output layer's three matrix products. Their common
operand, [N, V], would otherwise be written to memory and read back several times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.data.vocabulary import PAD
from cvae.models import kernels

# Bytes of a block of logits, 352 rows of 10,002 float32. With fewer rows the products lose more to packing
# their other operand than the cache gains; more are no faster.
BLOCK_BYTES = 14 * 2**20
LINE_FLOATS = 16  # float32 in a cache line
LARGEST_TOTAL = 1e18  # of exponentials that float32 sums without losing digits; its inverse is the smallest
FUSED_WORDS = 4000  # with fewer words the logits fit in a cache, and the plain output layer is faster


class OutputLayer(Protocol):
    """An affine map from states [N, H] to logits [N, V]: nn.Linear, or one with tied weights."""

    out_features: int
    bias: nn.Parameter
    __call__: Callable[..., Any]

    @property
    def weight(self) -> Tensor: ...


def layer_nll(layer: OutputLayer, states: Tensor, targets: Tensor) -> Tensor:
    """Return -log p(target | state) in nats, 0 for pads, of the shape of `targets`.

    For states [targets.numel(), H]. `output_nll` is faster on a CPU only: logits are no burden to a GPU.
    """
    flat = targets.flatten()
    if kernels.enabled(states) and layer.out_features >= FUSED_WORDS:
        nll = output_nll(states, layer.weight, layer.bias, flat)
    else:
        nll = functional.cross_entropy(layer(states), flat, ignore_index=PAD, reduction="none")
    return nll.view(targets.shape)


def output_nll(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(weight @ state + bias)[target] in nats, 0 where the target is a pad: [N].

    For states [N, H], weight [V, H], bias [V] and targets [N]. The forward pass forms the gradients for an
    upstream gradient that is equal in all rows, the backward pass for any other. Differentiable once only.
    """
    if states.device.type == "cpu" and bool((pads := targets == PAD).any()):
        rows = (~pads).nonzero()[:, 0]  # elsewhere counting them would wait for the device
        counted = output_nll(states[rows], weight, bias, targets[rows])
        return counted.new_zeros(len(targets)).index_copy(0, rows, counted)
    if torch.is_grad_enabled():
        return _OutputNLL.apply(states, weight, bias, targets)
    with kernels.products_in_bf16(torch.is_autocast_enabled("cpu")):
        return _loss_and_gradients(kernels.widened(states), weight, bias, targets, (False, False, False))[0]


class _OutputNLL(torch.autograd.Function):
    """`output_nll` of rows that are no pads."""

    @staticmethod
    @kernels.autocast_forward
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight, bias, targets)
        nll, *ctx.formed = _loss_and_gradients(states, weight, bias, targets, ctx.needs_input_grad[:3])
        return nll

    @staticmethod
    @kernels.autocast_backward
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "output_nll cannot be differentiated twice: use kernels.twice_differentiable()"
            )
        # Scaled in place and given away, so a second backward through a retained graph forms them again.
        formed, ctx.formed = ctx.formed, None
        if formed is not None and _is_constant(upstream):
            return *(g.mul_(upstream[0]) if g is not None else None for g in formed), None
        states, weight, bias, targets = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        _, *formed = _loss_and_gradients(states, weight, bias, targets, needed, upstream)
        return *formed, None


def _is_constant(upstream: Tensor) -> bool:
    """Return whether all values [N] are known to be equal, without waiting for a device."""
    if not len(upstream):
        return False
    if upstream.stride() == (0,):
        return True
    return upstream.device.type == "cpu" and bool((upstream == upstream[0]).all())


def _loss_and_gradients(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    needed: tuple[bool, bool, bool],
    upstream: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return nll [N] and the needed gradients of (upstream * nll).sum() by states, weight and bias.

    Without `upstream` [N] they are those of nll.sum().
    """
    count, words = len(states), len(weight)
    size = _rows_per_block(count, words * states.element_size())
    # Words by rows: MKL multiplies [V, H] by [H, R] a quarter faster than [R, H] by [H, V].
    buffer = states.new_empty(words * min(size, count))
    places = torch.arange(size, device=states.device)
    nll = states.new_empty(count)
    to_states, to_weight, to_bias = (
        torch.empty_like(part, memory_format=torch.contiguous_format) if form else None
        for part, form in zip((states, weight, bias), needed, strict=True)
    )
    for start in range(0, max(count, 1), size):
        rows = slice(start, min(start + size, count))
        read, target = states[rows], targets[rows]
        column = places[: len(read)]
        block = buffer[: words * len(read)].view(words, len(read))
        logits = functools.partial(torch.addmm, bias[:, None], weight, read.T, out=block)
        chosen = logits()[target, column]
        total, highest = _exponentials(block, logits)
        counted = target != PAD
        nll[rows] = (highest + total.log() - chosen) * counted
        if not any(needed):
            continue
        # The softmax is never divided by its total: that is done on the small sides of the products.
        block[target, column] -= total
        scale = counted / total if upstream is None else counted * upstream[rows] / total
        kept = float(start > 0)
        if to_states is not None:
            torch.mm(block.T, weight, out=to_states[rows])
            to_states[rows] *= scale[:, None]
        if to_weight is not None:
            to_weight.addmm_(block, read * scale[:, None], beta=kept)
        if to_bias is not None:
            to_bias.addmv_(block, scale, beta=kept)
    return nll, to_states, to_weight, to_bias


def _exponentials(block: Tensor, again: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Replace logits [V, R] by exp(logit - offset); return the totals and the offsets of the columns, [R].

    The offset is 0 or, where the totals show that float32 would lose digits, the highest logit; `again` then
    forms the logits anew. Always subtracting it would cost 8 % of the layer's time.
    """
    if block.device.type == "cpu":  # elsewhere the question would wait for the device
        total = block.exp_().sum(0)
        if bool(((total > 1 / LARGEST_TOTAL) & (total < LARGEST_TOTAL)).all()):
            return total, torch.zeros_like(total)
        again()
    highest = block.amax(0)
    return block.sub_(highest).exp_().sum(0), highest


def _rows_per_block(count: int, row_bytes: int) -> int:
    """Return about BLOCK_BYTES of rows, in whole cache lines; a short last block would be slow."""
    most = max(BLOCK_BYTES // row_bytes, 1)
    blocks = max(-(-count // most), 1)
    return max(-(-count // (blocks * LINE_FLOATS)), 1) * LINE_FLOATS
