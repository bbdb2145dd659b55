"""Every task, model and remedy on a pretended GPU: no mixed devices, no step that waits; faults are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cvae.models import kernels, objective
from cvae.report import figures
from cvae.runs.folder import RunFolder
from cvae.training.loop import Loop
from cvae.training.run import prepare, run
from tests.helpers import DIALOGS
from tests.pretended_gpu import BrokenRule, pretended_gpu
from tests.test_golden import write_reviews

TINY = ("task=ptb", "dataset=tiny", "dataset.sentences=40", "dataset.sampler=bucketed", "train.batch_size=8")
SIZES = ("model.embed=6", "model.hidden=8", "model.latent=4")
DIALOG = ("task=switchboard", f"dataset.path={DIALOGS}", "dataset.vocabulary=60", "task.samples=2")
DIALOG += ("task.contexts=3", "task.examples=1")
DIALOG += tuple(f"model.{size}=6" for size in ("embed", "utterance", "context", "latent", "prior", "decoder"))
REVIEWS = ("task=yelp", "dataset.path={reviews}", "dataset.min_count=1", "train.batch_size=8", *SIZES)
REVIEWS += (
    "dataset.share={{train:1.0,val:1.0,test:1.0}}",
    "task.finetune.shares=[0.5]",
    "task.finetune.seeds=1",
)
REVIEWS += (
    "task.finetune.modes=[probe,finetune,scratch]",
    "task.finetune.val_least=4",
    "task.finetune.epochs=1",
)
REVIEWS += (
    "task.finetune.penalties=[1.0]",
    "task.finetune.least_updates=2",
    "task.finetune.map_sentences=0",
)
REMEDIES = ("free_bits", "free_bits_total", "kl_target", "low_beta", "word_dropout", "batch_norm", "skip")
REMEDIES += ("aggressive", "semi_amortized")
CUDA = torch.device("cuda")
COMMON = ("device=cuda", "train.epochs=null", "train.steps=4", "task.path_sentences=4")
COMMON += ("task.iw_samples=2", "task.iw_sentences=4")
CASES = {
    "toy": ("task=toy", "dataset.draws=2", "task.samples=10"),
    "language": (*TINY, *SIZES),
    "autoencoder": (*TINY, *SIZES, "schedule=none"),
    "review model": (*TINY, *SIZES, "model=review", "model.filters=4"),
    "reviews": (*REVIEWS, "model.filters=4"),
    "reviews with an LSTM": (*REVIEWS, "model=sentence"),
    "dialog": DIALOG,
    "bf16, LSTM": (*TINY, *SIZES, "precision=bf16"),
    "bf16, GRU": (*DIALOG, "precision=bf16"),
    **{remedy: (*TINY, *SIZES, f"remedy=[{remedy}]") for remedy in REMEDIES},
}


@pytest.fixture
def on_gpu(configured, tmp_path) -> Callable:
    """Return a function that configures four steps of a case on the GPU, with more overrides."""
    reviews = tmp_path / "reviews"
    reviews.mkdir()
    write_reviews(reviews, 12, 6, 6)

    def configure(case: str, *more: str):
        overrides = [part.format(reviews=reviews) for part in CASES[case]]
        return configured(*overrides, *COMMON, *more)

    return configure


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw nothing: pictures are made of recorded numbers."""
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [])


def three_steps(config, folder: Path, gpu) -> None:
    """Make three steps, the second of which may not wait for the GPU."""
    loop = Loop(config, prepare(config), RunFolder(folder))
    for gpu.strict in (False, True, False):
        loop._advance()


# the aggressive step looks at its loss once a window
@pytest.mark.parametrize("case", [case for case in CASES if case != "aggressive"])
def test_no_step_waits_for_the_gpu(case, on_gpu, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        three_steps(on_gpu(case), tmp_path / "steps", gpu)


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_stopped_goes_on_and_is_measured(case, on_gpu, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch):
        run(on_gpu(case, "train.stop_after=2"), RunFolder(tmp_path / "run"))
        run(on_gpu(case), RunFolder(tmp_path / "run"))
    assert RunFolder(tmp_path / "run").state == "done"


# ---- planted faults ----


def noise_on_the_cpu(q, generator=None):
    return q.mean + torch.exp(0.5 * q.logvar) * torch.randn(q.mean.shape)


def loss_that_waits(terms, beta, **keys):
    value = loss(terms, beta, **keys)
    value.item()
    return value


def generator_on_the_cpu(self, seed=None):
    return torch.Generator().manual_seed(0)


loss = objective.loss
FAULTS = {
    "a tensor on the CPU": ("cvae.models.gaussian.sample", noise_on_the_cpu, "two devices"),
    "an item() in the step": ("cvae.models.objective.loss", loss_that_waits, "item: waits for the GPU"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_in_the_step_is_seen(fault, on_gpu, tmp_path, monkeypatch):
    name, replacement, message = FAULTS[fault]
    with pretended_gpu(monkeypatch) as gpu:
        monkeypatch.setattr(name, replacement)
        with pytest.raises(BrokenRule, match=message):
            three_steps(on_gpu("language"), tmp_path / "steps", gpu)


def test_an_rnn_left_in_eval_is_seen(on_gpu, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch):
        config = on_gpu("language")
        loop = Loop(config, prepare(config), RunFolder(tmp_path))
        loop.task.model.eval()
        with pytest.raises(BrokenRule, match="RNN backward can only be called in training mode"):
            loop._advance()


def test_an_rnn_under_autocast_is_seen(on_gpu, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        monkeypatch.setattr(kernels, "call_rnn", lambda rnn, *inputs: rnn(*inputs))
        with pytest.raises(BrokenRule, match="autocast makes cuDNN's RNNs float16"):
            three_steps(on_gpu("bf16, LSTM"), tmp_path / "steps", gpu)


def test_a_generator_elsewhere_is_seen(on_gpu, tmp_path, monkeypatch):
    with pretended_gpu(monkeypatch):
        task = prepare(on_gpu("language"))
        monkeypatch.setattr(type(task), "generator", generator_on_the_cpu)
        with pytest.raises(BrokenRule, match="the generator is on another device"):
            task.evaluate("val")


def differentiate_twice() -> None:
    lstm, inputs = torch.nn.LSTM(3, 3).to(CUDA), torch.ones(2, 1, 3, device=CUDA, requires_grad=True)
    torch.autograd.grad(lstm(inputs)[0].sum(), inputs, create_graph=True)


MISTAKES = {
    "numpy: a tensor on the GPU has no array": lambda: torch.ones(3, device=CUDA).numpy(),
    "__getitem__: an index on the GPU": lambda: torch.ones(3)[torch.zeros(2, dtype=torch.long, device=CUDA)],
    "cannot be differentiated twice": differentiate_twice,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_seen(message, monkeypatch):
    with pretended_gpu(monkeypatch), pytest.raises(BrokenRule, match=message):
        MISTAKES[message]()
