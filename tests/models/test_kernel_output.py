"""The fused output layer is the plain one: forward, gradients, pads, weights of rows, and its limits."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cvae.config.schema import SentenceModel
from cvae.data.text import Batch
from cvae.data.vocabulary import PAD
from cvae.models import kernels, objective
from cvae.models.kernels import output
from cvae.models.kernels.output import output_nll
from cvae.models.sentence import SentenceVAE

V, H = 37, 6


def plain_nll(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """What `output_nll` must be equal to."""
    logits = functional.linear(states, weight, bias)
    return functional.cross_entropy(logits, targets, ignore_index=PAD, reduction="none")


def layer(rows: int, pads: float = 0.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """States, weight, bias and targets; a share of the targets is PAD."""
    generator = torch.Generator().manual_seed(rows)
    states, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, H), (V, H), (V,))
    )
    targets = torch.randint(1, V, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < pads] = PAD
    return states, weight, bias, targets


def both(inputs: tuple[Tensor, ...], upstream: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """nll and gradients of all three inputs, by `output_nll` and by the plain path."""
    found = []
    for function in (output_nll, plain_nll):
        nll = function(*inputs)
        weights = torch.full_like(nll, 0.3) if upstream is None else upstream
        found.append([nll.detach(), *torch.autograd.grad(nll, inputs[:3], weights)])
    return found[0], found[1]


def assert_equal(one: list[Tensor], other: list[Tensor], **tolerance: float) -> None:
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


@pytest.fixture
def blocks_of_8(monkeypatch):
    """Blocks of at most eight rows in double precision."""
    monkeypatch.setattr(output, "BLOCK_BYTES", 8 * V * 8)


@pytest.mark.parametrize("offset", [0.0, 60.0, -60.0, -97.0, 200.0, -300.0])
@pytest.mark.parametrize("spread", [1.0, 80.0])
def test_large_logits_lose_no_digits(offset, spread):
    states, weight, bias, targets = layer(9, dtype=torch.float32)
    inputs = [(spread * states).detach(), weight.detach(), (bias + offset).detach()]
    mine, _ = both((*(part.requires_grad_() for part in inputs), targets))
    exact = (*(part.detach().double().requires_grad_() for part in inputs), targets)
    _, theirs = both(exact)
    assert_equal([part.double() for part in mine], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 5, 8, 9, 16, 17, 23, 64])
@pytest.mark.parametrize("pads", [0.0, 0.4, 1.0])
def test_it_equals_the_plain_path_for_any_number_of_rows(rows, pads, blocks_of_8):
    assert_equal(*both(layer(rows, pads)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("pads", [0.0, 0.4])
def test_it_equals_the_plain_path_to_float32_rounding(pads):
    assert_equal(*both(layer(50, pads, torch.float32)), rtol=2e-5, atol=2e-6)


def test_blocks_are_as_large_as_allowed_and_alike(monkeypatch):
    monkeypatch.setattr(output, "BLOCK_BYTES", 6400)
    sizes = {count: output._rows_per_block(count, 100) for count in (0, 1, 16, 17, 64, 65, 128, 704)}
    assert sizes == {0: 16, 1: 16, 16: 16, 17: 32, 64: 64, 65: 48, 128: 64, 704: 64}
    assert output._rows_per_block(20, 20_000) == 16  # rows larger than the block still fill cache lines


@pytest.mark.parametrize("pads", [0.0, 0.4])
def test_rows_may_weigh_differently(pads, blocks_of_8):
    upstream = torch.randn(23, dtype=torch.float64)
    upstream[3] = 0
    assert_equal(*both(layer(23, pads), upstream), rtol=1e-12, atol=1e-13)


def test_a_pad_has_no_nll_and_no_gradient_whatever_its_row_weighs(blocks_of_8):
    states, weight, bias, targets = layer(20, 0.5)
    pads = targets == PAD
    nll = output_nll(states, weight, bias, targets)
    upstream = torch.where(pads, 1e3, 0.5).double()
    assert pads.any() and not nll[pads].any() and (nll[~pads] > 0).all()
    assert not torch.autograd.grad(nll, states, upstream)[0][pads].any()
    assert_equal(*both((states, weight, bias, targets), upstream), rtol=1e-12, atol=1e-13)


def test_pads_that_are_not_taken_out_beforehand_count_nothing_either(blocks_of_8):
    """What a GPU does: it masks them, because counting them would wait for it."""
    states, weight, bias, targets = layer(20, 0.5)
    mine = output._OutputNLL.apply(states, weight, bias, targets)
    theirs = plain_nll(states, weight, bias, targets)
    for upstream in (torch.ones(20), torch.rand(20)):
        found = [
            [nll.detach(), *torch.autograd.grad(nll, (states, weight, bias), upstream, retain_graph=True)]
            for nll in (mine, theirs)
        ]
        assert_equal(*found, rtol=1e-12, atol=1e-13)


def test_gradients_are_those_of_finite_differences(blocks_of_8):
    states, weight, bias, targets = layer(9, 0.2)
    inputs = [part.detach().clone().requires_grad_() for part in (states[:, :3], weight[:9, :3], bias[:9])]
    targets %= 9
    assert PAD in targets
    assert torch.autograd.gradcheck(lambda *three: output_nll(*three, targets), inputs)
    assert torch.autograd.gradcheck(lambda *three: output_nll(*three, targets).sum(), inputs)


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1), (1, 2)])
@pytest.mark.parametrize("weigh", ["alike", "differently"])
def test_only_the_gradients_asked_for_are_formed(which, weigh, blocks_of_8):
    *inputs, targets = layer(17, 0.2)
    inputs = [part.detach().requires_grad_(n in which) for n, part in enumerate(inputs)]
    upstream = torch.ones(17) if weigh == "alike" else torch.rand(17)
    mine, theirs = (function(*inputs, targets) for function in (output_nll, plain_nll))
    for nll in (mine, theirs):
        nll.backward(upstream)
        nll.gradients = [part.grad for part in inputs]
        for part in inputs:
            part.grad = None
    for n, (one, other) in enumerate(zip(mine.gradients, theirs.gradients, strict=True)):
        assert (one is None) == (n not in which)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_without_gradients_none_is_formed_and_the_nll_is_the_same(blocks_of_8, monkeypatch):
    inputs = layer(23, 0.2)
    expected = output_nll(*inputs).detach()
    monkeypatch.setattr(output._OutputNLL, "apply", None)
    with torch.no_grad():
        found = output_nll(*inputs)
    assert torch.equal(found, expected) and not found.requires_grad


def test_a_second_backward_through_a_kept_graph_is_right_and_spares_the_first_ones_gradients(blocks_of_8):
    *inputs, targets = layer(17)
    nll = output_nll(*inputs, targets)
    nll.backward(torch.full((17,), 2.0), retain_graph=True)
    first = [part.grad for part in inputs]
    copies = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(nll, inputs, torch.full((17,), 3.0))
    assert_equal(first, copies, rtol=0, atol=0)
    assert_equal([2 * part for part in second], [3 * part for part in first], rtol=1e-12, atol=1e-13)


def test_a_double_backward_is_refused_and_the_refusal_names_the_other_path():
    states, *rest = layer(5)
    with pytest.raises(RuntimeError, match="twice_differentiable"):
        torch.autograd.grad(output_nll(states, *rest).sum(), states, create_graph=True)


def test_extreme_logits_neither_overflow_nor_vanish():
    states, weight, bias, targets = layer(12, dtype=torch.float32)
    with torch.no_grad():
        states *= 300
    one, other = both((states, weight, bias, targets))
    assert one[0].max() > 200 and all(part.isfinite().all() for part in one)
    assert_equal(one, other, rtol=1e-4, atol=1e-4)


def test_it_knows_its_shapes_on_the_meta_device():
    inputs = [part.detach().to("meta").requires_grad_(part.requires_grad) for part in layer(23, 0.2)]
    nll = output_nll(*inputs)
    nll.mean().backward()
    assert nll.is_meta and nll.shape == (23,)
    assert all(part.grad.is_meta and part.grad.shape == part.shape for part in inputs[:3])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("upstream", [None, torch.rand(50)])
def test_on_cuda_it_equals_the_plain_path_on_the_cpu(upstream):
    *inputs, targets = layer(50, 0.3, torch.float32)
    there = [part.detach().cuda().requires_grad_() for part in inputs]
    nll = output_nll(*there, targets.cuda())
    weights = torch.full((50,), 0.3) if upstream is None else upstream
    found = [nll.detach(), *torch.autograd.grad(nll, there, weights.cuda())]
    _, expected = both((*inputs, targets), weights)
    assert_equal([part.cpu() for part in found], expected, rtol=1e-3, atol=1e-4)


# ---- in the model ----


def vae(words: int, dtype: torch.dtype) -> SentenceVAE:
    torch.manual_seed(0)
    config = SentenceModel("sentence", 8, 12, 1, 3, dropout=0.0, word_dropout=0.0, init=0.3)
    return SentenceVAE(config, words).to(dtype)


def padded(words: int) -> Batch:
    """Eight sentences of two to nine words."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(4, 12)
    tokens = torch.randint(4, words, (8, 11), generator=generator)
    tokens[:, 0] = 2
    return Batch(tokens * (torch.arange(11) < lengths[:, None]), lengths)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("weigh", ["alike", "differently"])
def test_the_models_loss_and_gradients_are_the_plain_paths(dtype, tolerance, weigh, monkeypatch):
    monkeypatch.setattr(output, "FUSED_WORDS", 100)
    model, batch = vae(120, dtype), padded(120)
    z = torch.randn(8, 3, dtype=dtype, requires_grad=True)
    weights = torch.ones(8, dtype=dtype) if weigh == "alike" else torch.rand(8, dtype=dtype)
    read = []
    model.decoder.output.register_forward_hook(lambda *_: read.append(1))
    found = []
    for context in (nullcontext(), kernels.twice_differentiable()):
        with context:
            nll = model.decode_nll(batch, z)
        inputs = [z, *model.decoder.parameters()]
        found.append([nll.detach(), *torch.autograd.grad((weights * nll).mean(), inputs)])
    assert read == [1]  # only one of them went through the layer itself
    assert_equal(*found, rtol=tolerance, atol=tolerance / 100)


def test_a_training_step_takes_the_fused_path_in_a_large_vocabulary_only(monkeypatch):
    taken = []
    monkeypatch.setattr(output, "output_nll", lambda *inputs: taken.append(1) or output_nll(*inputs))
    for words, expected in ((output.FUSED_WORDS - 1, False), (output.FUSED_WORDS, True)):
        model = vae(words, torch.float32)
        objective.loss(objective.terms(model, padded(words)), beta=1.0).backward()
        assert bool(taken) == expected
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
