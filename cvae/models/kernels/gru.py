"""nn.GRU for training on a CPU: a time step is one matrix product, forward and backward.

torch takes a step apart into many small operations, and forms for each a gradient of the recurrent weight, as
large as the weight. Here whatever sums over time is one product at the end, and the rest is in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class GRU(nn.GRU):
    """nn.GRU of one layer: the same parameters, and the same results up to the last digits."""

    def __init__(self, inputs: int, size: int, bidirectional: bool = False) -> None:
        super().__init__(inputs, size, bidirectional=bidirectional)

    def forward(
        self, inputs: Tensor | PackedSequence, first: Tensor | None = None, plain: bool = False
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Outputs [T, B, D H] of inputs [T, B, I], packed if they are, and the last states [D, B, H].

        D is 2 where bidirectional, else 1; the first states [D, B, H] are zeros unless given. `plain` asks
        for operations that can be differentiated twice: nn.GRU's. They also run where no gradient is asked
        for, since nothing would be gained, under autocast and on a GPU.
        """
        packed = isinstance(inputs, PackedSequence)
        data = inputs.data if packed else inputs
        ours = torch.is_grad_enabled() and data.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if plain or not ours or not (packed or data.dim() == 3):
            return super().forward(inputs, first)
        sizes = inputs.batch_sizes.tolist() if packed else [data.size(1)] * len(data)
        if first is None:
            first = data.new_zeros(1 + self.bidirectional, sizes[0], self.hidden_size)
        elif packed and inputs.sorted_indices is not None:
            first = first[:, inputs.sorted_indices]
        self.check_forward_args(data, first, inputs.batch_sizes if packed else None)
        rows = data if packed else data.flatten(0, 1)
        outputs, states = [], []
        for backwards, weights in enumerate(self.all_weights):
            outputs.append(_Direction.apply(rows, first[backwards], *weights, sizes, bool(backwards)))
            states.append(outputs[-1][_starts(sizes, not backwards)])
        found, last = torch.cat(outputs, 1), torch.stack(states)
        if not packed:
            return found.unflatten(0, data.shape[:2]), last
        if inputs.unsorted_indices is not None:
            last = last[:, inputs.unsorted_indices]
        return inputs._replace(data=found), last


class _Direction(torch.autograd.Function):
    """One direction: h' = n + z (h - n), with r and z the sigmoids of x_rz + h_rz and n = tanh(x_n + r a).

    Here x_rz, x_n = W_x x + b_x and h_rz, a = W_h h + b_h. Rows are places as PackedSequence has them: all
    first ones, then all second ones, ..., `sizes` [T] of them. A place holds h, r, z, a and n: [5 H].
    """

    @staticmethod
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
        """All states [N, H] for inputs [N, I] and the first states [B, H]."""
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
        h, r, z, a, n, summed, gates, found = (
            part.split(sizes) for part in (h, r, z, a, n, summed, gates, states)
        )
        for step, following, both in _steps(sizes, backwards):
            summed[step].addmm_(h[step], w_h.T)
            gates[step].sigmoid_()
            n[step].addcmul_(r[step], a[step]).tanh_()
            torch.lerp(n[step], h[step], z[step], out=found[step])  # h'
            h[following][:both].copy_(found[step][:both])
        ctx.save_for_backward(inputs, w_x, w_h, places)
        ctx.sizes, ctx.backwards = sizes, backwards
        return states

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("this GRU cannot be differentiated twice: call it with plain=True")
        inputs, w_x, w_h, places = ctx.saved_tensors
        wanted, size = ctx.needs_input_grad, upstream.size(1)
        h, r, z, a, n = places.split(size, 1)
        by_n = (1 - z) * (1 - n * n)  # of h' by what the tanh is taken of; by_a and the rest likewise
        by_a = by_n * r
        slopes = torch.stack([z, by_a * a * (1 - r), (h - n) * z * (1 - z), by_a, by_n], 1)
        to_h, _, _, to_a, to_n = slopes.unbind(1)
        summed = slopes.flatten(1)[:, size : 4 * size]
        every, carried, products, arriving = (
            part.split(ctx.sizes) for part in (slopes, to_h, summed, upstream.clone())
        )
        for step, following, both in _steps(ctx.sizes, not ctx.backwards):
            every[step].mul_(arriving[step][:, None])  # from slopes to gradients
            if both or wanted[1]:
                carried[step].addmm_(products[step], w_h)
            arriving[following][:both].add_(carried[step][:both])
        to_first = to_h[_starts(ctx.sizes, ctx.backwards)] if wanted[1] else None
        to_w_h = summed.T @ h if wanted[3] else None
        to_b_h = summed.sum(0) if wanted[5] else None
        to_a.copy_(to_n)  # what the input's product gets
        to_inputs = summed @ w_x if wanted[0] else None
        to_w_x = summed.T @ inputs if wanted[2] else None
        to_b_x = summed.sum(0) if wanted[4] else None
        return to_inputs, to_first, to_w_x, to_w_h, to_b_x, to_b_h, None, None


def _steps(sizes: Sequence[int], backwards: bool) -> Iterator[tuple[int, int, int]]:
    """Each step, the one read after it, and how many sequences go on there; after the last step none do."""
    order = range(len(sizes))[:: -1 if backwards else 1]
    for step, following in itertools.pairwise(order):
        yield step, following, min(sizes[step], sizes[following])
    yield order[-1], order[-1], 0


def _starts(sizes: Sequence[int], backwards: bool) -> Tensor:
    """The row of the first place of each sequence [B], of the last one if it is read backwards."""
    width, row = torch.tensor(sizes), torch.arange(sizes[0])
    if not backwards:
        return row
    return row + (width.cumsum(0) - width)[(width[:, None] > row).sum(0) - 1]
