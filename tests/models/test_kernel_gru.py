"""The GRU that trains on a CPU is nn.GRU in value and gradient, and runs its code where it should."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from cvae.models import kernels
from cvae.models.kernels import gru as recurrent
from cvae.models.kernels.gru import GRU

SETTINGS = settings(max_examples=25, deadline=None, derandomize=True, database=None)
I, H = 3, 4  # noqa: E741
both = pytest.mark.parametrize("bidirectional", [False, True])


def pair(bidirectional: bool, dtype: torch.dtype = torch.float64) -> tuple[GRU, nn.GRU]:
    """Ours and torch's with the same weights, large enough for all gates to matter."""
    torch.manual_seed(0)
    ours, theirs = GRU(I, H, bidirectional), nn.GRU(I, H, bidirectional=bidirectional)
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, -1, 1)
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def outcome(run, inputs, first: Tensor | None, *wanted: Tensor) -> list[Tensor]:
    """Outputs, last states, and gradients of a loss in which all their numbers have weights of their own."""
    outputs, last = run(inputs, first)
    data = outputs.data if isinstance(outputs, PackedSequence) else outputs
    noise = torch.Generator().manual_seed(1)
    weigh = [torch.randn(part.shape, generator=noise, dtype=part.dtype) for part in (data, last)]
    loss = (weigh[0] * data).sum() + (weigh[1] * last).sum()
    return [data.detach(), last.detach(), *torch.autograd.grad(loss, wanted)]


def same(ours, theirs, inputs, first: Tensor | None, data: Tensor, **tolerance: float) -> None:
    found = []
    for module in (ours, theirs):
        wanted = [data, *([] if first is None else [first]), *module.parameters()]
        found.append(outcome(module, inputs, first, *wanted))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def ours_ran(monkeypatch) -> list[int]:
    """Grows with each direction that our own operations read."""
    count, apply = [], recurrent._Direction.apply
    monkeypatch.setattr(recurrent._Direction, "apply", lambda *a: (count.append(1), apply(*a))[1])
    return count


@SETTINGS
@example([2, 4, 3], False, True, True)  # sorted, each sequence is at another place than it comes back from
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.booleans(), st.booleans())
def test_packed_sequences_of_any_lengths(lengths, sort, bidirectional, begun):
    ours, theirs = pair(bidirectional)
    if sort:  # as `cvae.data.dialogs` does for the decoder: no order to come back to
        lengths = sorted(lengths, reverse=True)
    packed = pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in lengths], enforce_sorted=sort)
    data = packed.data.requires_grad_()
    first = torch.randn(1 + bidirectional, len(lengths), H, dtype=torch.float64, requires_grad=True)
    same(ours, theirs, packed._replace(data=data), first if begun else None, data)
    for module in (ours, theirs):
        outputs = module(packed)[0]
        assert outputs.unsorted_indices is packed.unsorted_indices
        assert torch.equal(outputs.batch_sizes, packed.batch_sizes)


@both
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("steps, rows", [(1, 1), (1, 3), (5, 2)])
def test_plain_tensors(steps, rows, begun, bidirectional):
    ours, theirs = pair(bidirectional)
    inputs = torch.randn(steps, rows, I, dtype=torch.float64, requires_grad=True)
    first = torch.randn(1 + bidirectional, rows, H, dtype=torch.float64, requires_grad=True)
    same(ours, theirs, inputs, first if begun else None, inputs)


@both
def test_in_float32_it_differs_in_the_last_digits(bidirectional):
    ours, theirs = pair(bidirectional, torch.float32)
    packed = pack_sequence([torch.randn(n, I) for n in (40, 7, 7, 3)])
    data = packed.data.requires_grad_()
    same(ours, theirs, packed._replace(data=data), None, data, rtol=1e-4, atol=1e-5)


@both
def test_gradcheck(bidirectional):
    ours, _ = pair(bidirectional)
    sizes = torch.tensor([3, 2, 2, 1])
    data = torch.randn(8, I, dtype=torch.float64, requires_grad=True)
    first = torch.randn(1 + bidirectional, 3, H, dtype=torch.float64, requires_grad=True)

    def run(data: Tensor, first: Tensor, *_weights: Tensor) -> tuple[Tensor, Tensor]:  # changed in place
        outputs, last = ours(PackedSequence(data, sizes), first)
        return outputs.data, last

    assert torch.autograd.gradcheck(run, (data, first, *ours.parameters()))


def test_only_wanted_gradients_are_formed_and_a_second_backward_finds_the_same():
    ours, theirs = pair(True)
    for module in (ours, theirs):
        module.weight_hh_l0.requires_grad_(False)
    inputs = torch.randn(4, 2, I, dtype=torch.float64)
    loss = ours(inputs)[0].square().sum()
    wanted = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    once, again = (torch.autograd.grad(loss, wanted, retain_graph=True) for _ in range(2))
    expected = torch.autograd.grad(
        theirs(inputs)[0].square().sum(), [p for p in theirs.parameters() if p.requires_grad]
    )
    for one, two, other in zip(once, again, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, other)


@both
def test_the_gradient_of_its_states_stays_the_callers(bidirectional):
    ours, theirs = pair(bidirectional)
    inputs = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 2, (1 + bidirectional) * H, dtype=torch.float64)
    kept = upstream.clone()
    for handed in (upstream, upstream[:1, :1, :1].expand_as(upstream)):  # the second is that of a sum
        one, other = (torch.autograd.grad(run(inputs)[0], inputs, handed)[0] for run in (ours, theirs))
        torch.testing.assert_close(one, other)
    assert torch.equal(upstream, kept)


def test_parameters_and_their_names_are_those_of_nn_gru_and_copies_are_equal():
    ours, theirs = pair(True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    inputs = torch.randn(2, 1, I, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(ours)(inputs)[0], ours(inputs)[0])


def test_wrong_shapes_are_refused_as_by_nn_gru():
    ours, _ = pair(False)
    inputs = torch.randn(2, 3, I, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="hidden"):
        ours(inputs, torch.zeros(1, 1, H, dtype=torch.float64))  # not one for all
    with pytest.raises(RuntimeError, match="input"):
        ours(inputs[..., :2])


# ---- where it is nn.GRU's own ----


def test_what_is_to_be_differentiated_twice_needs_the_switch_or_is_refused(monkeypatch):
    ours, theirs = pair(False)
    count = ours_ran(monkeypatch)
    inputs = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)

    def curvature(run) -> tuple[Tensor, ...]:
        slope = torch.autograd.grad(run(inputs)[0].square().sum(), inputs, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum(), inputs)

    with pytest.raises(RuntimeError, match="twice_differentiable"):
        curvature(ours)
    assert count
    count.clear()
    with kernels.twice_differentiable():
        assert torch.equal(*curvature(ours), *curvature(theirs)) and not count


def test_without_gradients_and_under_autocast_without_bf16_it_is_nn_grus(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    ours, theirs = pair(False, torch.float32)
    count = ours_ran(monkeypatch)
    inputs = torch.randn(3, 2, I)
    trained = ours(inputs)[0]
    assert count and trained.requires_grad
    count.clear()
    with torch.no_grad():
        assert torch.equal(ours(inputs)[0], theirs(inputs)[0])
        torch.testing.assert_close(ours(inputs)[0], trained)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(inputs)[0], theirs(inputs)[0])
    assert torch.equal(ours(inputs[:, 0])[0], theirs(inputs[:, 0])[0])  # unbatched
    with torch.device("meta"):
        assert GRU(I, H)(torch.empty(3, 2, I))[0].shape == (3, 2, H)
    assert not count
