"""Every task, model and remedy on a pretended GPU: no mixed devices, no step that waits; faults are seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvae.data.vocabulary import EOS, UNK
from cvae.evaluation import chat, samples
from cvae.models import kernels, objective
from cvae.models.decode import SamplingOptions, generate
from cvae.runs.folder import RunFolder
from cvae.training.device import device_name
from cvae.training.loop import Loop
from cvae.training.run import prepare, run
from tests.helpers import DIALOGS, REMEDIES, make
from tests.pretended_gpu import BrokenRule, leaves, pretended_gpu
from tests.test_golden import write_reviews

TINY = ("task=ptb", "dataset=tiny", "dataset.sentences=40", "dataset.sampler=bucketed", "train.batch_size=8")
SIZES = ("model.embed=6", "model.hidden=8", "model.latent=4")
DIALOG = ("task=switchboard", f"dataset.path={DIALOGS}", "dataset.vocabulary=60", "task.samples=2")
DIALOG += ("task.contexts=3", "task.examples=1")
DIALOG += tuple(f"model.{size}=6" for size in ("embed", "utterance", "context", "latent", "prior", "decoder"))
TRANSFORMER = ("model=transformer", "model.hidden=8", "model.layers=2", "model.heads=2", "model.latent=4")
CLASSIFIED = ("task=yelp", "dataset.path={reviews}", "dataset.min_count=1", "train.batch_size=8")
CLASSIFIED += (
    "dataset.share={{train:1.0,val:1.0,test:1.0}}",
    "task.finetune.shares=[0.5]",
    "task.finetune.seeds=1",
)
CLASSIFIED += (
    "task.finetune.modes=[probe,finetune,scratch]",
    "task.finetune.val_least=4",
    "task.finetune.epochs=1",
)
CLASSIFIED += (
    "task.finetune.penalties=[1.0]",
    "task.finetune.least_updates=2",
    "task.finetune.map_sentences=0",
)
REVIEWS = (*CLASSIFIED, *SIZES)
FEWER = {"aggressive": ("update.window=2", "update.most=5"), "semi_amortized": ("update.steps=2",)}
OF_THE_LOSS = [name for name, remedy in REMEDIES.items() if remedy.keys() <= {"objective", "schedule"}]
CUDA = torch.device("cuda")
COMMON = ("device=cuda", "train.epochs=null", "train.steps=4", "task.path_sentences=4")
COMMON += ("task.iw_samples=2", "task.iw_sentences=4")
CASES = {
    "toy": ("task=toy", "dataset.draws=2", "task.samples=10"),
    "language": (*TINY, *SIZES),
    "autoencoder": (*TINY, *SIZES, "schedule=none"),
    "no z": (*TINY, *SIZES[:2], "model=lm"),
    "review model": (*TINY, *SIZES, "model=review", "model.filters=4"),
    "reviews": (*REVIEWS, "model.filters=4"),
    "reviews with an LSTM": (*REVIEWS, "model=sentence"),
    "transformer": (*TINY, *TRANSFORMER),
    "refined transformer": (*TINY, *TRANSFORMER, "remedy=[semi_amortized,batch_norm]", "update.steps=2"),
    "reviews with a transformer": (*CLASSIFIED, *TRANSFORMER),
    "dialog": DIALOG,
    "bf16, LSTM": (*TINY, *SIZES, "precision=bf16"),
    "bf16, transformer": (*TINY, *TRANSFORMER, "precision=bf16"),
    "bf16, GRU": (*DIALOG, "precision=bf16"),
    **{
        remedy: (*TINY, *SIZES, f"remedy=[{remedy}]", *FEWER.get(remedy, ()))
        for remedy in REMEDIES
        if remedy != "pretrained"  # has a test of its own
    },
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


# what remedies of the loss alone do is done in a step
@pytest.mark.parametrize("case", [case for case in CASES if case not in OF_THE_LOSS])
def test_a_run_is_stopped_goes_on_and_is_measured(case, on_gpu, tmp_path, monkeypatch):
    config, folder = on_gpu(case), RunFolder(tmp_path / "run")
    with pretended_gpu(monkeypatch):
        run(replace(config, train=replace(config.train, stop_after=2)), folder)
        run(config, folder)
    assert folder.state == "done" and folder.record["device"] == "cuda (a pretended GPU)"


def test_a_pretrained_encoder_is_loaded(on_gpu, tmp_path, monkeypatch):
    source, folder = RunFolder(tmp_path / "source"), RunFolder(tmp_path / "run")
    with pretended_gpu(monkeypatch):
        run(on_gpu("autoencoder"), source)
        run(on_gpu("language", "remedy=[pretrained]", f"init_from={source.path}"), folder)
    assert folder.state == "done"


def test_sentences_are_moved_and_compared(on_gpu, tmp_path, monkeypatch):
    (texts := tmp_path / "texts").write_text("the dog sees a king\n")
    with pretended_gpu(monkeypatch):
        task = prepare(on_gpu("language"))
        sampler, sentences = samples.Sampler(task, SamplingOptions()), ["the dog", "a king"]
        assert sampler.interpolation(*sentences, 3) and sampler.neighbours(sentences, "val", 2)
        assert sampler.arithmetic(sentences, str(texts), str(texts), 3)


def test_a_dialog_is_answered(on_gpu, monkeypatch):
    with pretended_gpu(monkeypatch):
        task = prepare(on_gpu("dialog"))
        task.model.eval()
        assert len(list(chat.chat(task, ["how are you", "1", "fine"], "", seed=0))) == 4


def test_what_goes_on_on_another_device_says_so_and_threads_do_not_matter_to_a_gpu(
    on_gpu, tmp_path, monkeypatch, caplog
):
    config, saved = on_gpu("toy"), {}
    for number, gpu in enumerate(("H100", "H100", "H200", "", "H200")):
        with pretended_gpu(monkeypatch), monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "get_device_name", lambda _, gpu=gpu: gpu)
            patch.setattr(torch, "get_num_threads", lambda number=number: number)
            task = prepare(replace(config, device="cuda" if gpu else "cpu"))
            state = Loop(config, task, RunFolder(tmp_path)).state
            if saved:
                state.load_state_dict(saved, tmp_path)
            saved = state.state_dict()
    cpu = device_name(torch.device("cpu"))
    assert [record.getMessage() for record in caplog.records] == [
        "warning: cuda (H100) before, cuda (H200) now: numbers will differ in their last digits",
        f"warning: cuda (H200) before, 3 threads on {cpu} now: noise will be another",
        f"warning: 3 threads on {cpu} before, cuda (H200) now: noise will be another",
    ]


@pytest.mark.parametrize("precision", ["float32", "bf16", "tf32"])
def test_products_are_rounded_where_it_is_asked_for_whatever_a_run_before_asked_for(
    precision, on_gpu, monkeypatch
):
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    for switch in switches:
        switch.allow_tf32 = precision != "tf32"
    with pretended_gpu(monkeypatch):
        prepare(on_gpu("language", f"precision={precision}"))
    assert [switch.allow_tf32 for switch in switches] == [precision == "tf32"] * 2


@pytest.mark.parametrize("case", ["language", "dialog"])
def test_a_batch_is_copied_to_the_gpu_at_once(case, on_gpu, monkeypatch):
    with pretended_gpu(monkeypatch) as gpu:
        batches = prepare(on_gpu(case)).batches["train"]
        gpu.strict, before = True, gpu.transfers
        batch = batches.at(0)
    assert gpu.transfers == before + 1
    on_cpu = prepare(replace(on_gpu(case), device="cpu")).batches["train"].at(0)
    torch.testing.assert_close(list(leaves(vars(batch))), list(leaves(vars(on_cpu))), rtol=0, atol=0)


@pytest.mark.parametrize("options", [SamplingOptions(forbid=(EOS,)), SamplingOptions(1.0, 0.9, (UNK,))])
def test_sampling_waits_once_in_eight_words_and_says_the_same(options, monkeypatch):
    model, z = make().eval(), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    on_cpu = generate(model, None, z, 20, options, torch.Generator().manual_seed(0))
    with pretended_gpu(monkeypatch) as gpu:
        model, z = model.to(CUDA), z.to(CUDA)
        before = gpu.waits
        rows = generate(model, None, z, 20, options, torch.Generator(CUDA).manual_seed(0))
    assert rows == on_cpu and max(map(len, rows)) > 1
    assert gpu.waits - before <= 3  # after 8 and 16 words, and for the sentences


# ---- planted faults ----


def noise_on_the_cpu(q, generator=None, noise=None):
    return q.mean + torch.exp(0.5 * q.logvar) * torch.randn(q.mean.shape)


def loss_that_waits(*terms, **keys):
    value = loss(*terms, **keys)
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
    "to: waits for the GPU": lambda: torch.ones(3).to(CUDA, non_blocking=True),  # not from pinned memory
    "multinomial: waits for the GPU": lambda: torch.ones(2, 3, device=CUDA).multinomial(1),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_seen(message, monkeypatch):
    with pretended_gpu(monkeypatch) as gpu, pytest.raises(BrokenRule, match=message):
        gpu.strict = "waits" in message
        MISTAKES[message]()
