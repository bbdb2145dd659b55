"""nn.GRU for training on a CPU: one matrix product per time step, forward and backward.

torch splits a step into many small operations and forms a gradient of the recurrent weight, as large as the
weight, in each step. Here every sum over time is one product at the end, and the rest is done in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from cvae.models import kernels


class GRU(nn.GRU):
    """nn.GRU of one layer: the same parameters, and the same results up to the last digits."""

    def __init__(self, inputs: int, size: int, bidirectional: bool = False) -> None:
        super().__init__(inputs, size, bidirectional=bidirectional)

    def forward(self, inputs: Any, first: Tensor | None = None) -> tuple[Any, Tensor]:
        """Return all states [T, B, D H] and the last states [D, B, H]; D is 2 if bidirectional, else 1.

        `inputs` is a tensor [T, B, I] or a PackedSequence, and so are the states; `first` [D, B, H] are the
        initial states, by default 0. Without gradients, where the kernel gains nothing, nn.GRU runs.
        """
        packed = inputs if isinstance(inputs, PackedSequence) else None
        data = inputs if packed is None else packed.data
        batched = packed is not None or data.dim() == 3
        if not (torch.is_grad_enabled() and kernels.enabled(data) and batched):
            return kernels.call_rnn(super().forward, inputs, first)
        sizes = [data.size(1)] * len(data) if packed is None else packed.batch_sizes.tolist()
        if first is None:
            first = data.new_zeros(1 + self.bidirectional, sizes[0], self.hidden_size)
        elif packed is not None and packed.sorted_indices is not None:
            first = first[:, packed.sorted_indices]
        self.check_forward_args(data, first, None if packed is None else packed.batch_sizes)
        rows = data.flatten(0, 1) if packed is None else data
        directions, finals = [], []
        for backwards, weights in enumerate(self.all_weights):
            directions.append(_Direction.apply(rows, first[backwards], *weights, sizes, bool(backwards)))
            finals.append(directions[-1][_starts(sizes, not backwards)])
        states, last = torch.cat(directions, 1), torch.stack(finals)
        if packed is None:
            return states.unflatten(0, data.shape[:2]), last
        if packed.unsorted_indices is not None:
            last = last[:, packed.unsorted_indices]
        return packed._replace(data=states), last


class _Direction(torch.autograd.Function):
    """One direction: h' = n + z (h - n), with r and z the sigmoids of x_rz + h_rz and n = tanh(x_n + r a).

    Here x_rz, x_n = W_x x + b_x and h_rz, a = W_h h + b_h. Rows are places in the order of a PackedSequence:
    all first ones, then all second ones, ..., `sizes` [T] of them. A place holds h, r, z, a and n: [5 H].
    """

    @staticmethod
    @kernels.autocast_forward
    def forward(
        ctx: Any,
        inputs: Tensor,
        first: Tensor,
        w_x: Tensor,
        w_h: Tensor,
        b_x: Tensor,
        b_h: Tensor,
        sizes: Sequence[int],
        backwards: bool,
    ) -> Tensor:
        """Return all states [N, H] for inputs [N, I] and the initial states [B, H]."""
        size = first.size(1)
        places = inputs.new_empty(len(inputs), 5 * size)
        h, r, z, a, n = places.split(size, 1)
        summed, gates = places[:, size : 4 * size], places[:, size : 3 * size]
        bias = torch.cat([b_x[: 2 * size] + b_h[: 2 * size], b_x[2 * size :]])
        torch.addmm(bias, inputs, w_x.T, out=summed)
        n.copy_(a)  # x_n, which is not added to a
        a.copy_(b_h[2 * size :].expand_as(a))
        h[_starts(sizes, backwards)] = first
        states = torch.empty_like(h, memory_format=torch.contiguous_format)
        h, r, z, a, n, summed, gates, after = (
            part.split(sizes) for part in (h, r, z, a, n, summed, gates, states)
        )
        for step, following, both in _steps(sizes, backwards):
            summed[step].addmm_(h[step], w_h.T)
            gates[step].sigmoid_()
            n[step].addcmul_(r[step], a[step]).tanh_()
            torch.lerp(n[step], h[step], z[step], out=after[step])  # h'
            h[following][:both].copy_(after[step][:both])
        ctx.save_for_backward(inputs, w_x, w_h, places)
        ctx.sizes, ctx.backwards = sizes, backwards
        return states

    @staticmethod
    @kernels.autocast_backward
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of what `forward` reads, for that of its states, `upstream` [N, H]."""
        if torch.is_grad_enabled():
            raise RuntimeError("this GRU cannot be differentiated twice: use kernels.twice_differentiable()")
        inputs, w_x, w_h, places = ctx.saved_tensors
        needed, size = ctx.needs_input_grad, upstream.size(1)
        h, r, z, a, n = places.split(size, 1)
        by_n = (1 - z) * (1 - n * n)  # dh'/d(the tanh's argument); by_a and the rest likewise
        by_a = by_n * r
        slopes = torch.stack([z, by_a * a * (1 - r), (h - n) * z * (1 - z), by_a, by_n], 1)
        to_h, _, _, to_a, to_n = slopes.unbind(1)
        summed = slopes.flatten(1)[:, size : 4 * size]
        gradients, carried, products, arriving = (
            part.split(ctx.sizes) for part in (slopes, to_h, summed, upstream.clone())
        )
        for step, following, both in _steps(ctx.sizes, not ctx.backwards):
            gradients[step].mul_(arriving[step][:, None])  # slopes until here
            if both or needed[1]:
                carried[step].addmm_(products[step], w_h)
            arriving[following][:both].add_(carried[step][:both])
        to_first = to_h[_starts(ctx.sizes, ctx.backwards)] if needed[1] else None
        to_w_h = summed.T @ h if needed[3] else None
        to_b_h = summed.sum(0) if needed[5] else None
        to_a.copy_(to_n)  # the gradient of the input's product
        to_inputs = summed @ w_x if needed[0] else None
        to_w_x = summed.T @ inputs if needed[2] else None
        to_b_x = summed.sum(0) if needed[4] else None
        return to_inputs, to_first, to_w_x, to_w_h, to_b_x, to_b_h, None, None


def _steps(sizes: Sequence[int], backwards: bool) -> Iterator[tuple[int, int, int]]:
    """Yield each step, the step read after it, and how many sequences continue there; 0 after the last."""
    order = range(len(sizes))[:: -1 if backwards else 1]
    for step, following in itertools.pairwise(order):
        yield step, following, min(sizes[step], sizes[following])
    yield order[-1], order[-1], 0


def _starts(sizes: Sequence[int], backwards: bool) -> Tensor:
    """Return the row of the place of each sequence that is read first: [B]."""
    width, row = torch.tensor(sizes), torch.arange(sizes[0])
    if not backwards:
        return row
    return row + (width.cumsum(0) - width)[(width[:, None] > row).sum(0) - 1]
