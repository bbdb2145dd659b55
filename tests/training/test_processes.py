"""Several processes, and several parts of a batch: the gradient of the whole batch, whoever computes it."""

from __future__ import annotations

import io
import itertools
import json
import math
import multiprocessing
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from cvae.cli.train import main
from cvae.config.schema import Config
from cvae.errors import ConfigError, FolderError, LostProcess, UserError
from cvae.report import figures
from cvae.runs import world
from cvae.runs.folder import RunFolder
from cvae.training import collective, follower
from cvae.training import loop as loops
from cvae.training import run as runs
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.means import StepSums, read
from cvae.training.run import prepare
from cvae.training.state import TrainingState
from cvae.training.steps import build
from tests.helpers import REMEDIES, ROOT, configured
from tests.test_golden import CASES, float64

STEADY = ("device=cpu", "model.dropout=0.0")
LANGUAGE = (*CASES["language"], *STEADY)
# one sentence a batch leaves a process without a row, and three leave them unequal shares
PARTED = {
    "language": LANGUAGE,
    "three sentences": (*LANGUAGE, "train.batch_size=3"),
    "one sentence": (*LANGUAGE, "train.batch_size=1"),
    "without clipping": (*LANGUAGE, "train.clip=null"),
    "autoencoder": (*LANGUAGE, "schedule=none"),
    "transformer": (*CASES["transformer"], *STEADY),
    "toy": (*CASES["toy"], *STEADY),
    "dialog": (*CASES["dialog with bag of words"], *STEADY),
    "one response": (*CASES["dialog with bag of words"], *STEADY, "train.batch_size=1"),
}
# unequal shares: the means of equal ones often give what the mean of the batch gives
WHOLE = {
    name: (*LANGUAGE, f"remedy=[{name}]", "train.batch_size=3")
    for name, remedy in REMEDIES.items()
    if "objective" in remedy
}
NOISY = (*CASES["language"], "device=cpu", "model.dropout=0.5")


def trained(config: Config) -> dict[str, Any]:
    """Make some updates; return what is recorded of them, the weights, and the common random numbers."""
    with float64():
        task = prepare(config)
        task.model.train()
        step, batches, sums = build(task.model, config), task.batches["train"], []
        for number in range(20):
            sums.append(StepSums.of(*step(step.batch(batches, number), 0.2 + 0.04 * number, 0.01)))
        recorded = read(sums)
    weights = torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()])
    return {
        "recorded": [[step.sentences, *values] for step, values in recorded],
        "weights": weights.numpy(),
        "random": torch.get_rng_state().numpy(),
    }


def enter(rank: int, port: int, size: int = 2) -> None:
    """Make this process one of those that torchrun would start."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def take_part(rank: int, port: int, cases: dict[str, Config], line: Any) -> None:
    """Train every case with the others."""
    enter(rank, port)
    with collective.joined("cpu"):
        line.send({name: trained(config) for name, config in cases.items()})


def lose(rank: int, port: int, size: int, lost: int, line: Any) -> None:
    """Meet the others, and then be lost or say who is."""
    enter(rank, port, size)
    with collective.joined("cpu"):
        collective.agreed(0)  # all have met
        if rank == lost:
            os._exit(9)
        try:
            collective.agreed(0)
        except LostProcess as error:
            line.send(str(error))


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(work: Any, size: int, *arguments: Any) -> list[tuple[Any, Any]]:
    """Start processes from one that has imported all; return each with a line to it."""
    context, port = multiprocessing.get_context("forkserver"), free_port()
    context.set_forkserver_preload([__name__, "cvae.cli.train", "tensorboard", "matplotlib.figure"])
    both = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(rank, port, *arguments, theirs), daemon=True)
        process.start()
        theirs.close()
        both.append((process, ours))
    return both


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """Leave no process of a test that failed to the next."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def together() -> list[dict[str, Any]]:
    """Return what each of two processes trained."""
    cases = {name: configured(*case) for name, case in (PARTED | WHOLE | {"noisy": NOISY}).items()}
    return [line.recv() for _, line in started(take_part, 2, cases)]


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that two trainings are the same but for rounding."""
    np.testing.assert_allclose(one["recorded"], other["recorded"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one["weights"], other["weights"], rtol=0, atol=1e-9)
    assert (one["random"] == other["random"]).all()


@pytest.mark.parametrize("case", PARTED | WHOLE)
def test_twenty_updates_of_two_processes_are_those_of_one(case, together):
    alone = trained(configured(*(PARTED | WHOLE)[case]))
    for process in together:
        same(process[case], alone)


def test_processes_stay_equal_to_the_bit_and_draw_masks_of_their_own(together):
    alone = trained(configured(*NOISY))
    first, other = (process["noisy"] for process in together)
    assert (first["weights"] == other["weights"]).all()
    assert (first["random"] == other["random"]).all()
    assert first["recorded"] == other["recorded"]
    assert np.abs(first["weights"] - alone["weights"]).max() > 1e-3


def test_the_others_name_the_process_that_is_lost():
    (_, first), (lost, _), (_, third) = started(lose, 3, 3, 1)
    name = f"rank 1 ({platform.node()}, process {lost.pid}) is lost: "
    for said in (first.recv(), third.recv()):
        assert said.startswith(name) and "rank 0" not in said and "rank 2" not in said


def test_rank_0_is_named_where_the_store_is_lost_with_it():
    _, (_, line) = started(lose, 2, 2, 0)
    assert "rank 0" in line.recv()


@pytest.mark.parametrize("case", PARTED)
def test_accumulated_parts_give_the_update_of_the_whole_batch(case):
    accumulated = configured(*PARTED[case], "train.accumulate=3")
    same(trained(accumulated), trained(configured(*PARTED[case])))


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_every_row_of_a_batch_is_in_one_part(rows, each, monkeypatch):
    config = configured(*LANGUAGE, f"train.batch_size={rows}", f"train.accumulate={each}")
    monkeypatch.setenv("WORLD_SIZE", "3")
    task = prepare(config)
    step, batches = build(task.model, config), task.batches["train"]
    whole, seen, sizes = batches.at(0), [], []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts = step.batch(batches, 0)
        assert parts.rows == rows and 1 <= len(parts.parts) <= each
        for part in parts.parts:
            assert len(part.batch.lengths) == max(1, part.rows)
            seen += range(part.first, part.first + part.rows)
            if part.rows:
                sizes.append(part.rows)
                assert torch.equal(part.batch.lengths, whole.lengths[part.first : part.first + part.rows])
    assert seen == list(range(rows))
    assert max(sizes) - min(sizes) <= 1


def test_noise_of_its_own_differs_by_process_and_step_and_leaves_the_common_stream(monkeypatch):
    drawn = set()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for seed, step, rank in itertools.product((0, 1), repeat=3):
        monkeypatch.setenv("RANK", str(rank))
        before = torch.get_rng_state()
        with collective.own_noise(seed, step):
            drawn.add(float(torch.rand(())))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(drawn) == 8


def test_the_masks_of_an_update_are_those_of_its_step(monkeypatch):
    config = configured(*NOISY, "schedule=none")  # so that nothing else is drawn
    announce(monkeypatch, RANK="1", WORLD_SIZE="2")
    monkeypatch.setattr(collective, "sum_gradients", lambda parameters: None)
    task = prepare(config)
    update = build(task.model, config)
    batch = update.batch(task.batches["train"], 0)
    again, once, other = (update(batch._replace(step=step), 1.0, 0.0)[1].item() for step in (5, 5, 6))
    assert again == once != other


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        ("aggressive", "update=aggressive trains in one process, and torchrun started 2"),
        ("semi_amortized", "update=semi_amortized trains in one process, and torchrun started 2"),
        ("batch_norm", "of which each of torchrun's 2 processes sees a part: leave it out"),
    ],
)
def test_what_is_about_the_whole_batch_is_refused(remedy, said, monkeypatch):
    overrides = (*LANGUAGE, f"remedy=[{remedy}]")
    world.refuse(configured(*overrides))
    with pytest.raises(ConfigError, match=r"train\.accumulate"):
        configured(*overrides, "train.accumulate=2")
    announce(monkeypatch, RANK="0", WORLD_SIZE="2")
    with pytest.raises(UserError, match=said):
        world.refuse(configured(*overrides))


def announce(monkeypatch, **numbers: str) -> None:
    """Set what torchrun sets."""
    for name, value in ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | numbers).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("size", [None, "1"])
@pytest.mark.parametrize("rank", ["3", "first"])
def test_a_single_process_is_rank_0_whatever_a_cluster_calls_it(rank, size, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    world.refuse(configured(*LANGUAGE))
    assert (world.rank(), world.described("cpu")) == (0, "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world.described("cpu") == "2 processes on cpu"


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"RANK": "", "WORLD_SIZE": "2"}, "WORLD_SIZE=2 announces several processes, without RANK: "),
        (
            {"MASTER_ADDR": "", "RANK": "0", "WORLD_SIZE": "2"},
            "without MASTER_ADDR: start the run by torchrun",
        ),
        (
            {"MASTER_PORT": "", "RANK": "0", "WORLD_SIZE": "2"},
            "without MASTER_PORT: start the run by torchrun",
        ),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 must be below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 must be below WORLD_SIZE=0"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, found 'two'"),
    ],
)
def test_processes_that_cannot_meet_are_refused(numbers, sentence, monkeypatch):
    config = configured(*LANGUAGE)
    announce(monkeypatch, **numbers)
    with pytest.raises(UserError, match=sentence):
        world.refuse(config)


def test_what_several_processes_cannot_train_is_said_before_there_is_a_folder(monkeypatch, capsys):
    announce(monkeypatch, RANK="0", WORLD_SIZE="2")
    monkeypatch.setattr("cvae.cli.train._hydra", lambda job: pytest.fail("Hydra makes a folder"))
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert main(["remedy=[batch_norm]"]) == 1
    assert "torchrun" in capsys.readouterr().err
    monkeypatch.setattr("cvae.cli.train._sweep", lambda sweep: pytest.fail("a sweep begins"))
    assert main(["-m", "seed=1,2"]) == 1  # of rank 0, as of the others
    assert "torchrun trains one run: leave out -m" in capsys.readouterr().err


def test_a_process_waits_so_long_for_the_others_to_arrive(monkeypatch):
    announce(monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_PORT=str(free_port()))
    monkeypatch.setattr(collective, "ARRIVAL", timedelta(seconds=1))
    with pytest.raises(LostProcess, match="rank 0 of 2 did not meet the others"), collective.joined("cpu"):
        pass


def test_how_long_processes_wait_to_meet_while_one_measures_and_for_an_answer(monkeypatch):
    """As docs/reliability.md says of the second."""
    waited = {}
    store = SimpleNamespace(set=lambda *_: None, wait=lambda keys, time: waited.update(answer=time))
    monkeypatch.setattr(collective, "_store", None)

    def rendezvous(address: str, timeout: timedelta) -> Iterator[tuple]:
        waited["meeting"] = timeout
        yield store, 0, 2

    def group(backend: str, timeout: timedelta, **_: Any) -> None:
        waited["measuring"] = timeout

    monkeypatch.setattr(collective.dist, "rendezvous", rendezvous)
    monkeypatch.setattr(collective.dist, "init_process_group", group)
    collective._meet("gloo")
    assert collective._answers(store, 1)
    seconds = {name: time.total_seconds() for name, time in waited.items()}
    assert seconds == {"meeting": 600, "measuring": 7200, "answer": 5}


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_process_reads_what_is_overwritten(overwrite, monkeypatch, tmp_path):
    seen: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(collective, "joined", lambda device: nullcontext())
    monkeypatch.setattr(
        runs, "prepare", lambda config, known, folder: seen.append((folder, config.train.progress))
    )
    monkeypatch.setattr(runs, "_fingerprints", lambda task, config: {})
    monkeypatch.setattr(follower, "follow", lambda folder, task, prints: None)
    folder = RunFolder(tmp_path)
    assert math.isnan(runs.run(configured(*LANGUAGE, f"overwrite={overwrite}"), folder))
    assert seen == [(None if overwrite else folder, False)]  # and one bar is enough


def test_a_signal_to_another_process_during_the_last_step_ends_this_one_too(monkeypatch, tmp_path):
    answers = iter([0, 0, signal.SIGTERM])  # before each step, and after the last
    monkeypatch.setattr(collective, "agreed", lambda number: next(answers))
    folder = RunFolder(tmp_path)
    with pytest.raises(SystemExit) as ending:
        runs.run(
            configured(*LANGUAGE, "train.steps=2", "train.validate_every=2", "schedule=constant"), folder
        )
    assert ending.value.code == 128 + signal.SIGTERM
    assert folder.has_checkpoint and not folder.finished


@pytest.mark.parametrize("kind", [Loop, follower.Follower])
def test_all_processes_add_up_their_sums_at_the_same_steps(kind, monkeypatch, tmp_path):
    every = ("train.log_every=4", "train.save_every=6", "train.validate_every=8")
    config = configured(*LANGUAGE, "train.epochs=null", "train.steps=10", *every)
    added, bars, folder = [], [], RunFolder(tmp_path)
    monkeypatch.setattr(
        loops.console,
        "progress_bar",
        lambda train, step, total: (
            bars.append(tqdm(initial=step, total=total, file=io.StringIO())) or bars[0]
        ),
    )
    for module in (loops, follower):
        monkeypatch.setattr(module, "read", lambda steps: added.append(len(steps)) or read(steps))
    loop = kind(config, prepare(config), folder)
    with Logger(folder, config, 0, {}) as recorder:
        loop.run(recorder)
    # records after 1, 5, 9 and 10 updates, validations after 8 and 10; what is saved after 6, 8 and 10
    assert added == [1, 4, 1, 2, 0, 1, 1, 0, 0]
    assert (len(loop.state.scores), loop._saved) == (2, 10)
    assert (bars[0].n, bars[0].total) == (10, 10)
    assert ("rec=" in str(bars[0].postfix)) == (kind is Loop)  # of all processes, which rank 0 alone shows


def test_a_process_with_other_data_says_so(monkeypatch, tmp_path):
    task = prepare(configured(*LANGUAGE))
    monkeypatch.setattr(collective, "share", lambda ours: ours | {"vocabulary": "other", "data": {}})
    with pytest.raises(FolderError, match=r"^differs from rank 0 in its vocabulary and data$"):
        follower.follow(RunFolder(tmp_path), task, task.data.fingerprints)


def test_processes_that_wait_are_not_called_lost_with_the_one_that_is(monkeypatch):
    store = {f"cvae/name/{rank}": f"here, process {rank}".encode() for rank in range(3)}
    monkeypatch.setattr(collective, "_store", SimpleNamespace(set=store.__setitem__, get=store.get))
    monkeypatch.setattr(collective.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(collective, "leave", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    answering = {1}
    monkeypatch.setattr(collective, "_answers", lambda store, rank: rank in answering)
    assert collective._missing(RuntimeError("[/a/b.cc:5] closed [::1]:3. Check.\n...")) == (
        "rank 2 (here, process 2) is lost: closed [::1]:3"
    )
    answering.clear()
    said = collective._missing(RuntimeError("closed\nby whom"))
    assert said == "at least one of rank 1 (here, process 1), rank 2 (here, process 2) is lost: closed"
    answering |= {1, 2}
    assert collective._missing(RuntimeError("closed")) == "a process is lost: closed"
    monkeypatch.setenv("RANK", "1")  # torchrun keeps the store, which outlives rank 0
    assert collective._missing(RuntimeError("closed")) == "rank 0 (here, process 0) is lost: closed"
    assert store["cvae/alive/0"] == store["cvae/alive/1"] == "yes"  # which the others wait for
    monkeypatch.setattr(collective.dist, "is_initialized", lambda: False)  # they met, and got no further
    assert collective._missing(RuntimeError("closed")) == "rank 1 of 3 did not meet the others: closed"


@pytest.mark.parametrize("said", ["Gloo connectFullMesh failed", "Connection reset by peer", "out of memory"])
def test_an_error_that_is_not_of_the_network_loses_no_process(said, monkeypatch):
    def work() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(collective, "_missing", str)
    with pytest.raises(LostProcess if "onnect" in said else RuntimeError, match=said) as caught:
        collective._together(work)
    assert isinstance(caught.value, LostProcess) == ("onnect" in said)


@pytest.mark.parametrize(
    ("device", "there", "gpu"),
    [("auto", True, True), ("cuda", True, True), ("auto", False, False), ("cpu", True, False)],
)
def test_processes_take_gpus_where_there_are_some_that_the_run_wants(device, there, gpu, monkeypatch):
    done = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(collective, "_take_gpu", lambda: done.append("its GPU"))
    monkeypatch.setattr(collective, "_meet", done.append)
    monkeypatch.setattr(collective.dist, "is_initialized", lambda: "left" not in done)
    monkeypatch.setattr(collective.dist, "destroy_process_group", lambda: done.append("left"))
    with collective.joined(device):
        assert done == (met := ["its GPU", "cpu:gloo,cuda:nccl"] if gpu else ["gloo"])
    assert done == [*met, "left"]
    collective.leave()
    assert done == [*met, "left"]  # twice would be an error


@pytest.mark.parametrize("ranks", [{"LOCAL_RANK": "1", "RANK": "3"}, {"RANK": "1"}])
def test_the_gpu_of_a_process_has_its_number_on_the_machine(ranks, monkeypatch):
    taken, count = [], [2]
    announce(monkeypatch, WORLD_SIZE="4", **ranks)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count[0])
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    collective._take_gpu()
    assert taken == [1]
    count[0] = 1
    with pytest.raises(UserError, match=r"^this machine has 1 GPUs, .*: --nproc-per-node must be at most"):
        collective._take_gpu()


def test_a_gradient_that_a_process_lacks_is_zeros_and_what_is_frozen_gets_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(collective, "_summed", lambda values, how: 2 * values)
    shapes = ((2, 3), (4,), (1, 5))
    here, unread, frozen = parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    here.grad = torch.arange(6.0).view(2, 3)
    frozen.requires_grad_(False)
    collective.sum_gradients(parameters)
    assert here.grad.tolist() == [[0, 2, 4], [6, 8, 10]] and unread.grad.tolist() == [0] * 4
    assert frozen.grad is None


def test_a_sum_leaves_what_a_process_has_and_a_total_has_the_gradient_of_all(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(collective.dist, "all_reduce", lambda values, how: values.mul_(3))
    here = torch.tensor([1.0, -2.0], requires_grad=True)
    for summed in (collective.summed(here), collective.total(here)):
        assert (here.tolist(), summed.tolist()) == ([1, -2], [3, -6])
    collective.total(here)[1].backward()
    assert here.grad.tolist() == [0, 3]


@pytest.mark.parametrize("remedy", WHOLE)
def test_remedies_of_the_whole_batch_are_refused_in_parts(remedy):
    (key, *_) = REMEDIES[remedy]["objective"]
    with pytest.raises(ConfigError, match=f"objective.{key} is about the whole batch"):
        configured(*LANGUAGE, f"remedy=[{remedy}]", "train.accumulate=2")


PATIENCE = 240  # seconds for processes that start on a machine whose cores others use
ARGUMENTS = (*CASES["language"], "device=cpu", "train.epochs=null", "train.steps=120", "train.log_every=1")
ARGUMENTS += ("train.validate_every=40", "train.progress=false")


def train(rank: int, port: int, folder: Path, name: str, line: Any) -> None:
    """Train as a process of torchrun's that prints to a file."""
    enter(rank, port, size=2)
    os.chdir(folder)
    output = os.open(f"{name}.{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    figures.run_pictures = lambda folder: []
    sys.exit(main([*ARGUMENTS, f"name={name}"]))


def ended(started: list[tuple[Any, Any]], folder: Path, name: str) -> tuple[list[int], list[str]]:
    """Return how processes ended, and what they printed."""
    limit = time.monotonic() + PATIENCE
    for process, _ in started:
        process.join(limit - time.monotonic())
    printed = [(folder / f"{name}.{rank}").read_text().strip() for rank in range(len(started))]
    return [process.exitcode for process, _ in started], printed


def run_folder(folder: Path, name: str) -> RunFolder:
    return RunFolder(next((folder / "outputs" / name).iterdir()))


def records(folder: RunFolder) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "time/" not in k} for line in lines]


def reach(folder: Path, name: str, step: int) -> None:
    """Wait until a run has recorded a step."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        found = list((folder / "outputs" / name).glob("*/metrics.jsonl"))
        if found and f'"step": {step},' in found[0].read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} has not come to step {step}")


def test_a_run_is_the_same_by_torchrun_and_after_a_signal_and_a_lost_process(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [*torchrun, str(ROOT / "train.py"), *ARGUMENTS, "name=whole"]
    with (tmp_path / "log").open("w") as log:
        whole = subprocess.Popen(arguments, cwd=tmp_path, stdout=log, stderr=log)

    both = started(train, 2, tmp_path, "parts")
    reach(tmp_path, "parts", 20)
    os.kill(both[1][0].pid, signal.SIGTERM)
    codes, printed = ended(both, tmp_path, "parts")
    assert codes == [128 + signal.SIGTERM] * 2
    assert "SIGTERM: saved after" in printed[0] and not printed[1]

    both = started(train, 2, tmp_path, "parts")
    reach(tmp_path, "parts", 60)
    both[1][0].kill()
    codes, printed = ended(both, tmp_path, "parts")
    assert codes == [1, -signal.SIGKILL]
    last = printed[0].splitlines()[-1]
    assert last.startswith("rank 1 (") and "is lost" in last

    codes, printed = ended(started(train, 2, tmp_path, "parts"), tmp_path, "parts")
    assert codes == [0, 0], printed
    assert whole.wait(timeout=PATIENCE) == 0, (tmp_path / "log").read_text()
    ours, theirs = (run_folder(tmp_path, name) for name in ("parts", "whole"))
    assert records(ours) == records(theirs)
    assert ours.record["device"].startswith("2 processes on cpu (")
    results = [{k: v for k, v in run.results.items() if "time/" not in k} for run in (ours, theirs)]
    assert results[0] == results[1] and results[0]["finished"]


def test_another_number_of_processes_says_what_changes(tmp_path, caplog, monkeypatch):
    config = configured(*LANGUAGE)
    task = prepare(config)
    state = TrainingState(task.model, build(task.model, config))
    saved = state.state_dict()
    state.load_state_dict(saved, tmp_path)
    assert not caplog.text
    monkeypatch.setenv("WORLD_SIZE", "4")
    state.load_state_dict(saved, tmp_path)
    assert "4 processes" in caplog.text and "dropout masks will be others" in caplog.text
    saved = state.state_dict()
    monkeypatch.delenv("WORLD_SIZE")
    state.load_state_dict(saved, tmp_path)
    assert caplog.text.count("dropout masks will be others") == 2
