"""A run that is stopped anywhere and started again is the run that was never stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter

import cvae
from cvae.config.load import identity
from cvae.config.schema import Config
from cvae.errors import Diverged, FolderError, UserError
from cvae.report import figures
from cvae.runs.compatibility import refuse_other_run
from cvae.runs.folder import RunFolder, discard_if_empty, refuse_impossible
from cvae.runs.provenance import describe
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint, console
from cvae.training.divergence import check_step
from cvae.training.guards import disk_errors
from cvae.training.logger import Logger
from cvae.training.loop import Loop
from cvae.training.run import prepare, reopen, run
from cvae.training.standalone import measure, without_corpus
from cvae.training.steps import TrainStep
from scripts import kill
from tests.forked import Process
from tests.helpers import DEBUG, ROOT, board, script

TINY = (
    *DEBUG,
    "remedy=[word_dropout]",
)
TOY = (
    "train.steps=40",
    "train.log_every=7",
    "train.validate_every=10",
    "train.save_every=6",
    "dataset.draws=2",
    "task.samples=10",
)
SHORT = (*TINY[:-1], "train.steps=24", "train.validate_every=8", "task.iw_samples=2")
AGGRESSIVE = (*SHORT, "remedy=[aggressive,skip]", "update.window=1", "update.most=3")
AGGRESSIVE += ("dataset.sentences=72", "dataset.sampler=bucketed")  # 9 updates an epoch: I(x; z) at 9 and 18
SEMI_AMORTIZED = (*SHORT, "remedy=[semi_amortized,batch_norm]", "update.steps=2")
DIALOG = (
    "task=switchboard",
    f"dataset.path={ROOT / 'tests/dialogs'}",
    "dataset.held_out=0.2",
    "dataset.consecutive=3",
    "model.embed=5",
    "model.utterance=4",
    "model.context=6",
    "model.topic=2",
    "model.latent=3",
    "model.prior=4",
    "model.decoder=7",
    "model.bow_hidden=4",
    "model.dropout=0.2",
    "task.samples=2",
    "task.iw_samples=3",
    "dataset.max_tokens=12",
    "train.batch_size=6",
    "train.epochs=2",
    "train.log_every=4",
    "train.save_every=5",
    "remedy=[word_dropout]",
)
TRANSFORMER = (
    *("task=ptb", "dataset=tiny", "dataset.sentences=60", "train.batch_size=8", "train.epochs=null"),
    *("model=transformer", "model.hidden=8", "model.layers=1", "model.heads=2", "model.latent=2"),
    *("train.steps=24", "train.validate_every=8", "task.iw_samples=2", "remedy=[word_dropout]"),
)
COMMANDS = {
    "tiny": TINY,
    "toy": TOY,
    "autoencoder": (*TOY, "schedule=none"),
    "dialog": DIALOG,
    "aggressive": AGGRESSIVE,
    "semi_amortized": SEMI_AMORTIZED,
    "transformer": TRANSFORMER,
}


class Crash(Exception):
    """Stands for whatever may end a process between two updates."""


def without_time(record: dict) -> dict:
    return {key: value for key, value in record.items() if not key.startswith("time/")}


def outcome(folder: Path) -> dict:
    """Everything a run leaves that must not depend on whether it was stopped."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    latents = folder / "latents.jsonl"
    return {
        "metrics": [without_time(json.loads(line)) for line in lines],
        "latents": latents.read_text() if latents.exists() else None,
        "samples": (folder / "samples.jsonl").read_text(),
        "results": without_time(json.loads((folder / "results.json").read_text())),
        "weights": {
            (which, name): tensor.tolist()
            for which in ("last", "best")
            for name, tensor in checkpoint.load(folder / f"checkpoint_{which}.pt")["model"].items()
        },
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, configured, pictures) -> dict[str, Path]:
    """Each command, run without a stop; `tiny` draws its pictures."""
    folders = {}
    for name, command in COMMANDS.items():
        folders[name] = tmp_path_factory.mktemp(f"{name} – Läufe 1")
        with pictures() if name == "tiny" else nullcontext():
            run(configured(*command), RunFolder(folders[name]))
    return folders


def crash_after(monkeypatch, updates: int, where: str = "_advance") -> None:
    """The `updates`-th call of a step of the loop raises Crash instead of returning."""
    original = getattr(Loop, where)
    calls = Counter()

    def crashing(self, *arguments):
        calls[where] += 1
        original(self, *arguments)
        if calls[where] == updates:
            raise Crash

    monkeypatch.setattr(Loop, where, crashing)


def survive(config: Config, folder: Path, monkeypatch, updates: int, where: str) -> None:
    with monkeypatch.context() as patch:
        crash_after(patch, updates, where)
        with pytest.raises(Crash):
            run(config, RunFolder(folder))


PLACES = [(1, "_advance"), (13, "_advance"), (1, "_validate"), (2, "save"), (7, "_report")]
CRASHES = [(name, *place) for name in ("tiny", "dialog") for place in PLACES]
CRASHES += [(name, *place) for name in ("toy", "autoencoder") for place in PLACES[1:3]]
CRASHES += [
    (name, 13, "_advance") for name in ("aggressive", "semi_amortized", "transformer")
]  # which take longer


@pytest.mark.parametrize(("name", "updates", "where"), CRASHES)
def test_a_crash_anywhere_changes_nothing(name, updates, where, whole, tmp_path, monkeypatch, configured):
    config = configured(*COMMANDS[name])
    survive(config, tmp_path, monkeypatch, updates, where)
    run(config, RunFolder(tmp_path))
    assert outcome(tmp_path) == outcome(whole[name])


def test_a_crash_while_the_results_are_made_leaves_the_run_unfinished(
    whole, tmp_path, monkeypatch, configured
):
    def crash(folder):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(figures, "run_pictures", crash)
        with pytest.raises(Crash):
            run(configured(*TOY), RunFolder(tmp_path))
    assert RunFolder(tmp_path).results["finished"] is False
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(figures, "run_pictures", lambda folder: [tmp_path / "a.png"])
    run(configured(*TOY), RunFolder(tmp_path))
    assert outcome(tmp_path) == outcome(whole["toy"])
    assert all(len(steps) == len(set(steps)) for steps in board(tmp_path).values())
    assert board(tmp_path)["latents/plane"] == [10, 20, 30, 40] and board(tmp_path)["pictures/a"] == [40]


def test_several_crashes_change_nothing_and_tensorboard_reads_each_step_once(
    whole, tmp_path, monkeypatch, configured
):
    config = configured(*TINY)
    # names of event files end in a counter and are read in alphabetical order: no 9 before 10 in a second
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    for updates in (3, 9, 7, 11):
        survive(config, tmp_path, monkeypatch, updates, "_advance")
    run(config, RunFolder(tmp_path))
    assert outcome(tmp_path) == outcome(whole["tiny"])
    read = board(tmp_path)
    expected = {
        (tag, json.loads(line)["step"])
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
        for tag in json.loads(line)
        if tag != "step"
    }
    assert read.pop("samples/text_summary") == read["val/elbo"]
    assert {(tag, step) for tag, steps in read.items() for step in steps} == expected
    assert all(len(steps) == len(set(steps)) for steps in read.values())


def ended(folder: Path) -> bool:
    """Whether TensorBoard's table of hyperparameters has the run's end."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return "_hparams_/session_end_info" in events.summary_metadata


def test_stop_after_ends_early_without_changing_beta_and_can_go_on(whole, tmp_path, monkeypatch, configured):
    run(configured(*TOY, "train.stop_after=17"), RunFolder(tmp_path), "the first command")
    early = json.loads((tmp_path / "results.json").read_text())
    assert early["finished"] is False
    assert (early["step"], early["updates"]) == (17, 40)
    assert early["val/elbo"] < 0 and not (tmp_path / "samples.md").exists()
    assert not ended(tmp_path) and ended(whole["toy"])
    said = "stopped after 17 of 40 updates; the same command continues"
    assert (tmp_path / "train.log").read_text().count(said) == 1
    survive(configured(*TOY), tmp_path, monkeypatch, 1, "_advance")
    begun = RunFolder(tmp_path).results
    assert (begun["finished"], begun["step"], begun["updates"]) == (False, 17, 40)
    assert begun["data/train/sentences"] == early["data/train/sentences"] and "val/elbo" not in begun
    run(configured(*TOY), RunFolder(tmp_path), "another")
    log = (tmp_path / "train.log").read_text()
    start = f"{tmp_path}: from the start, going to 17 of 40, on cpu"
    assert log.count("stopped after") == log.count(start) == 1
    assert log.count(f"{tmp_path}: after 17 updates, going to 40 of 40, on cpu") == 2
    assert outcome(tmp_path) == outcome(whole["toy"])
    assert RunFolder(tmp_path).record["command"] == "the first command"


def test_sigterm_ctrl_c_and_slurms_warning_save_and_exit_and_the_run_goes_on(
    whole, tmp_path, monkeypatch, configured
):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        with monkeypatch.context() as patch:
            original = Loop._advance

            def signalled(self, number=number, original=original):
                original(self)
                if self.state.step in (9, 16, 23):
                    os.kill(os.getpid(), number)

            patch.setattr(Loop, "_advance", signalled)
            with pytest.raises(SystemExit) as ended:
                run(configured(*TOY), RunFolder(tmp_path))
        assert ended.value.code == 128 + number
        step = checkpoint.load(tmp_path / "checkpoint_last.pt")["step"]
        assert step in (9, 16, 23) and RunFolder(tmp_path).state == "stopped"
        said = f" {signal.Signals(number).name}: saved after {step} updates; the same command continues"
        assert (tmp_path / "train.log").read_text().count(said) == 1
    run(configured(*TOY), RunFolder(tmp_path))
    assert outcome(tmp_path) == outcome(whole["toy"])


def test_a_time_limits_warning_saves_before_who_listens_to_it_requeues(tmp_path, monkeypatch, configured):
    seen = []

    def requeue(number, frame):
        seen.append((number, checkpoint.load(tmp_path / "checkpoint_last.pt")["step"]))
        raise SystemExit(77)

    original = Loop._advance

    def warned(self):
        original(self)
        if self.state.step == 9:
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(Loop, "_advance", warned)
    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit) as ended:
            run(configured(*TOY), RunFolder(tmp_path))
        assert signal.getsignal(signal.SIGUSR2) is requeue
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (ended.value.code, seen) == (77, [(signal.SIGUSR2, 9)])


def test_killed_while_a_checkpoint_is_written(whole, tmp_path, configured, forks, monkeypatch):
    """The short version of scripts/kill.py, without waiting for imports."""

    def start(arguments: Sequence[str], folder: Path) -> Process:
        words = [*arguments, *kill.COMMON, f"hydra.run.dir={folder}"]
        return forks.start(ROOT / "train.py", *words, cwd=ROOT)

    monkeypatch.setattr(kill, "start", start)
    folder = tmp_path / "Läufe – 1"
    often = (*TOY, "train.save_every=1")  # so that not even a busy machine misses them all
    tally = kill.torment(often, folder, ["writing"], random.Random(0), kill.Pace(0.0, 1e-9))
    assert tally.kills
    assert kill.differences(whole["toy"], folder) == kill.repeated_steps(folder) == []
    assert tally.written <= kill.lines(folder)
    command = shlex.split(RunFolder(folder).record["command"])
    assert command[:2] == ["python", "train.py"]
    assert identity(configured(*command[2:]).container) == identity(configured(*often).container)


@pytest.mark.parametrize("name", kill.RUNS)
def test_the_harness_kills_runs_that_can_be_started(name, configured):
    words = shlex.split(kill.RUNS[name])
    assert configured(*(word.format(reviews="Ä b") for word in words)).train.save_every < 10


def test_a_run_on_a_corpus_without_a_limit_measures_a_text_however_long(whole, tmp_path):
    task = without_corpus(RunFolder(whole["tiny"]), "cpu")
    words = task.data.vocabulary.words[4:6]
    (tmp_path / "long.txt").write_text(" ".join(words * 40) + "\n")
    found = measure(task, tmp_path / "long.txt", None)
    assert (found["text/sentences"], found["text/tokens"], found["text/unknown_share"]) == (1, 81, 0)


def test_the_objective_is_the_best_validations_bound(whole):
    results = RunFolder(whole["toy"]).results
    best = max(r["val/elbo"] for r in outcome(whole["toy"])["metrics"] if "val/elbo" in r)
    assert results["finished"] is True
    assert results["objective"] == -best == -results["val/elbo"]


def test_the_best_checkpoint_is_the_best_validation(whole):
    records = outcome(whole["tiny"])["metrics"]
    best = max((r for r in records if "val/elbo" in r), key=lambda r: r["val/elbo"])
    assert checkpoint.load(whole["tiny"] / "checkpoint_best.pt")["step"] == best["step"]


def test_the_first_update_is_step_0_and_beta_is_the_schedules(whole, configured):
    config = configured(*TOY)
    records = [r for r in outcome(whole["toy"])["metrics"] if "train/beta" in r]
    assert [r["step"] for r in records] == [0, 7, 14, 21, 28, 35, 39]
    assert [r["train/beta"] for r in records] == [config.schedule(r["step"], 40) for r in records]


def watched(monkeypatch: pytest.MonkeyPatch, task: LanguageTask, clock: list[float]) -> tuple[list, list]:
    """Note β, rate and gradient norm of each part of every update, and what each validation shows.

    The clock goes on by 0.25 s an update, 7 s a validation and 3 s a look at the mutual information.
    """
    made: list[list[float]] = []
    updates: list[list[list[float]]] = []
    shown: list[tuple] = []
    loss, optimizer_step, advance = TrainStep.loss, TrainStep.optimizer_step, Loop._advance

    def watched_loss(self, found, beta):
        made.append([beta])
        return loss(self, found, beta)

    def watched_descend(self, lr):
        norm = optimizer_step(self, lr)
        made[-1] += [self.optimizer.param_groups[0]["lr"], norm.item()]
        return norm

    def watched_advance(self):
        made.clear()
        advance(self)
        updates.append(made.copy())
        clock[0] += 0.25

    evaluate, line = task.evaluate, console.validation_line

    def watched_evaluate(split):
        clock[0] += 7  # not part of the speed
        return evaluate(split)

    def watched_information(split):
        clock[0] += 3  # nor is what the aggressive update looks at, once an epoch
        return 0.5

    monkeypatch.setattr(TrainStep, "loss", watched_loss)
    monkeypatch.setattr(TrainStep, "optimizer_step", watched_descend)
    monkeypatch.setattr(Loop, "_advance", watched_advance)
    monkeypatch.setattr(task, "evaluate", watched_evaluate)
    monkeypatch.setattr(task, "mutual_information", watched_information)
    monkeypatch.setattr(console, "validation_line", lambda *a: shown.append(a[2:]) or line(*a))
    return updates, shown


@pytest.mark.parametrize("update", ["plain", "aggressive"])
@pytest.mark.parametrize("per", ["update", "epoch"])
def test_every_update_has_the_beta_and_rate_of_its_step_and_records_them(
    per, update, tmp_path, monkeypatch, configured
):
    beta = ("schedule.cycles=1", "schedule.ratio=1.0")
    rate = ("lr=cosine_restarts", "lr.cycles=2", "lr.warmup=3", f"lr.per={per}", "train.log_every=1")
    config = configured(*(AGGRESSIVE if update == "aggressive" else SHORT), *beta, *rate)
    task, clock = prepare(config), [100.0]
    monkeypatch.setattr("cvae.training.state.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    loop = Loop(config, task, RunFolder(tmp_path))
    clock[0] += 5  # before training begins
    total, epoch = loop.total, len(task.batches["train"])
    assert total == 24 and 1 < epoch < total
    updates, shown = watched(monkeypatch, task, clock)
    with Logger(RunFolder(tmp_path), config, 0, {}) as recorder:
        loop.run(recorder)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in lines if "train/lr" in record]
    looks = [step // epoch * 3 if update == "aggressive" else 0 for step in range(total)]
    seconds = [8 / 4 + 7, 16 / 4 + 14 + looks[15], 24 / 4 + 21 + looks[23]]
    assert [r["time/seconds"] for r in lines if "val/elbo" in r] == seconds
    assert shown == [
        (f"{step:>7}/24", config.schedule(step - 1, total), taken / step * (total - step))
        for step, taken in zip((8, 16, 24), seconds, strict=True)
    ]
    saved = checkpoint.load(tmp_path / "checkpoint_previous.pt")
    assert (saved["step"], saved["seconds"]) == (20, 20 / 4 + 14 + looks[19])
    wanted = [(config.schedule(step, total), config.lr(step, total, epoch)) for step in range(total)]
    assert len({beta for beta, _ in wanted}) == total
    assert len({lr for _, lr in wanted[3:]}) == (-(-total // epoch) if per == "epoch" else total // 2)
    assert [(record["train/beta"], record["train/lr"]) for record in records] == wanted
    for step, (record, parts) in enumerate(zip(records, updates, strict=True)):
        assert {(beta, lr) for beta, lr, _ in parts} == {wanted[step]}  # those of the encoder alone, too
        assert record["train/grad_norm"] == pytest.approx(parts[-1][2])
        tokens = task.batches["train"].at(step).counted.sum().item()
        assert record["time/tokens_per_second"] == pytest.approx(tokens / 0.25)


def test_the_speed_is_that_of_the_steps_whatever_is_measured_between_two_records(
    tmp_path, monkeypatch, configured
):
    config, clock = configured(*AGGRESSIVE, "train.log_every=7"), [100.0]
    task, advance = prepare(config), Loop._advance

    def taking(seconds: float, work):
        return lambda *given: (work(*given), clock.append(clock.pop() + seconds))[0]

    monkeypatch.setattr("cvae.training.state.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Loop, "_advance", taking(0.25, advance))
    monkeypatch.setattr(task, "evaluate", taking(7, task.evaluate))  # after 8, 16 and 24 updates
    monkeypatch.setattr(task, "mutual_information", taking(3, lambda split: 0.5))  # after 9 and 18
    loop = Loop(config, task, RunFolder(tmp_path))
    with Logger(RunFolder(tmp_path), config, 0, {}) as recorder:
        loop.run(recorder)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    speeds = {r["step"]: r["time/tokens_per_second"] for r in lines if "train/lr" in r}
    tokens = [task.batches["train"].at(step).counted.sum().item() for step in range(24)]
    parts = {0: (0, 1), 7: (1, 8), 14: (8, 15), 21: (15, 22), 23: (22, 24)}
    wanted = {last: sum(tokens[a:b]) / (b - a) / 0.25 for last, (a, b) in parts.items()}
    assert speeds == pytest.approx(wanted)


def test_what_a_run_knows_of_itself_is_taken_up_again(tmp_path, configured, monkeypatch):
    config, advance, clock = configured(*TOY, "train.stop_after=25"), Loop._advance, [100.0]
    monkeypatch.setattr("cvae.training.state.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Loop, "_advance", lambda loop: advance(loop) or clock.append(clock.pop() + 0.25))
    run(config, RunFolder(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    elbos = [record["val/elbo"] for record in records if "val/elbo" in record]
    loop = Loop(config, prepare(config), RunFolder(tmp_path))
    assert loop.resume()[0] == loop.state.step == 25
    assert loop.state.scores == [-elbo for elbo in elbos] and loop.state.best == min(loop.state.scores)
    assert loop.state.seconds == 25 / 4  # those since the last record, too


def test_of_equal_validations_the_first_is_the_best(tmp_path, monkeypatch, configured):
    monkeypatch.setattr(LanguageTask, "score", lambda self, found: 1.0)
    run(configured(*TOY, "train.stop_after=20", "train.save_every=null"), RunFolder(tmp_path))
    steps = [checkpoint.load(tmp_path / f"checkpoint_{name}.pt")["step"] for name in ("best", "previous")]
    assert steps == [10, 10]  # and it is saved at validations only


def test_the_seed_decides_the_weights_and_the_order_of_the_batches(configured):
    torch.manual_seed(77)
    tasks = [prepare(configured(*DIALOG, f"seed={seed}")) for seed in (1, 1, 2)]
    weights = [task.model.decoder.weight_hh_l0 for task in tasks]
    drawn = [[task.batches["train"].drawn(step).tolist() for step in range(5)] for task in tasks]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert drawn[0] == drawn[1] != drawn[2]


def test_recorded_numbers_fit_together(whole):
    results = RunFolder(whole["tiny"]).results
    tokens = results["data/train/tokens"] / results["data/train/sentences"]
    for record in outcome(whole["tiny"])["metrics"]:
        if "epoch/ppl" in record:  # a validation follows a whole epoch
            nats = record["epoch/rec"] + record["epoch/kl"]
            assert record["epoch/ppl"] == pytest.approx(math.exp(nats / tokens))
        for split in ("train", "val", "test"):
            if f"{split}/elbo" in record:
                parts = record[f"{split}/rec"] + record[f"{split}/kl"]
                assert record[f"{split}/elbo"] == pytest.approx(-parts)
    for name in ("tiny", "dialog"):
        for record in outcome(whole[name])["metrics"]:
            if record["step"] == 0 and "train/loss" in record:
                wanted = record["train/rec"] + record["train/beta"] * record["train/kl"]
                assert record["train/loss"] == pytest.approx(wanted + record.get("train/bow", 0.0))


def test_an_autoencoder_has_no_bound(whole):
    found = outcome(whole["autoencoder"])
    keys = set(found["results"]).union(*found["metrics"])
    assert not {key for key in keys if key.split("/")[-1] in ("elbo", "kl", "ppl", "mi")}
    assert found["results"]["objective"] == found["results"]["val/rec"]


def test_the_folder_holds_what_repeats_the_run(whole, configured):
    folder = whole["tiny"]
    about = json.loads((folder / "run.json").read_text())
    assert about["config"] == configured(*TINY).container
    assert set(about["data"]) == {"train", "val", "test"}
    # PyPI's wheels name their build, as in 2.13.0+cu130, in torch only
    assert about["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    packages = {"numpy", "hydra-core", "datasets", "scikit-learn", "sacrebleu"}
    assert {"python", "cvae", *packages} <= about["versions"].keys()
    assert about["git"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", about["git"])
    assert (folder / "curves.png").stat().st_size > 10_000
    log, results = (folder / "train.log").read_text(), RunFolder(folder).results
    assert log.count("best checkpoint") == 2
    for split in ("val", "test"):
        names = ("rec", "kl", "ppl", "iw_ppl", "mi", "au", "path_a")
        said = " ".join(f"{name} {results[f'{split}/{name}']:.5g}" for name in names)
        assert log.count(f" best checkpoint | {split} {said}\n") == 1
    assert (folder / "vocabulary.txt").read_text().splitlines()[:4] == ["<pad>", "<unk>", "<s>", "</s>"]


def test_what_hydra_composed_lies_beside_the_run(tmp_path, configured, monkeypatch):
    monkeypatch.setattr("cvae.training.run._train", lambda *_: 0.0)
    composition = {"config.yaml": "seed: 0\n", "overrides.yaml": "- task=toy\n"}
    run(configured(*TOY), RunFolder(tmp_path), composition=composition)
    assert {path.name: path.read_text() for path in (tmp_path / ".hydra").iterdir()} == composition
    words = tmp_path / "vocabulary.txt"
    known = words.read_text()
    words.unlink()
    (tmp_path / "checkpoint_last.pt").touch()  # it goes on, by another command
    composition["overrides.yaml"] += "- train.progress=false\n"
    run(configured(*TOY), RunFolder(tmp_path), composition=composition)
    assert {path.name: path.read_text() for path in (tmp_path / ".hydra").iterdir()} == composition
    assert words.read_text() == known


def test_other_keys_are_refused_and_the_folder_stays_as_it_was(whole, configured):
    before = {path: path.read_bytes() for path in whole["toy"].rglob("*") if path.is_file()}
    with pytest.raises(
        FolderError, match=r"schedule.cycles is 4 there and 3 here; seed is 0 there and 1 here"
    ):
        refuse_other_run(RunFolder(whole["toy"]), configured(*TOY, "seed=1", "schedule.cycles=3"))
    assert before == {path: path.read_bytes() for path in whole["toy"].rglob("*") if path.is_file()}


def test_overwrite_starts_anew(tmp_path, configured):
    (tmp_path / "notes.md").write_text("mine")
    others = ("classifier.jsonl", "map.jsonl", "accuracy.md", "projector_means.tsv", "diverged.json", "a.png")
    others += ("tokenizer.json", "pretrained.json", "samples.md", "results.json.1.tmp", ".hydra/config.yaml")
    (tmp_path / ".hydra").mkdir()
    for name in others:  # of a run of another kind, that was here
        (tmp_path / name).write_text("{")
    run(configured(*TOY, "train.stop_after=12"), RunFolder(tmp_path))
    run(configured(*TOY, "train.stop_after=3", "seed=5", "overwrite=true"), RunFolder(tmp_path))
    assert RunFolder(tmp_path).record["config"]["seed"] == 5
    assert not [name for name in ("checkpoint_best.pt", *others) if (tmp_path / name).exists()]
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert max(steps[-1] for steps in board(tmp_path).values()) <= 3
    assert re.findall("going to .* of", (tmp_path / "train.log").read_text()) == ["going to 3 of"]


def test_a_folder_is_cleared_of_all_that_runs_leave_and_of_nothing_else(tmp_path):
    leave = "error.txt run.json results.json diverged.json vocabulary.txt samples.md accuracy.md train.log"
    leave += " metrics.jsonl checkpoint_previous.pt events.out.tfevents.1.a projector_config.pbtxt map.png"
    leave += " tokenizer.json pretrained.json tracker.json run.json.tmp"
    mine = {"notes.md", "data.json", "weights.pt", "table.txt", "log"}
    for name in (*leave.split(), *mine):
        (tmp_path / name).touch()
    below = tmp_path / "seed-1" / "run.json"  # of another run
    below.parent.mkdir()
    below.touch()
    RunFolder(tmp_path).clear()
    assert {path.name for path in tmp_path.iterdir()} == mine | {"seed-1"} and below.exists()


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_no_obstacle(tmp_path):
    hold = "with RunFolder(sys.argv[1]).held(): print('held', flush=True); input()"
    program = [
        sys.executable,
        "-c",
        f"import sys\nfrom cvae.runs.folder import RunFolder\n{hold}",
        str(tmp_path),
    ]
    other = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    said = f"^{tmp_path} is being written by another process$"
    with pytest.raises(FolderError, match=said), RunFolder(tmp_path).held():
        pass
    other.kill()
    other.communicate()
    with RunFolder(tmp_path).held():
        pass


def test_another_configuration_is_refused_even_past_the_command_line(tmp_path, configured):
    run(configured(*TOY, "train.stop_after=6"), RunFolder(tmp_path))
    with pytest.raises(FolderError, match="seed is 0 there and 7 here"):
        run(configured(*TOY, "seed=7"), RunFolder(tmp_path))


def test_a_refused_start_leaves_the_lock_of_the_run_that_holds_the_folder(tmp_path, configured):
    folder = RunFolder(tmp_path / "run")
    with folder.held():
        discard_if_empty(folder)
        said = f"^{folder.path} is being written by another process$"
        with pytest.raises(FolderError, match=said), RunFolder(folder.path).held():
            pass


def test_records_that_were_changed_are_refused_by_line(tmp_path, configured):
    run(configured(*TOY, "train.stop_after=12"), RunFolder(tmp_path))
    path = tmp_path / "metrics.jsonl"
    size = len(content := path.read_bytes())
    path.write_bytes(content[:30] + b"\n" + b"x" * (size - 31))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: not JSON"):
        run(configured(*TOY), RunFolder(tmp_path))


def test_a_split_measured_at_each_validation_keeps_its_own_scalars(tmp_path, configured):
    run(configured(*SHORT, "train.validate_on=[val,test]"), RunFolder(tmp_path))
    read = board(tmp_path)
    assert read["test/elbo"] == read["val/elbo"] == [8, 16, 24]
    assert read["best/test/elbo"] == [24]
    *records, last = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert last["best/test/elbo"] == RunFolder(tmp_path).results["test/elbo"]
    elbos = [(record["val/elbo"], record["test/elbo"]) for record in records if "val/elbo" in record]
    assert all(val != test for val, test in elbos)  # and it is val that decides
    assert checkpoint.load(tmp_path / "checkpoint_last.pt")["scores"] == [-val for val, _ in elbos]


@pytest.mark.parametrize("name", ["elbo", "rec", "kl", "refined_kl", "bow"])
def test_a_bound_that_is_not_finite_stops_the_run_in_a_sentence(name, tmp_path, monkeypatch, configured):
    found = {"elbo": -1e9, "rec": 1e9, name: float("inf")}
    monkeypatch.setattr(LanguageTask, "validation_metrics", lambda self, split, terms, q: found)
    with pytest.raises(Diverged, match=f"^val/{name} is inf after 10 updates in {re.escape(str(tmp_path))}$"):
        run(configured(*TOY), RunFolder(tmp_path))


@pytest.fixture(scope="module")
def overflown(tmp_path_factory, configured) -> Path:
    """A sound run whose KL, 10,000 nats a sequence of 11 tokens at β = 0, overflows every perplexity."""
    folder, real = tmp_path_factory.mktemp("overflown"), LanguageTask.__init__

    def far(task, config, model, data):
        real(task, config, model, data)
        with torch.no_grad():
            model.encoder.mean.bias.fill_(100.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageTask, "__init__", far)
        for stop in ("null", "14"):
            own = (*TOY, "schedule=constant", "schedule.stop=0", f"train.stop_after={stop}")
            run(configured(*own), RunFolder(folder / f"until {stop}"))
        run(configured(*own[:-1]), RunFolder(folder / f"until {stop}"))
    return folder


def test_a_perplexity_that_overflows_is_null_and_ends_nothing(overflown):
    whole, continued = overflown / "until null", overflown / "until 14"
    results = json.loads((whole / "results.json").read_text())
    assert results["finished"] and results["val/kl"] > 9e3
    names = ("val/ppl", "val/iw_ppl", "test/ppl", "test/iw_ppl")
    assert [results[name] for name in names] == [None] * 4
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if "val/kl" in record]
    assert [(record["val/ppl"], record["epoch/ppl"]) for record in validated] == [(None, None)] * 4
    read = board(whole)
    assert read["val/kl"] == [10, 20, 30, 40] and not any("ppl" in tag for tag in read)
    assert (
        "| val rec" in (whole / "train.log").read_text() and " ppl inf" in (whole / "train.log").read_text()
    )
    assert outcome(continued) == outcome(whole) and board(continued) == read


def test_what_reads_records_copes_with_a_perplexity_of_null(overflown, tmp_path, capsys):
    def said(name: str, *arguments: str) -> str:
        assert script(name).main([*map(str, arguments)]) == 0
        return capsys.readouterr().out

    whole = overflown / "until null"
    found = json.loads(said("evaluate", whole), parse_constant=pytest.fail)
    assert found["test/ppl"] is None and found["test/kl"] > 9e3
    table = ["--columns", "test/ppl", "test/kl"]
    assert "| 1 | ∞ | 10" in said("table", whole, *table)
    assert r"1 & $\infty$ & 10" in said("table", whole, *table, "--format", "latex")
    assert ",inf,,10" in said("table", whole, *table, "--format", "csv")
    assert "| ∞ | ∞ |" in said("table", whole, "--at", 10, 40, "--columns", "val/ppl")
    said("publish", overflown, "--to", tmp_path)
    assert "| 1 | ∞ | 10" in said("table", tmp_path / overflown.name / "until null", *table)
    assert said("report", whole, "--to", tmp_path / "report.html")
    assert said("status", overflown).startswith("2 runs: 2 done")


def test_other_data_are_refused(whole, configured):
    folder = RunFolder(whole["toy"])
    with pytest.raises(FolderError, match="other data: train changed"):
        describe(folder, configured(*TOY), "", folder.record["data"] | {"train": "0" * 64})


def test_another_thread_count_is_warned_about(tmp_path, configured):
    run(configured(*TOY, "train.stop_after=6"), RunFolder(tmp_path))
    path = tmp_path / "checkpoint_last.pt"
    content = checkpoint.load(path)
    older = {key: content[key] for key in content.keys() - {"processes", "update", "scores"}}
    checkpoint.save(path, older | {"arithmetic": "77 threads on cpu"})
    run(configured(*TOY, "train.stop_after=12"), RunFolder(tmp_path))
    (said,) = re.findall(" warning: 77 threads on cpu before, .*", (tmp_path / "train.log").read_text())
    assert said.endswith(" now: numbers will differ in their last digits")


@pytest.mark.parametrize("what", ["rec", "gradient norm", "weights"])
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    what, tmp_path, monkeypatch, configured
):
    original = Loop._advance

    def poisoned(self):
        weights = next(iter(self.task.model.parameters()))
        if self.state.step == 15 and what == "rec":
            weights.data.fill_(float("nan"))
        if self.state.step == 15 and what == "gradient norm":
            weights.register_hook(lambda gradient: gradient * float("inf"))
        original(self)
        if self.state.step == 18 and what == "weights":
            weights.data.view(-1)[-1] = float("inf")

    monkeypatch.setattr(Loop, "_advance", poisoned)
    said = {
        "rec": r"^rec is nan at step 15 \(β = 1, lr = 0.0001\)",
        "gradient norm": r"^gradient norm is (inf|nan) at step 15 ",
        "weights": r"^encoder\.\S+ is not finite after 18 updates",
    }
    with pytest.raises(Diverged, match=said[what]):
        run(configured(*TOY), RunFolder(tmp_path))
    saved = checkpoint.load(tmp_path / "checkpoint_last.pt")
    assert saved["step"] == 12
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())
    assert str(tmp_path) in (tmp_path / "train.log").read_text()
    if what != "weights":
        kept = json.loads((tmp_path / "diverged.json").read_text())
        assert kept["step"] == 15 and kept["cause"] == what and len(kept["sentences"]) == 10


def test_the_sentences_that_are_kept_are_those_of_the_step_that_diverged(tmp_path, configured):
    task = prepare(configured(*DEBUG))
    batches = task.batches["train"]
    assert task.words(batches.at(4)) != task.words(batches.at(5)) != task.words(batches.at(6))
    said = r"^rec is nan at step 5 \(β = 0.2, lr = 0.3\): .*; a smaller lr\.value or train\.clip may help$"
    with pytest.raises(Diverged, match=said):
        check_step(5, {"kl": 1.5, "rec": math.nan}, lambda step: (0.2, 0.3), task, RunFolder(tmp_path))
    about = {"step": 5, "beta": 0.2, "lr": 0.3, "cause": "rec", "kl": "1.5", "rec": "nan"}
    kept = json.loads((tmp_path / "diverged.json").read_text())
    assert kept == about | {"sentences": task.words(batches.at(5))}


USELESS = "is not a usable checkpoint: "
OTHERS = f"; this is cvae {cvae.__version__}"
DAMAGES = {
    "truncated": USELESS + "File is not a zip file",
    "flipped": USELESS + "archive/data/0 does not match its checksum",
    "deflated": USELESS + "a does not match its checksum",
    "unknown": USELESS + "That compression method is not supported",
    "foreign": USELESS + "File is not a zip file",
    "malicious": USELESS + "it holds other things than weights and plain values",
    "format": "was written in another format, by cvae 7.1" + OTHERS,
    "nameless": "was written in another format, by cvae ?" + OTHERS,
    "list": "was written in another format, by cvae ?" + OTHERS,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_refused_in_a_sentence_and_nothing_is_executed(damage, tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    checkpoint.save(path, {"weights": torch.arange(4000.0)})
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage in ("deflated", "unknown"):  # as other programs pack
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", bytes(range(256)) * 9)
        content = bytearray(path.read_bytes())
        places = [40] if damage == "deflated" else [8, content.index(b"PK\1\2") + 10]
        for place in places:  # a byte of what is packed, or the way it is
            content[place] ^= 0x5F
        path.write_bytes(content)
    elif damage == "foreign":
        path.write_bytes(b"not a checkpoint")
    elif damage == "format":
        torch.save({"format": 99, "version": "7.1"}, path)
    elif damage == "nameless":
        torch.save({"format": 99}, path)
    elif damage == "list":
        torch.save([1, 2], path)
    else:

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        torch.save({"format": 1, "trap": Trap()}, path)
    with pytest.raises(checkpoint.CheckpointError) as refused:
        checkpoint.load(path)
    assert str(refused.value) == f"{path} {DAMAGES[damage]}"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damaged", ["checkpoint_last.pt", "both", "gone"])
def test_the_previous_checkpoint_stands_in_for_a_damaged_one(damaged, tmp_path, configured, whole):
    run(configured(*TOY, "train.stop_after=15"), RunFolder(tmp_path))
    steps = [checkpoint.load(tmp_path / f"checkpoint_{name}.pt")["step"] for name in ("previous", "last")]
    assert steps == [12, 15]
    if damaged == "gone":
        (tmp_path / "checkpoint_last.pt").unlink()
    for name in ("last", "previous") if damaged == "both" else ("last",) if damaged != "gone" else ():
        path = tmp_path / f"checkpoint_{name}.pt"
        path.write_bytes(path.read_bytes()[:1000])
    if damaged == "both":
        with pytest.raises(checkpoint.CheckpointError, match=r"_last\.pt is not a usable checkpoint"):
            run(configured(*TOY), RunFolder(tmp_path))
        return
    run(configured(*TOY), RunFolder(tmp_path))
    said = (tmp_path / "train.log").read_text()
    assert ("continuing from checkpoint_previous.pt, step 12" in said) == (damaged != "gone")
    assert outcome(tmp_path) == outcome(whole["toy"])


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 2.2 MB: less than three checkpoints."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def refused(config: Config, folder: Path) -> str:
    """The sentence that ends a run."""
    with pytest.raises(FolderError) as error:
        run(config, RunFolder(folder))
    assert str(error.value).startswith(f"{folder} cannot be written: ")
    assert "\n" not in str(error.value) and "[Errno" not in str(error.value)
    return str(error.value)


def test_a_full_disk_leaves_the_last_checkpoint_to_go_on_from(small_disk, configured, whole):
    folder = small_disk / "run"
    assert "No space left on device; checkpoint_last.pt is intact" in refused(configured(*TOY), folder)
    assert checkpoint.load(folder / "checkpoint_last.pt")["step"] >= 6
    assert not list(folder.glob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    run(configured(*TOY), RunFolder(folder))
    assert outcome(folder) == outcome(whole["toy"])


def test_a_limit_of_file_sizes_leaves_the_last_checkpoint_to_go_on_from(tmp_path, configured, whole):
    folder, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    run(configured(*TOY, "train.stop_after=13"), RunFolder(folder))
    resource.setrlimit(
        resource.RLIMIT_FSIZE, ((folder / "checkpoint_last.pt").stat().st_size // 2, before[1])
    )
    try:
        said = refused(configured(*TOY), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "checkpoint_last.pt is intact" in said
    assert checkpoint.load(folder / "checkpoint_last.pt")["step"] == 13
    run(configured(*TOY), RunFolder(folder))
    assert outcome(folder) == outcome(whole["toy"])


KEPT = {
    (): "nothing is saved",
    ("previous",): "checkpoint_previous.pt is intact: the same command continues from it",
    ("last", "previous"): "checkpoint_last.pt is intact: the same command continues from it",
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left", "a/b.pt"), "a/b.pt: No space left"),
        (OSError(28, "No space left"), "No space left"),
        (OSError("something odd"), "something odd"),
    ],
)
def test_an_error_of_the_disk_is_a_sentence_about_what_is_saved(error, said, kept, tmp_path):
    for name in kept:
        (tmp_path / f"checkpoint_{name}.pt").touch()
    with pytest.raises(FolderError) as caught, disk_errors(RunFolder(tmp_path)):
        raise error
    assert str(caught.value) == f"{tmp_path} cannot be written: {said}; {KEPT[kept]}"


def test_other_threads_are_quiet_about_the_disk_and_nothing_else(tmp_path, monkeypatch):
    def fail(kind: type[Exception]) -> None:
        raise kind

    seen = []
    monkeypatch.setattr(threading, "excepthook", hook := lambda args: seen.append(args.exc_type))
    with disk_errors(RunFolder(tmp_path)):
        for kind in (OSError, FileNotFoundError, KeyError):
            (thread := threading.Thread(target=fail, args=(kind,))).start()
            thread.join()
    assert seen == [KeyError] and threading.excepthook is hook


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("log_every", [1, 7])  # a record is due before the next validation, or none
def test_a_folder_that_is_deleted_or_replaced_ends_the_run(
    log_every, replaced, tmp_path, monkeypatch, configured, whole
):
    original, folder, write = Loop._advance, tmp_path / "run", RecordWriter.write

    def slowly(self, data):  # TensorBoard's thread on a busy machine
        time.sleep(0.002)
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", slowly)

    def losing(self):
        original(self)
        if self.state.step == 9:
            shutil.rmtree(folder)
            if replaced:
                shutil.copytree(whole["autoencoder"], folder)

    monkeypatch.setattr(Loop, "_advance", losing)
    config = configured(*TOY, f"train.log_every={log_every}")
    assert refused(config, folder).endswith("since this run began; nothing is saved")
    assert folder.exists() == replaced
    if replaced:
        other = {path.name: path.read_bytes() for path in whole["autoencoder"].iterdir() if path.is_file()}
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == other


def test_a_disk_that_is_full_does_not_hide_what_ended_the_run(tmp_path, monkeypatch, configured):
    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Loop, "run", lambda self, recorder: 1 / 0)
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.close", full)
    monkeypatch.setattr("logging.FileHandler.close", full)
    with pytest.raises(ZeroDivisionError):
        run(configured(*TOY), RunFolder(tmp_path / "run"))
    assert RunFolder(tmp_path / "run").error.startswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "/run cannot be written: File exists"),
        ("train.log", "/run/train.log: Is a directory; nothing is saved"),
        (".lock", "/run cannot be written: Is a directory"),
        ("error.txt", ""),  # the run itself does not need it
        ("checkpoint_last.pt.tmp", "/run/checkpoint_last.pt.tmp: Is a directory; nothing is saved"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_told(name, why, tmp_path, configured):
    folder = tmp_path / "run"
    if name:
        (folder / name).mkdir(parents=True)
    else:
        folder.write_text("a file")
    if why:
        assert refused(configured(*TOY), folder).endswith(f"{tmp_path}{why}")
    else:
        run(configured(*TOY, "train.stop_after=1"), RunFolder(folder))


def test_a_folder_that_cannot_be_made_is_refused_and_none_is_made(tmp_path, monkeypatch):
    """Another process of the run, or another job of the sweep, may be making it at the same time."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: 1 / 0)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, why in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / "link" / "run", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a" / ("x" * 300) / "run", "File name too long"),
    ):
        with pytest.raises(FolderError, match=f"{path.name} cannot be made: {why}$"):
            refuse_impossible(RunFolder(path))
    for path in (tmp_path, tmp_path / "a" / "b"):
        refuse_impossible(RunFolder(path))
    for denied in (os.W_OK, os.X_OK):
        monkeypatch.setattr(
            os, "access", lambda place, asked, denied=denied: place != tmp_path or not asked & denied
        )
        refuse_impossible(RunFolder(tmp_path))
        with pytest.raises(FolderError, match="cannot be made: Permission denied"):
            refuse_impossible(RunFolder(tmp_path / "a" / "b"))


def foreign(last: dict, other: Config) -> Iterator[tuple[dict, str]]:
    """Whole checkpoints that are not of this run, and what is said of them."""
    yield {"step": 9, "config": last["config"], "model": last["model"]}, "has weights only"
    yield {}, "is of another run"
    yield last | {"config": other.container}, "is of another run"
    yield last | {"model": {}}, "has the weights of another model: Missing key"
    yield last | {"model": {k: v[:1] for k, v in last["model"].items()}}, "another model: size mismatch"
    yield last | {"model": "weights"}, "has the weights of another model: Expected state_dict"
    yield last | {"model": dict(enumerate(last["model"].values()))}, "has the weights of another model: "


def test_a_checkpoint_of_another_run_is_refused_and_the_previous_one_used(tmp_path, configured, whole):
    config, last = configured(*TOY), tmp_path / "checkpoint_last.pt"
    run(configured(*TOY, "train.stop_after=15"), RunFolder(tmp_path))
    good = {path: path.read_bytes() for path in tmp_path.glob("checkpoint_*")}
    for content, sentence in foreign(checkpoint.load(last), configured(*TOY, "seed=3")):
        for name in ("last", "previous"):
            checkpoint.save(tmp_path / f"checkpoint_{name}.pt", content)
        with pytest.raises(checkpoint.CheckpointError, match=sentence):
            run(config, RunFolder(tmp_path))
    for path in (tmp_path / "checkpoint_previous.pt", tmp_path / "checkpoint_best.pt"):
        path.write_bytes(good[path])
    shutil.copyfile(tmp_path / "checkpoint_best.pt", last)
    run(config, RunFolder(tmp_path))
    assert (
        f"warning: {last} has weights only: training cannot continue from it;"
        " continuing from checkpoint_previous.pt, step 12\n" in (tmp_path / "train.log").read_text()
    )
    assert outcome(tmp_path) == outcome(whole["toy"])
    checkpoint.save(tmp_path / "checkpoint_best.pt", {"config": config.container, "model": {}})
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        reopen(config, RunFolder(tmp_path), "best")
    another = checkpoint.load(last) | {"config": configured(*TOY, "seed=3").container}
    checkpoint.save(tmp_path / "checkpoint_best.pt", another)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint_best.pt is of another run"):
        reopen(config, RunFolder(tmp_path), "best")


def test_seed_0_is_a_seed(tmp_path, configured, whole):
    torch.manual_seed(77)
    for seed in (0, 1):
        run(configured(*TOY, f"seed={seed}", "train.stop_after=10"), RunFolder(tmp_path / str(seed)))
    records = {
        name: [without_time(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for name, folder in (("0", tmp_path / "0"), ("1", tmp_path / "1"), ("whole", whole["toy"]))
    }
    assert records["0"][:3] == records["whole"][:3]
    assert records["0"] != records["1"]


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint_last.pt"
    checkpoint.save(path, {"value": 1})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"value": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["value"] == 1
    assert torch.load(path)["format"] == 1  # as the checkpoints that there are


def test_records_shorter_than_the_checkpoint_knows_are_refused(tmp_path, configured):
    run(configured(*TOY, "train.stop_after=12"), RunFolder(tmp_path))
    path = tmp_path / "metrics.jsonl"
    size = path.stat().st_size
    path.write_text("{}\n")
    said = (
        f"{path} has 3 bytes, its checkpoint knows {size}: it cannot be continued; overwrite=true starts anew"
    )
    with pytest.raises(FolderError, match=f"^{re.escape(said)}$"):
        run(configured(*TOY), RunFolder(tmp_path))


def test_the_gpu_is_asked_for_in_vain_in_a_sentence(tmp_path, configured):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="device=cuda: no GPU"):
        run(configured(*TOY, "device=cuda"), RunFolder(tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()


def test_curves_have_a_layout(whole):
    from tensorboard.plugins.custom_scalar import layout_pb2

    events = EventAccumulator(str(whole["tiny"]))
    events.Reload()
    tensors = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout()
    layout.ParseFromString(tensors[0].tensor_proto.string_val[0])
    overlaid = [chart.multiline.tag for category in layout.category for chart in category.chart]
    assert [" ".join(tags) for tags in overlaid] == [
        *("train/elbo val/elbo", "train/rec val/rec", "train/kl val/kl", "train/kl train/beta", "train/beta"),
        "train/elbo train/rec train/kl train/beta",
        *("val/path_a val/path_a_prior", "val/path_b", "val/path_a val/mi train/beta", "val/au"),
    ]
    assert {tag for tags in overlaid for tag in tags} <= set(events.Tags()["tensors"])


@pytest.mark.parametrize("name", ["tiny", "toy", "autoencoder"])  # which report the best and the last
def test_hparams_have_values_and_the_columns_of_every_run(name, whole):
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.plugins.hparams.api_pb2 import DataType

    events = EventAccumulator(str(whole[name]))
    events.Reload()
    start = plugin_data_pb2.HParamsPluginData()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start.ParseFromString(content)
    schedule = "none" if name == "autoencoder" else "cyclical"
    values = start.session_start_info.hparams
    assert values["schedule.name"].string_value == schedule
    assert values["train.batch_size"].number_value == (8 if name == "tiny" else 10)
    assert "None" not in {value.string_value for value in values.values()}  # what is not set has no column
    experiment = plugin_data_pb2.HParamsPluginData()
    experiment.ParseFromString(events.summary_metadata["_hparams_/experiment"].plugin_data.content)
    assert {info.name for info in experiment.experiment.hparam_infos if info.differs} == {
        *("schedule.name", "schedule.cycles", "schedule.ratio", "lr.name", "seed")
    }
    kinds = {info.name: DataType.Name(info.type) for info in experiment.experiment.hparam_infos}
    assert kinds["schedule.name"] == kinds["lr.name"] == kinds["seed"] == "DATA_TYPE_STRING"
    assert kinds["schedule.cycles"] == "DATA_TYPE_FLOAT64"
    shown = {info.name.tag for info in experiment.experiment.metric_infos}
    which = "best" if name == "tiny" else "last"
    bounds = itertools.product(("val", "test"), ("elbo", "rec", "kl", "ppl"))
    assert shown == {f"{which}/{split}/{bound}" for split, bound in bounds}
    unknown = {tag.rpartition("/")[2] for tag in shown - set(events.Tags()["tensors"])}
    assert unknown == ({"elbo", "kl", "ppl"} if name == "autoencoder" else set())
    assert {info.display_name for info in experiment.experiment.metric_infos} == shown


def test_an_autoencoder_is_evaluated_without_a_likelihood(whole, capsys):
    assert script("evaluate").main([str(whole["autoencoder"])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "test/rec" in found and "test/iw_ppl" not in found


def test_what_hydra_made_for_a_refused_run_is_removed_with_two_empty_folders_above_it(tmp_path):
    folder = tmp_path / "kept" / "outputs" / "name" / "run"
    folder.mkdir(parents=True)
    discard_if_empty(RunFolder(folder))
    assert (tmp_path / "kept").is_dir() and not (tmp_path / "kept" / "outputs").exists()


@pytest.mark.parametrize("ends_by", [None, KeyError])
def test_a_board_that_cannot_be_closed_is_an_error_unless_another_ends_the_run(
    ends_by, tmp_path, configured, monkeypatch
):
    def full() -> None:
        raise OSError("No space left on device")

    with pytest.raises(ends_by or OSError), Logger(RunFolder(tmp_path), configured(*TOY), 0, {}) as recorder:
        monkeypatch.setattr(recorder.board, "close", full)
        if ends_by:
            raise ends_by


@pytest.mark.parametrize("schedule", ["cyclical", "none"])
def test_a_plane_is_shown_of_codes_of_two_numbers_and_pictures_at_half_their_size(
    schedule, tmp_path, configured, monkeypatch
):
    drawn, shown = [], []
    monkeypatch.setattr(figures, "plane_picture", lambda *given: drawn.append(given) or "a plane")
    config = configured(*TOY, f"schedule={schedule}")
    Image.new("RGBA", (8, 6)).save(tmp_path / "a.png")
    with Logger(RunFolder(tmp_path), config, 0, {}) as recorder:
        monkeypatch.setattr(recorder.board, "add_image", lambda *given, dataformats: shown.append(given))
        for size in (1, 2, 3):
            codes = [[0.5] * size] * 4
            recorder.append("latents.jsonl", {"step": size, "mean": codes, "logvar": codes, "label": [0] * 4})
        recorder.picture("a", tmp_path / "a.png", 9)
    ((snapshot, step, exact),) = drawn
    assert snapshot.mean.shape == (4, 2) and (step, exact) == (2, schedule == "none")
    plane, (tag, pixels, at) = shown
    assert plane == ("latents/plane", "a plane", 2)
    assert (tag, pixels.shape, at) == ("pictures/a", (3, 4, 3), 9)


def test_recorder_writes_null_for_scalars_that_json_has_not_and_refuses_other_such_numbers(
    tmp_path, configured, monkeypatch
):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with Logger(RunFolder(tmp_path), configured(*TOY), 0, {}) as recorder:
        recorder.write(0, {"val/ppl": float("inf"), "val/kl": 1.0})
        with pytest.raises(ValueError, match="JSON"):
            recorder.append("latents.jsonl", {"step": 0, "mean": [[float("nan")]]})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        assert recorder.offsets() == {"metrics.jsonl": size, "latents.jsonl": 0}
        assert synced == [size, 0]  # a checkpoint knows no record that a power cut would lose
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "val/ppl": None, "val/kl": 1.0}
