"""precision: bf16 and tf32 train what float32 does; nothing in an update waits for the device."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cvae.errors import UserError
from cvae.models import gaussian
from cvae.models.kernels import multiplies_bf16, output
from cvae.runs.folder import RunFolder
from cvae.tasks.base import importance_weighted
from cvae.training import device as devices
from cvae.training import precision
from cvae.training.loop import Loop
from cvae.training.precision import autocast, precision_notes
from cvae.training.run import prepare, run
from cvae.training.steps import build
from tests.helpers import DIALOGS

SMALL = [
    "dataset=tiny",
    "dataset.sentences=40",
    "dataset.sampler=bucketed",
    "task.iw_samples=0",
    "train.batch_size=8",
]
TINY = {
    "sentence": ["task=ptb", *SMALL, "model.embed=8", "model.hidden=8", "model.latent=4"],
    "batch_norm": ["task=ptb", *SMALL, "model.hidden=8", "model.latent=4", "remedy=[batch_norm]"],
    "refined": [
        "task=ptb",
        *SMALL,
        "model.hidden=8",
        "model.latent=4",
        "remedy=[semi_amortized]",
        "update.steps=2",
    ],
    "review": ["task=ptb", *SMALL, "model=review", "model.filters=4", "model.hidden=8", "model.latent=4"],
    "transformer": [
        *("task=ptb", *SMALL, "model=transformer", "model.hidden=8", "model.heads=2", "model.layers=2"),
        "model.latent=4",
    ],
    "dialog": [
        *("task=switchboard", f"dataset.path={DIALOGS}", "dataset.vocabulary=60"),
        *(f"model.{size}=8" for size in ("embed", "utterance", "context", "latent", "prior", "decoder")),
    ],
}
# large enough for products on a GPU's tensor cores, which alone know TF32
LARGE = ["task=ptb", *SMALL, "model.embed=128", "model.hidden=128", "model.latent=32"]
MEASURED = ["task.iw_samples=4", "task.iw_sentences=20"]
RUNS = TINY | {"large": LARGE}
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, cuda])]


def after(configured, precision: str, device: str, kind: str, updates: int = 2):
    """A model, its optimiser and the losses of its first updates."""
    config = configured(*RUNS[kind], f"precision={precision}", f"device={device}")
    task = prepare(config)
    task.model.train()
    update, batches = build(task.model, config), task.batches["train"]
    losses = [float(update(batches.at(step), 0.5, 1e-2)[1]) for step in range(updates)]
    return task.model, update.optimizer, torch.tensor(losses)


class TestHalf:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("kind", TINY)
    def test_losses_are_close_and_what_is_kept_is_float32(self, kind, device, configured):
        whole = after(configured, "float32", device, kind)[2]
        model, optimizer, losses = after(configured, "bf16", device, kind)
        assert not torch.equal(losses, whole) and losses == pytest.approx(whole, rel=5e-3)
        moments = [value for state in optimizer.state.values() for value in state.values()]
        kept = [*model.parameters(), *moments]
        assert len(moments) == 3 * len(list(model.parameters()))
        assert {value.dtype for value in kept} == {torch.float32}
        assert not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.enabled

    def test_gradients_of_an_output_layer_that_would_be_fused(self, monkeypatch):
        monkeypatch.setattr(output, "FUSED_WORDS", 10)
        torch.manual_seed(0)
        layer, states = torch.nn.Linear(60, 370), torch.randn(20, 60, requires_grad=True)
        targets = torch.randint(1, 370, (20,))
        wanted = [states, *layer.parameters()]
        whole, half = [], []
        for found in (whole, half):
            with torch.autocast("cpu", torch.bfloat16, enabled=found is half):
                nll = output.layer_nll(layer, states, targets)
            assert nll.dtype == torch.float32
            found += torch.autograd.grad(nll.sum(), wanted)
        for a, b in zip(whole, half, strict=True):
            assert a.dtype == b.dtype == torch.float32
            assert torch.allclose(a, b, atol=0.02 * float(a.abs().max())) and not torch.equal(a, b)

    def test_importance_weights_stay_within_two_hundredths_of_a_nat(self, configured):
        found = {}
        for name in ("float32", "bf16"):
            task = prepare(configured(*LARGE, *MEASURED, f"precision={name}", "device=cpu"))
            torch.manual_seed(0)
            for parameter in task.model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)  # far from uniform words
            task.model.eval()
            found[name] = importance_weighted(task, "val", task.model)
        whole, half = found["float32"], found["bf16"]
        assert whole.keys() == half.keys() and abs(whole["iw_nll"] - half["iw_nll"]) < 0.02
        assert (whole["iw_nll"] != half["iw_nll"]) == multiplies_bf16()
        assert torch.get_float32_matmul_precision() == "highest"

    def test_what_was_halved_is_widened_and_nothing_else(self):
        half = torch.randn(3, 4, dtype=torch.bfloat16)
        q = gaussian.widened(gaussian.Gaussian(half, half))
        assert {part.dtype for part in q} == {torch.float32}
        for parts in ((half, half.float()), (half.float(), half)):  # batch_norm's means are float32
            assert {part.dtype for part in gaussian.widened(gaussian.Gaussian(*parts))} == {torch.float32}
        double = half.double()
        assert gaussian.widened(gaussian.Gaussian(double, double)).mean is double


@pytest.mark.parametrize("supported", [False, True])
def test_onednn_is_off_only_while_it_is_used_in_bf16_that_it_has_not(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    with pytest.raises(ZeroDivisionError), autocast("bf16", "cpu"):
        assert torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.enabled == supported
        _ = 1 / 0
    assert torch.backends.mkldnn.enabled and not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with autocast("bf16", "cpu"):
        assert not torch.backends.mkldnn.enabled  # as somebody else has asked for it


def test_tf32_is_off_in_tests_and_gpus_are_hidden_from_all_but_those_marked_cuda():
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_run_that_began_with_bf16_goes_on_only_where_there_is_bf16(configured, tmp_path, monkeypatch):
    config = configured(
        *TINY["sentence"], "precision=bf16", "device=cpu", "train.steps=4", "train.save_every=2"
    )
    folder = RunFolder(tmp_path / "run")

    def go_on(with_bf16: bool, end: int | None, **changed) -> None:
        for module in (devices, precision):
            monkeypatch.setattr(module, "multiplies_bf16", lambda: with_bf16)
        ended = dataclasses.replace(config.train, stop_after=end)
        run(dataclasses.replace(config, train=ended, **changed), folder)

    go_on(True, 2)
    assert folder.record["device"].endswith(", with bf16)")
    before = folder.path.joinpath("metrics.jsonl").read_text()
    with pytest.raises(UserError, match="which this one has not: go on where it began"):
        go_on(False, None)
    assert folder.path.joinpath("metrics.jsonl").read_text() == before
    go_on(True, 3)
    go_on(False, None, overwrite=True)  # begins anew, without
    assert folder.results["finished"] and folder.record["device"].endswith(")")
    assert not folder.record["device"].endswith(", with bf16)")
    go_on(True, None)  # finished


def test_a_run_in_float32_goes_on_on_any_processor(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: False)
    began = {"device": "2 processes on cpu (Some CPU, with bf16)"}
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    refuse = precision.refuse_precision
    refuse("float32", cpu, began), refuse("bf16", cpu, None), refuse("bf16", cpu, {"device": "cpu"})
    refuse("bf16", cpu, {}), refuse("bf16", gpu, began), refuse("tf32", gpu, None)
    with pytest.raises(UserError, match="precision=bf16: this run began"):
        refuse("bf16", cpu, began)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    refuse("bf16", cpu, began)


def test_tf32_is_refused_on_the_cpu(configured, tmp_path):
    config = configured(*TINY["sentence"], "precision=tf32", "device=cpu")
    with pytest.raises(UserError, match="precision=tf32 is arithmetic of GPUs"):
        run(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.cuda
@cuda
def test_tf32_is_close_and_other_digits(configured):
    whole, coarse = (after(configured, precision, "cuda", "large")[2] for precision in ("float32", "tf32"))
    assert coarse == pytest.approx(whole, rel=1e-3) and not torch.equal(coarse, whole)


class Waiting(TorchDispatchMode):
    """Refuses what on a GPU would wait for it: a number for Python, or a size that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
            torch.ops.aten.masked_select,
        ), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


# dialogs are left out: packed sequences have their sizes on the CPU, where torch reads them
@pytest.mark.parametrize("kind", ["sentence", "batch_norm", "refined", "review", "transformer"])
def test_an_update_of_the_loop_waits_for_nothing(kind, configured, tmp_path):
    config = configured(*TINY[kind], "device=cpu")
    loop = Loop(config, prepare(config), RunFolder(tmp_path))
    with Waiting():
        loop._advance()
    assert loop.state.step == 1
    with Waiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(()).item()


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("kind", ["sentence", "review", "transformer", "dialog"])
def test_an_update_on_a_gpu_waits_for_nothing(kind, configured, tmp_path):
    config = configured(*TINY[kind], "device=cuda")
    loop = Loop(config, prepare(config), RunFolder(tmp_path))
    loop._advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop._advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_without_bf16_is_told_that_float32_is_faster(supported, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: supported)
    notes = precision_notes("bf16", torch.device("cpu"))
    assert ["float32 is faster" in note for note in notes] == [True] * (not supported)
    assert precision_notes("float32", torch.device("cpu")) == []
    assert precision_notes("bf16", torch.device("cuda")) == []
