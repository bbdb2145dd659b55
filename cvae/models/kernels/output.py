"""The output layer and its loss in one: no logits tensor, gradients formed where the logits are warm.

At 10,002 words two thirds of the arithmetic of a step are the output layer's three matrix products. Their
common operand, [N, V], would otherwise be written and read back from memory several times over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cvae.data.text import PAD

# 352 rows of 10,002 float32: fewer, and the matrix products lose more to packing their other operand than the
# cache gives; more are no faster.
BLOCK_BYTES = 14 * 2**20
ROW = 16  # float32 in a cache line
LARGEST_TOTAL = 1e18  # of exponentials in float32, and its inverse the smallest


class Wanted(NamedTuple):
    """Which gradients to form."""

    states: bool
    weight: bool
    bias: bool


class Sweep(NamedTuple):
    """What a pass over all rows yields: nll [N] and the wanted gradients, shaped as their inputs."""

    nll: Tensor
    states: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


FUSED_WORDS = 4000  # with fewer the logits fit in a cache anyway, and the plain output layer is the faster


def layer_nll(layer: nn.Linear, states: Tensor, targets: Tensor, plain: bool = False) -> Tensor:
    """-log p(target | state) in nats, 0 for pads, shaped as `targets`; states [targets.numel(), H].

    By `output_nll` where that is the faster; `plain` asks for operations that can be differentiated twice.
    """
    flat = targets.flatten()
    # On a GPU the logits are no burden, and a backward pass that must not wait forms gradients twice.
    elsewhere = states.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if plain or layer.out_features < FUSED_WORDS or elsewhere:
        nll = functional.cross_entropy(layer(states), flat, ignore_index=PAD, reduction="none")
    else:
        nll = output_nll(states, layer.weight, layer.bias, flat)
    return nll.view(targets.shape)


def output_nll(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(weight @ state + bias)[target] in nats, 0 where the target is a pad: [N].

    For states [N, H], weight [V, H], bias [V] and targets [N]. The gradients are formed on the way, as if
    the result's own gradient were the same for all rows; where it is not, the backward pass forms them
    anew. There is no double backward: asking for one raises RuntimeError.
    """
    if states.device.type == "cpu" and bool((pads := targets == PAD).any()):
        rows = (~pads).nonzero()[:, 0]  # elsewhere counting them would wait for the device
        counted = output_nll(states[rows], weight, bias, targets[rows])
        return counted.new_zeros(len(targets)).index_copy(0, rows, counted)
    if torch.is_grad_enabled():
        return _OutputNLL.apply(states, weight, bias, targets)
    return _sweep(states, weight, bias, targets, Wanted(False, False, False)).nll


class _OutputNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        ctx.wanted = Wanted(*ctx.needs_input_grad[:3])
        ctx.save_for_backward(states, weight, bias, targets)
        nll, *ctx.formed = _sweep(states, weight, bias, targets, ctx.wanted)
        return nll

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("output_nll cannot be differentiated twice: use decode_nll(..., plain=True)")
        # Scaled in place and given away, so a second backward through a retained graph forms them anew.
        formed, ctx.formed = ctx.formed, None
        if formed is not None and _is_constant(upstream):
            return *(g.mul_(upstream[0]) if g is not None else None for g in formed), None
        _, *formed = _sweep(*ctx.saved_tensors, ctx.wanted, upstream)
        return *formed, None


def _is_constant(upstream: Tensor) -> bool:
    """Whether all rows [N] are known to be equal, without waiting for a device."""
    if not len(upstream):
        return False
    if upstream.stride() == (0,):
        return True
    return upstream.device.type == "cpu" and bool((upstream == upstream[0]).all())


def _sweep(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    wanted: Wanted,
    upstream: Tensor | None = None,
) -> Sweep:
    """nll, and the gradients of (upstream * nll).sum(), of nll.sum() without `upstream` [N]."""
    count, words = len(states), len(weight)
    size = _rows_per_block(count, words * states.element_size())
    # Words by rows: MKL multiplies [V, H] by [H, R] a quarter faster than [R, H] by [H, V].
    buffer = states.new_empty(words * min(size, count))
    places = torch.arange(size, device=states.device)
    found = Sweep(
        states.new_empty(count),
        torch.empty_like(states, memory_format=torch.contiguous_format) if wanted.states else None,
        torch.empty_like(weight) if wanted.weight else None,
        torch.empty_like(bias) if wanted.bias else None,
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
        found.nll[rows] = (highest + total.log() - chosen) * counted
        if not any(wanted):
            continue
        # The softmax is never divided by its total: that is done on the small sides of the products.
        block[target, column] -= total
        scale = counted / total if upstream is None else counted * upstream[rows] / total
        kept = float(start > 0)
        if found.states is not None:
            torch.mm(block.T, weight, out=found.states[rows])
            found.states[rows] *= scale[:, None]
        if found.weight is not None:
            found.weight.addmm_(block, read * scale[:, None], beta=kept)
        if found.bias is not None:
            found.bias.addmv_(block, scale, beta=kept)
    return found


def _exponentials(block: Tensor, again: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """exp(logits) in place, [V, R], and its totals [R], of logits from which the highest is taken if need be.

    Its two passes over all logits are 8 % of the layer's time, so they are made only where the totals show
    that floats of this size lose digits; `again` then forms the logits anew. Returns totals and offsets [R].
    """
    if block.device.type == "cpu":  # elsewhere the question would wait for the device
        total = block.exp_().sum(0)
        if bool(((total > 1 / LARGEST_TOTAL) & (total < LARGEST_TOTAL)).all()):
            return total, torch.zeros_like(total)
        again()
    highest = block.amax(0)
    return block.sub_(highest).exp_().sum(0), highest


def _rows_per_block(count: int, row_bytes: int) -> int:
    """About BLOCK_BYTES of logits, in whole cache lines; a short last block would be a slow one."""
    most = max(BLOCK_BYTES // row_bytes, 1)
    blocks = max(-(-count // most), 1)
    return max(-(-count // (blocks * ROW)), 1) * ROW
