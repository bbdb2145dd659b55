"""The benchmark: the same work and arithmetic by plain torch and by ours, and what it makes of times."""

from __future__ import annotations

import platform
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cvae.errors import UserError
from cvae.models.kernels import memory, output
from cvae.training.run import prepare
from scripts import bench, profiling

SMALL = ["task=ptb", "dataset=tiny", "model.embed=8", "model.hidden=8", "model.latent=4", "device=cpu"]
SMALL += ["train.batch_size=4", "dataset.sentences=40", "dataset.sampler=bucketed"]


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    monkeypatch.setattr(bench, "SAMPLES", 3)
    monkeypatch.setattr(bench, "PLAIN_PASSES", 2)
    monkeypatch.setattr(bench, "WORKS", dict.fromkeys(bench.WORKS, 2))
    monkeypatch.setattr(output, "FUSED_WORDS", 10)


@pytest.fixture(scope="module")
def config(configured):
    return configured(*SMALL)


def test_a_step_has_the_flop_of_its_matrix_products_in_plain_torch_and_in_ours(config):
    task = prepare(config)
    words, train = len(task.data.vocabulary), task.batches["train"]
    batches = [train.at(step) for step in range(bench.WORKS["step"])]
    places = sum(batch.tokens.numel() for batch in batches)
    rows = sum(len(batch.lengths) for batch in batches)
    counted = sum(int(batch.counted.sum()) for batch in batches)
    encoder = places * 32 * (8 + 8) + rows * 2 * 8 * 4
    decoder = rows * 4 * 8 + (places - rows) * 32 * (8 + 4 + 8)
    for kind, rated in (("plain", places - rows), ("ours", counted)):  # ours leaves out the pads
        done, tokens = bench.work(kind, "step", task)
        assert tokens == counted
        unused = rows * 32 * 8  # the gradient of the encoder's first state
        assert bench.flop(done) == 6 * (encoder + decoder + rated * 8 * words) - 2 * unused


def test_a_transformers_step_has_the_flop_of_its_matrix_products(configured):
    size = ("model=transformer", "model.hidden=8", "model.layers=1", "model.heads=2", "model.latent=4")
    task = prepare(configured(*(key for key in SMALL if not key.startswith("model.")), *size))
    words, train = len(task.data.vocabulary), task.batches["train"]
    batches = [train.at(step) for step in range(bench.WORKS["step"])]
    shapes = [batch.tokens.shape for batch in batches]
    rows = sum(b for b, _ in shapes)
    places = {"encoder": sum(b * n for b, n in shapes), "decoder": sum(b * (n - 1) for b, n in shapes)}
    # of the encoder's last layer all but keys and values is needed at <s> only
    layers = (places["encoder"] * 3 + rows * 9 + places["decoder"] * 12) * 8 * 8
    attention = 2 * 8 * sum(b * (n + (n - 1) * n) for b, n in shapes)  # z is a place before the words
    latent = rows * 4 * 8 * (2 + 2 + 1)  # mean and logvar, key and value, beside each word
    counted = sum(int(batch.counted.sum()) for batch in batches)
    for kind, rated in (("plain", places["decoder"]), ("ours", counted)):
        done, tokens = bench.work(kind, "step", task)
        assert tokens == counted
        assert bench.flop(done) == 6 * (layers + attention + latent + rated * 8 * words)


def test_a_step_in_a_file_is_served_with_its_flop(config, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def prepare(task):\n    global words\n    words = len(task.data.vocabulary)\n"
        "def step(batch):\n    torch.ones(len(batch.lengths), 5) @ torch.ones(5, words)\n"
    )
    task = prepare(config)
    rows = sum(len(task.batches["train"].at(step).lengths) for step in range(bench.WORKS["step"]))
    done, tokens = bench.work("mine", "step", task, tmp_path / "mine.py")
    assert tokens == bench.work("ours", "step", task)[1]
    assert bench.flop(done) == 2 * rows * 5 * len(task.data.vocabulary)
    (tmp_path / "empty.py").touch()
    with pytest.raises(UserError, match=r"empty\.py must define step\(batch\)"):
        bench.work("empty", "step", task, tmp_path / "empty.py")


def test_a_step_in_a_file_must_be_there_and_have_a_name_of_its_own(tmp_path, capsys):
    (tmp_path / "ours.py").touch()
    for name, message in (("absent.py", "there is no file"), ("ours.py", "rename it")):
        with pytest.raises(SystemExit):
            bench.parse(["--step", str(tmp_path / name)])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", bench.WORKS)
def test_every_work_is_served_by_plain_torch_and_by_ours(name, config):
    tokens = {}
    for kind in ("plain", "ours"):
        said, orders = [], iter([True, True, False])
        bench.serve(
            kind,
            name,
            config,
            None,
            SimpleNamespace(send=said.append, recv=lambda orders=orders: next(orders)),
        )
        if (kind, name) == ("plain", "generation"):
            assert said == [None]
            continue
        tokens[kind], *taken, (flop, peak) = said
        assert len(taken) == 2 and min(taken) > 0 and flop > 1e5 and peak > 100
    if name == "iw_nll":
        assert tokens["ours"] / 3 == tokens["plain"] / 2
    else:
        assert len(set(tokens.values())) == 1


def test_ratios_are_taken_within_rounds():
    one = {"tokens": {"plain": 1000, "ours": 2000}, "flop": {"plain": 50e9, "ours": 40e9, "sgemm": 100e9}}
    one["seconds"] = {"plain": [2.0, 4.0, 2.0], "ours": [1.0, 2.0, 1.6], "sgemm": [1.0, 2.0, 1.0]}
    one["peak_mib"] = {"plain": 900.0, "ours": 700.0, "sgemm": 300.0}
    text = bench.compared({"ptb step": one})
    assert "| ptb step | plain | 500 | 50 | 0.25 | 1.00 | 900 MiB |" in text
    assert "| ptb step | ours | 1,250 | 20 | 0.40 | 4.00 | 700 MiB |" in text
    assert "sgemm: 100 GFLOP/s (50 to 100)" in text


def test_what_runs_backward_belongs_to_what_ran_forward():
    def event(name, start, number=-1, parent=None, spent=0.0):
        return SimpleNamespace(
            name=name,
            sequence_nr=number,
            cpu_parent=parent,
            time_range=SimpleNamespace(start=start),
            self_cpu_time_total=spent * profiling.STEPS * 1e6,
        )

    rest = event("cvae/training/loop.py(7): run", 0, spent=1.0)
    part = event("cvae/models/dialog.py(9): decode_nll", 1, parent=rest)
    events = [rest, part, event("view", 2, 7, rest), event("mm", 3, 7, part, spent=2.0)]
    node = event("autograd::engine::evaluate_function: MmBackward0", 5, 7, rest)
    events += [node, event("MmBackward0", 6, 7, node, spent=4.0), event("outside", 9, spent=9.0)]
    assert profiling.attributed(events[::-1], cuda=False) == {"decoder": 6.0, "the rest": 1.0}


def test_an_annotation_on_a_gpu_is_not_counted_beside_its_kernels():
    def event(name, annotation):
        return SimpleNamespace(
            name=name,
            sequence_nr=-1,
            cpu_parent=None,
            time_range=SimpleNamespace(start=0),
            is_user_annotation=annotation,
            self_device_time_total=profiling.STEPS * 1e6,
        )

    rows = [event("cvae/models/dialog.py(9): decode_nll", annotation) for annotation in (False, True)]
    assert profiling.attributed(rows, cuda=True) == {"decoder": 1.0}


def test_on_a_processor_with_bf16_a_step_is_measured_in_both_precisions(config, monkeypatch):
    """Of processes that say what they were asked for, in place of those that measure."""
    asked = []

    class Told:
        def __init__(self, target, args, daemon):
            self.said = args[0]
            asked.append(args[0])

        def start(self):
            pass

        def join(self):
            pass

    class Line:
        def __init__(self):
            self.last = None

        def close(self):
            pass

        def send(self, more):
            self.last = more

        def recv(self):
            return {None: 10, True: 0.5, False: (20, 30.0)}[self.last]

    context = SimpleNamespace(Pipe=lambda: (Line(), Line()), Process=Told)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda method: context)
    both = ["plain", "ours", "sgemm", "plain, bf16", "ours, bf16", "sgemm, bf16"]
    bf16 = replace(config, precision="bf16")
    for supported, name, settings, kinds in (
        (True, "step", config, both),
        (False, "step", config, both[:3]),
        (True, "step", bf16, both[:3]),
        (True, "evaluation", config, both[:3]),
        (True, "step", replace(config, device="cuda"), both[:3]),
    ):
        monkeypatch.setattr(bench, "multiplies_bf16", lambda supported=supported: supported)
        asked.clear()
        numbers = bench.rounds(name, settings, 0.0)
        assert asked == list(numbers["seconds"]) == kinds and len(numbers["seconds"]["plain"]) == 3


def test_a_row_in_bf16_is_measured_in_bf16(config, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "work", lambda kind, name, task, own: seen.append((kind, task.precision)))
    monkeypatch.setattr(bench, "prepare", lambda config: config)
    for kind in ("ours", "ours, bf16"):
        with pytest.raises(TypeError):  # what was measured is not there
            bench.serve(kind, "step", config, None, SimpleNamespace())
    assert seen == [("ours", "float32"), ("ours", "bf16")]


def test_rows_in_bf16_stand_beside_float32s():
    kinds = ("plain", "ours", "sgemm", "ours, bf16", "sgemm, bf16")
    one = {"tokens": dict.fromkeys(kinds, 1000), "flop": dict.fromkeys(kinds, 100e9)}
    spent = (2.0, 1.6, 1.0, 0.8, 0.25)
    one["seconds"] = {kind: [each] * 3 for kind, each in zip(kinds, spent, strict=True)}
    one["peak_mib"] = dict.fromkeys(kinds, 900.0)
    text = bench.compared({"ptb step": one})
    assert "| ptb step | ours, bf16 | 1,250 | 100 | 1.25 | 2.50 | 900 MiB |" in text
    assert "| sgemm" not in text
    assert text.endswith("sgemm: 100 GFLOP/s (100 to 100); sgemm, bf16: 400 GFLOP/s (400 to 400)")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_yardstick_has_the_precision_asked_for(precision, dtype):
    work, flop = bench.sgemm("cpu", precision)
    products = work()
    assert {product.dtype for product in products} == {dtype}
    assert flop == 2 * 1024**3 * len(products)


def test_the_parts_of_an_update(config, monkeypatch):
    monkeypatch.setattr(profiling, "STEPS", 1)
    found = profiling.parts(config)
    wanted = {"embedding", "encoder and prior", "decoder", "output layer and loss", "clipping and Adam"}
    assert set(found) == wanted | {"data", "logging", "the rest"} and min(found.values()) > 0


def test_a_text_has_the_sentences_asked_for(tmp_path):
    bench.write_text(tmp_path / "text", 10_100)
    lengths = [len(line.split()) for line in (tmp_path / "text").read_text().splitlines()]
    assert len(lengths) == 10_100 and sum(lengths) / len(lengths) == pytest.approx(21, abs=1)


def test_a_start_that_fails_says_why():
    with pytest.raises(UserError, match=r"task=ptbb .* failed: task=ptbb: no such choice"):
        bench.started(["task=ptbb"], 1, 1)


@pytest.mark.parametrize(
    "wrong", [["--seconds", "0"], ["--threads", "0"], ["--text", "9"], ["--work", "no"], ["model.hidden"]]
)
def test_a_wrong_command_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        bench.parse(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_keeping_freed_memory_can_be_asked_for_anywhere_and_again():
    known = platform.libc_ver()[0] == "glibc"
    assert memory.keep_freed() is known and memory.keep_freed() is known
