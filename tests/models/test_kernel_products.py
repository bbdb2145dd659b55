"""What autocast makes of the kernels: products of bf16 factors, and float32 for all else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from cvae.models import kernels
from cvae.models.kernels import output
from cvae.models.kernels.gru import GRU
from cvae.training.precision import autocast

has_bf16 = pytest.mark.skipif(not kernels.multiplies_bf16(), reason="needs a processor with bf16")


def rounded(values: Tensor) -> Tensor:
    """Values that bf16 holds, in float64."""
    return values.to(torch.bfloat16).double()


@pytest.fixture(params=[False, True])
def supported(request, monkeypatch) -> bool:
    """Whether the processor claims to have products in bf16."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: request.param)
    return request.param


@pytest.mark.parametrize("usual", ["highest", "high"])
@pytest.mark.parametrize("asked", [False, True])
def test_products_are_bf16s_only_where_it_is_asked_and_autocast_is_off_there(asked, usual):
    def state() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")

    torch.set_float32_matmul_precision(usual)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(ZeroDivisionError), kernels.products_in_bf16(asked):
                assert state() == (("medium", False) if asked else (usual, True))
                _ = 1 / 0
            assert state() == (usual, True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_under_autocast_a_kernel_reads_what_the_processor_multiplies(supported):
    inputs = torch.zeros(2)
    assert kernels.enabled(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.enabled(inputs) == supported
        with kernels.disabled():
            with pytest.raises(ZeroDivisionError), kernels.twice_differentiable():
                _ = 1 / 0
            assert not kernels.enabled(inputs)  # what ends within does not end what it is within
        assert kernels.enabled(inputs) == supported
    assert not kernels.enabled(inputs.to("meta"))


class Product(torch.autograd.Function):
    """x w, and what its passes saw."""

    @staticmethod
    @kernels.autocast_forward
    def forward(ctx, x, w, seen):
        seen.append(
            (x.dtype, w.dtype, torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision())
        )
        ctx.save_for_backward(x, w)
        ctx.seen = seen
        return x @ w

    @staticmethod
    @kernels.autocast_backward
    def backward(ctx, upstream):
        x, w = ctx.saved_tensors
        ctx.seen.append((upstream.dtype, torch.get_float32_matmul_precision()))
        return upstream @ w.T, x.T @ upstream, None


@pytest.mark.parametrize("half", [False, True])
def test_a_decorated_function_is_float32_but_for_its_products(half):
    x = torch.randn(3, 4, dtype=torch.bfloat16 if half else torch.float32, requires_grad=True)
    w = torch.randn(4, 5, requires_grad=True)
    seen = []
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        result = Product.apply(x, w, seen)
    result.sum().backward()
    precision = "medium" if half else "highest"
    assert seen == [(torch.float32, torch.float32, False, precision), (torch.float32, precision)]
    assert result.dtype == w.grad.dtype == torch.float32 and x.grad.dtype == x.dtype
    assert torch.get_float32_matmul_precision() == "highest"


@has_bf16
def test_the_output_layer_rounds_factors_and_sums_in_float32():
    torch.manual_seed(0)
    states, weight, bias = torch.randn(64, 128), torch.randn(300, 128) / 8, torch.randn(300)
    targets = torch.randint(1, 300, (64,))
    with torch.autocast("cpu", torch.bfloat16):
        whole = output.output_nll(states.requires_grad_(), weight, bias, targets)
        with torch.no_grad():
            assert torch.equal(output.output_nll(states.bfloat16(), weight, bias, targets), whole)
    logits = rounded(states.detach()) @ rounded(weight).T + bias
    wanted = nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(whole.detach().double(), wanted, rtol=1e-5, atol=1e-5)
    exact = nn.functional.cross_entropy(states.detach() @ weight.T + bias, targets, reduction="none")
    assert not torch.allclose(whole.detach(), exact, rtol=1e-5, atol=1e-5)


@has_bf16
def test_gradients_of_the_output_layer_are_those_of_rounded_factors():
    torch.manual_seed(0)
    parts = [torch.randn(64, 128), torch.randn(300, 128) / 8, torch.randn(300)]
    targets = torch.randint(1, 300, (64,))
    found, wanted = [], []
    for half in (True, False):
        leaves = [part.clone().requires_grad_() for part in parts]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            nll = output.output_nll(*leaves, targets)
        (found if half else wanted).extend(torch.autograd.grad(nll.sum(), leaves))
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32 and not torch.equal(ours, exact)
        assert torch.allclose(ours, exact, atol=0.01 * float(exact.abs().max()))


@pytest.mark.parametrize("packed", [False, True])
def test_under_autocast_a_gru_is_float32s_up_to_rounding(packed, supported):
    torch.manual_seed(0)
    ours = GRU(40, 64, bidirectional=True)
    lengths = (9, 7, 7, 2)
    rows = [torch.randn(length, 40) for length in lengths]
    found = []
    for half in (False, True):
        inputs = pack_sequence(rows) if packed else torch.stack([row[:2] for row in rows], 1)
        read = inputs.to(torch.bfloat16) if half else inputs
        with autocast("bf16" if half else "float32", "cpu"):
            states, last = ours(read)
        data = states.data if packed else states
        if half:
            assert data.dtype == last.dtype == (torch.float32 if supported else torch.bfloat16)
        gradients = torch.autograd.grad(data.float().square().sum(), list(ours.parameters()))
        found.append([data.detach(), last.detach(), *gradients])
    for exact, half in zip(*found, strict=True):
        assert torch.allclose(half.float(), exact, atol=0.03 * float(exact.abs().max()))


def test_attention_under_autocast_is_float32s():
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 5, 4, dtype=torch.bfloat16) for _ in range(3)]
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    with torch.autocast("cpu", torch.bfloat16):
        half = kernels.attention(*parts, mask)
        assert torch.is_autocast_enabled("cpu")
    exact = kernels.attention(*(part.float() for part in parts), mask)
    assert half.dtype == torch.float32 and torch.equal(half, exact)
    assert kernels.attention(*parts, mask).dtype == torch.bfloat16  # as asked, outside


@pytest.mark.parametrize("half", [False, True])
def test_an_rnn_under_cudas_autocast_reads_inputs_and_states_in_float32(half, monkeypatch):
    """cuDNN refuses inputs and states of two types, which no pretended GPU sees."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: half and device == "cuda")
    part = torch.zeros(2, 3, dtype=torch.bfloat16)
    inputs, state = kernels.call_rnn(lambda *read: read, part, (part, part))
    assert {read.dtype for read in (inputs, *state)} == {torch.float32 if half else torch.bfloat16}


def test_what_is_half_is_widened_wherever_it_lies():
    half, whole = torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float64)
    packed = kernels.widened(pack_sequence([half]))
    assert packed.data.dtype == torch.float32
    found = kernels.widened((half, (half.half(), whole), None, 3))
    assert (found[0].dtype, found[1][0].dtype) == (torch.float32, torch.float32)
    assert found[1][1] is whole and found[2:] == (None, 3)
