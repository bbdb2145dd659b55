"""The benchmark: the same work and arithmetic by plain torch and by ours, and what it makes of times."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
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
    for name in ("plain", "ours", "sgemm"):
        (tmp_path / f"{name}.py").touch()
    taken = [(f"{name}.py", f"{name}.py would be taken for a row") for name in ("plain", "ours", "sgemm")]
    for name, message in (("absent.py", "there is no file"), *taken):
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
    elif name == "generation":
        train = prepare(config).batches["train"]
        assert tokens == {"ours": bench.LONGEST * sum(len(train.at(step).lengths) for step in range(2))}
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


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What processes were asked for that measure nothing: a work named `none` is none, `wrong` is refused."""
    asked: list[str] = []

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
            first = {"none": None, "wrong": UserError("a wrong step")}.get(asked[-1], 10)
            return {None: first, True: 0.5, False: (20, 30.0)}[self.last]

    context = SimpleNamespace(Pipe=lambda: (Line(), Line()), Process=Told)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda method: context)
    return asked


def test_a_step_of_one_s_own_takes_turns_and_no_other_work_has_one(config, asked):
    config = replace(config, precision="bf16")
    assert bench.rounds("step", config, 0.0, Path("mine.py")) == {
        "tokens": dict.fromkeys(["plain", "ours", "sgemm", "mine"], 10),
        "seconds": {kind: [0.5] * 3 for kind in ("plain", "ours", "sgemm", "mine")},
        "flop": dict.fromkeys(["plain", "ours", "sgemm", "mine"], 20),
        "peak_mib": dict.fromkeys(["plain", "ours", "sgemm", "mine"], 30.0),
    }
    assert "mine" not in bench.rounds("evaluation", config, 0.0, Path("mine.py"))["seconds"]
    assert list(bench.rounds("step", config, 0.0, Path("none.py"))["flop"]) == ["plain", "ours", "sgemm"]
    with pytest.raises(UserError, match="a wrong step"):
        bench.rounds("step", config, 0.0, Path("wrong.py"))


def test_on_a_processor_with_bf16_a_step_is_measured_in_both_precisions(config, asked, monkeypatch):
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


def test_a_round_that_warms_up_is_not_timed(monkeypatch):
    said, done, orders = [], [], iter([True, True, False])
    monkeypatch.setattr(bench, "prepare", lambda config: config)
    monkeypatch.setattr(bench, "work", lambda *how: (lambda: done.append(len(said)), 5))
    monkeypatch.setattr(bench, "flop", lambda work: 7)
    line = SimpleNamespace(send=said.append, recv=lambda: next(orders))
    bench.serve("ours", "step", SimpleNamespace(threads=None, device="cpu"), None, line)
    assert done == [0, 1, 2] and said[0] == 5 and len(said) == 4


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
    "wrong",
    [["--seconds", "0"], ["--threads", "0"], ["--text", "100", "99"], ["--work", "no"], ["model.hidden"]],
)
def test_a_wrong_command_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        bench.parse(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_keeping_freed_memory_can_be_asked_for_anywhere_and_again():
    known = platform.libc_ver()[0] == "glibc"
    assert memory.keep_freed() is known and memory.keep_freed() is known


@pytest.mark.parametrize("refused", [None, -1, -3])
def test_both_of_glibcs_settings_are_made_and_one_that_is_refused_is_said(refused, monkeypatch):
    asked = {}

    def mallopt(setting: int, size: int) -> int:
        asked[setting] = size
        return int(setting != refused)

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert memory.keep_freed() is (refused is None)
    assert asked == {-3: 33_554_432, -1: 2_147_483_647}


STARTED = """
import json, os, sys
given = dict(word.split("=", 1) for word in sys.argv[1:])
os.makedirs(given["hydra.run.dir"])
with open(given["hydra.run.dir"] + "/metrics.jsonl", "w") as file:
    for rate in RATES:
        file.write(json.dumps({"step": 1, "time/tokens_per_second": rate}) + "\\n")
with open("said.json", "w") as file:
    json.dump([given, {name: os.environ.get(name) for name in NAMES}], file)
"""
VARIABLES = ["HF_DATASETS_CACHE", "CVAE_CACHE", "OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("rates", "threads", "cache", "found"),
    [([7.0], None, None, {}), ([7.0, 10.0, 40.0, 20.0], 3, "kept", {"tokens_per_second": 20.0})],
)
def test_a_start_is_timed_without_what_other_starts_kept(rates, threads, cache, found, tmp_path, monkeypatch):
    """Of a program that stands for train.py."""
    (tmp_path / "train.py").write_text(STARTED.replace("RATES", str(rates)).replace("NAMES", str(VARIABLES)))
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    numbers = bench.started(["task=a"], 41, threads, cache)
    assert 0 < numbers.pop("first_update_seconds") < 60
    assert 1 < numbers.pop("peak_mib") < 100_000  # at least what this process had
    assert numbers == found
    given, variables = json.loads((tmp_path / "said.json").read_text())
    *caches, cores = variables.values()
    assert given["task"] == "a" and given["train.stop_after"] == "41" and cores == str(threads or 1)
    assert len(set(caches)) == 1
    assert caches[0] == cache if cache else not Path(caches[0]).exists()  # a new one, gone again


def test_a_text_is_started_twice_with_one_cache(monkeypatch):
    asked = []

    def started(overrides, updates, threads, cache):
        asked.append((overrides[-1], updates, threads, cache))
        (path,) = [word.partition("=")[2] for word in overrides if word.startswith("dataset.path=")]
        assert len(Path(path).read_text(encoding="utf-8").splitlines()) == 1100
        return {"first_update_seconds": float(len(asked))}

    monkeypatch.setattr(bench, "started", started)
    found = bench.text(1100, ["seed=1"], 3)
    assert {name: numbers["first_update_seconds"] for name, numbers in found.items()} == {
        "1,100 sentences": 1.0,
        "1,100 sentences, again": 2.0,
    }
    assert asked[0] == asked[1] and asked[0][:3] == ("seed=1", 41, 3)
    assert all(0.05 < numbers["file_mib"] < 0.3 for numbers in found.values())  # 21 words of six letters


@pytest.mark.parametrize(
    ("given", "measured"),
    [
        ([], {"ptb step": 60.0}),
        (
            ["--task", "toy", "ptb", "--work", "step", "iw_nll", "--seconds", "2"],
            dict.fromkeys(("toy step", "toy iw_nll", "ptb step", "ptb iw_nll"), 2.0),
        ),
        (["--operations", "--task", "toy"], {"toy": {"operations": 3}}),
        (["--startup", "--task", "yelp", "toy"], {task: {"peak_mib": 1.0} for task in ("yelp", "toy")}),
        (["--text", "100", "200"], {"100": {"peak_mib": 2.0}, "200": {"peak_mib": 2.0}}),
    ],
    ids=str,
)
def test_what_is_asked_for_is_measured_and_written(given, measured, tmp_path, monkeypatch, capsys):
    def started(overrides, updates, threads):
        assert overrides[1:] == ["seed=3", "device=cpu"] and overrides[0] in map(
            "task={}".format, bench.TASKS
        )
        return {"peak_mib": float(updates)}

    def text(size, overrides, threads):
        assert overrides == ["seed=3", "device=cpu"]
        return {str(size): {"peak_mib": 2.0}}

    monkeypatch.setattr(bench, "rounds", lambda name, config, seconds, own: seconds)
    monkeypatch.setattr(bench, "operations", lambda config: {"operations": 3})
    monkeypatch.setattr(bench, "started", started)
    monkeypatch.setattr(bench, "text", text)
    for name in ("compared", "dispatched", "beginnings"):
        monkeypatch.setattr(bench, name, lambda found, name=name: f"{name}: {len(found)}")
    assert bench.main([*given, "--json", str(tmp_path / "a.json"), "seed=3"]) == 0
    assert json.loads((tmp_path / "a.json").read_text()) == measured
    table = {"--operations": "dispatched", "--startup": "beginnings", "--text": "beginnings"}
    name = next((table[word] for word in given if word in table), "compared")
    assert capsys.readouterr().out.endswith(f"{name}: {len(measured)}\n")


def test_all_is_every_task_and_every_work():
    options = bench.parse(["--task", "all", "--work", "all"])
    assert (options.task, options.work) == (list(bench.TASKS), list(bench.WORKS))
    assert bench.parse(["--text", "100"]).text == [100] and bench.parse([]).device == "cpu"


def test_threads_are_those_asked_for_or_torch_s_choice():
    for threads in (3, None):
        config = bench.configuration("toy", ["seed=5"], threads)
        assert (config.threads, config.seed, config.task.name) == (threads, 5, "toy")


def test_views_are_no_operations(config):
    with profiling.Operations() as counted:
        torch.ones(2, 3).t().view(3, 2).add(1)
    assert counted.count == 2  # ones and the sum
    found = profiling.operations(config)
    assert 0 < found["for the record"] < found["operations"] / 2
