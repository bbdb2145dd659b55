"""A finished run goes on in another folder, and keeps more of its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cvae.config.schema import Config
from cvae.errors import CheckpointError, FolderError, RunsError
from cvae.runs import continuation
from cvae.runs.folder import RunFolder
from cvae.runs.reader import read_run, refuse_mixture
from cvae.schedules import Rates, Stage
from cvae.tasks.dialog import DialogTask
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint, console
from cvae.training.loop import Loop
from cvae.training.run import reopen, run
from tests.helpers import DEBUG, ROOT, board

TINY = (
    *DEBUG[:-3],
    "train.log_every=8",
    "train.save_every=5",
    "train.validate_every=12",
    "task.iw_samples=0",
    "task.path_sentences=2",
)
PLAIN = (*TINY, "schedule=constant", "lr=constant", "remedy=[word_dropout]")
AGGRESSIVE = (*PLAIN[:-1], "remedy=[aggressive]", "update.window=1", "update.most=3")
CYCLES = (*TINY, "schedule=cyclical", "schedule.cycles=2", "lr=cosine_restarts")
DIALOG = (
    "task=switchboard",
    f"dataset.path={ROOT / 'tests/dialogs'}",
    "dataset.held_out=0.2",
    *(f"model.{key}=4" for key in ("embed", "utterance", "context", "topic", "latent", "prior", "decoder")),
    "model.bow_hidden=4",
    "task.samples=2",
    "task.iw_samples=0",
    "train.batch_size=6",
    "train.validate_every=2",
)
BOTH = ("continue_beta=cycles", "continue_lr=restarts")


@pytest.fixture(autouse=True, scope="module")
def nothing_to_look_at():
    """Generating takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        for task in (LanguageTask, DialogTask):
            patch.setattr(task, "page", lambda self: "")
            patch.setattr(task, "preview", lambda self: "a sentence")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, configured) -> Callable[..., Path]:
    """`finished(*command)` is the folder of that run, made once."""
    folders: dict[tuple[str, ...], Path] = {}

    def make(*command: str) -> Path:
        if command not in folders:
            folders[command] = tmp_path_factory.mktemp("source")
            run(configured(*command), RunFolder(folders[command]), "the first command")
        return folders[command]

    return make


def saved(folder: Path, which: str = "last") -> dict:
    """What training goes on from, without wall-clock time and what the configuration says."""
    content = checkpoint.load(folder / f"checkpoint_{which}.pt")
    return {
        key: content.get(key) for key in ("step", "model", "optimizer", "rng", "best", "scores", "update")
    }


def same(one, other) -> bool:
    """Whether nested containers of tensors and plain values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def records(folder: Path, *without: str) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith(("time/", *without))} for line in lines]


def betas(folder: Path, key: str = "train/beta") -> dict[int, float]:
    return {record["step"]: record[key] for record in records(folder) if key in record}


@pytest.mark.parametrize("command", [PLAIN, AGGRESSIVE], ids=["plain", "aggressive"])
def test_where_the_rates_are_constant_it_is_one_longer_run_bit_for_bit(
    command, finished, tmp_path, configured
):
    source, longer = finished(*command, "train.steps=24"), finished(*command, "train.steps=48")
    for number, steps in enumerate((36, 48)):  # continued, and continued again
        folder = tmp_path / str(number)
        run(configured(*command, f"train.steps={steps}", f"continue_from={source}"), RunFolder(folder))
        source = folder
    assert same(saved(source), saved(longer))
    assert same(saved(source, "best")["model"], saved(longer, "best")["model"])
    val = [record for record in records(source) if "val/elbo" in record]
    assert [record["step"] for record in val] == [12, 24, 36, 48]
    assert val == [record for record in records(longer) if "val/elbo" in record]
    results = [RunFolder(folder).results for folder in (source, longer)]
    assert "nothing changes up to update 36, after it" in results[0]["notes"][-1]
    assert all(r["finished"] and r["updates"] == 48 for r in results)
    assert results[0]["test/elbo"] == results[1]["test/elbo"]


def test_cycles_go_on_or_hold_and_nothing_changes_before(finished, tmp_path, configured):
    command = (*CYCLES, "train.log_every=1", "train.validate_every=24", "train.save_every=24")
    source = finished(*command, "train.steps=24")
    longer = configured(*command, "train.steps=48", "schedule.cycles=4")
    for beta, lr in (("cycles", "restarts"), ("hold", "restarts"), ("cycles", "hold")):
        own = (f"continue_from={source}", f"continue_beta={beta}", f"continue_lr={lr}", "train.steps=48")
        folder = tmp_path / f"{beta}-{lr}"
        run(configured(*command, *own), RunFolder(folder))
        expected = [(longer.schedule(step, 48), longer.lr(step, 48)) for step in range(48)]
        if beta == "hold":
            expected[24:] = [(expected[23][0], rate) for _, rate in expected[24:]]
        if lr == "hold":
            expected[24:] = [(value, expected[23][1]) for value, _ in expected[24:]]
        found = zip(betas(folder).values(), betas(folder, "train/lr").values(), strict=True)
        assert list(betas(folder)) == list(range(48)) and list(found) == expected
        note = RunFolder(folder).results["notes"][-1]
        assert f"continues {source}: nothing changes up to update 24, after it β " in note
        assert ("β goes on in cycles of 12 updates" in note) == (beta == "cycles")
        assert ("β holds at 1 and" in note) == (beta == "hold")
        assert note.endswith("goes on as it was" if lr == "restarts" else f"holds at {expected[23][1]:.4g}")


@pytest.mark.parametrize("how", ["null", "hold"])
def test_a_rate_that_falls_goes_on_falling_unless_it_is_held(how, tmp_path, configured):
    (tmp_path / "results.json").write_text('{"updates": 20, "step": 20}')
    own = ("schedule=constant", "lr=exponential", "lr.every=7")
    config = configured(*TINY, *own, f"continue_from={tmp_path}", f"continue_lr={how}")
    (stage,) = continuation.stages(config)
    rates = Rates(config.schedule, config.lr, 20, 1, (Stage(**stage),))
    assert [rates(step)[1] for step in (19, 30)] == [
        config.lr(step, 20) for step in (19, 30 if how == "null" else 19)
    ]


def test_the_records_are_those_of_both_runs_and_tensorboard_shows_each_once(finished, tmp_path, configured):
    source = finished(*CYCLES, "train.steps=24")
    own = (f"continue_from={source}", *BOTH, "train.steps=40")
    run(configured(*CYCLES, *own, "train.stop_after=30"), RunFolder(tmp_path))
    run(configured(*CYCLES, *own), RunFolder(tmp_path))
    *theirs, of_the_best = records(source)
    assert "best/val/elbo" in of_the_best and records(tmp_path)[: len(theirs)] == theirs
    assert sum("best/val/elbo" in record for record in records(tmp_path)) == 1
    seen = board(tmp_path)
    assert seen["val/elbo"] == [12, 24, 36, 40]
    assert list(betas(tmp_path)) == seen["train/beta"]
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 4
    assert read_run(tmp_path).setting["continue_from"] == "24 updates"
    other = read_run(tmp_path)
    config = {**other.config, "seed": 1, "continue_from": "the run of that seed"}
    other = dataclasses.replace(other, config=config, data={**other.data, "continue_from": "its checkpoint"})
    refuse_mixture([read_run(tmp_path), other])  # seeds fold although each continues a run of its own
    with pytest.raises(RunsError, match="differ in continue_from"):
        refuse_mixture([read_run(tmp_path), dataclasses.replace(other, continues=None)])


def test_the_snapshots_of_a_toy_come_along(finished, tmp_path, configured):
    toy = ("dataset.draws=2", "task.samples=10", "train.validate_every=10")
    source = finished(*toy, "train.steps=20")
    run(configured(*toy, f"continue_from={source}", *BOTH[:1], "train.steps=30"), RunFolder(tmp_path))
    theirs, ours = ((folder / "latents.jsonl").read_text() for folder in (source, tmp_path))
    assert ours.startswith(theirs)
    assert [json.loads(line)["step"] for line in ours.splitlines()] == [10, 20, 30]


def test_a_run_that_is_continued_twice_remembers_both_ends(tmp_path, configured):
    first = {"end": 1, "beta": True, "lr": False}
    RunFolder(tmp_path).write_results({"updates": 36})
    record = {"format": 1, "config": {}, "continues": [first]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    config = configured(*CYCLES, f"continue_from={tmp_path}", "continue_beta=hold", "continue_lr=restarts")
    assert continuation.stages(config) == [first, {"end": 36, "beta": False, "lr": True}]
    (tmp_path / "run.json").write_text(json.dumps(record | {"continues": continuation.stages(config)}))
    rates = continuation.rates(config, RunFolder(tmp_path), 60, 12)
    assert rates.total == 1 and [stage.end for stage in rates.stages] == [1, 36]


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        ({"end": 24}, ".*argument"),
        ({"end": 24, "beta": True, "lr": True, "mi": 1}, ".*argument"),
        *(
            (stage, rf"end is a number of updates.*, found {stage['end']!r}, {stage['beta']}, {stage['lr']}")
            for stage in (
                {"end": "x", "beta": True, "lr": True},
                {"end": None, "beta": True, "lr": True},
                {"end": 0, "beta": True, "lr": True},
                {"end": 24, "beta": 1, "lr": True},
                {"end": 24, "beta": True, "lr": None},
            )
        ),
    ],
)
def test_a_stage_that_cannot_be_read_is_named(stage, wrong, tmp_path, configured):
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "config": {}, "continues": [stage]}))
    with pytest.raises(FolderError, match=rf"^{tmp_path}/run\.json: 'continues' cannot be read: {wrong}"):
        continuation.rates(configured(*CYCLES), RunFolder(tmp_path), 60, 12)


class Crash(Exception):
    """Stands for whatever may end a process."""


@pytest.mark.parametrize(
    ("where", "calls"), [("_advance", 1), ("save", 1), ("_validate", 1), ("_advance", 15)]
)
def test_it_resumes_from_anywhere_when_the_source_is_gone(
    where, calls, finished, tmp_path, monkeypatch, configured
):
    source = shutil.copytree(finished(*CYCLES, "train.steps=24"), tmp_path / "source")
    config = configured(*CYCLES, f"continue_from={source}", *BOTH, "train.steps=44")
    run(config, RunFolder(tmp_path / "whole"))
    original, made = getattr(Loop, where), []

    def crashing(self, *arguments):
        original(self, *arguments)
        made.append(where)
        if len(made) == calls:
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Loop, where, crashing)
        with pytest.raises(Crash):
            run(config, RunFolder(tmp_path / "stopped"))
    shutil.rmtree(source)
    run(config, RunFolder(tmp_path / "stopped"))
    assert same(saved(tmp_path / "stopped"), saved(tmp_path / "whole"))
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")
    with pytest.raises(FolderError, match="is not the folder of a run; where one was continued already"):
        run(dataclasses.replace(config, overwrite=True), RunFolder(tmp_path / "stopped"))
    assert RunFolder(tmp_path / "stopped").finished


def test_a_crash_before_anything_is_saved_starts_again_from_the_source(
    finished, tmp_path, monkeypatch, configured
):
    config = configured(
        *CYCLES, f"continue_from={finished(*CYCLES, 'train.steps=24')}", *BOTH, "train.steps=30"
    )
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", lambda self, logger: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            run(config, RunFolder(tmp_path / "stopped"))
    for name in ("stopped", "whole"):
        run(config, RunFolder(tmp_path / name))
    assert same(saved(tmp_path / "stopped"), saved(tmp_path / "whole"))
    assert records(tmp_path / "stopped") == records(tmp_path / "whole")


def test_the_best_checkpoint_and_its_score_come_along(finished, tmp_path, configured):
    """Nothing later is better here, so that the results are those of the source's best."""
    source = finished(*PLAIN, "train.steps=24")
    config = configured(*PLAIN, f"continue_from={source}", "train.steps=36")
    content = checkpoint.load(source / "checkpoint_last.pt") | {"best": -1e9}
    copy = RunFolder(shutil.copytree(source, tmp_path / "source"))
    checkpoint.save(copy / "checkpoint_last.pt", content)
    run(dataclasses.replace(config, continue_from=str(copy)), RunFolder(tmp_path / "new"))
    assert same(saved(tmp_path / "new", "best")["model"], saved(source, "best")["model"])
    reopen(dataclasses.replace(config, continue_from=str(copy)), RunFolder(tmp_path / "new"), "best")
    theirs, results = RunFolder(source).results, RunFolder(tmp_path / "new").results
    assert results["objective"] == -1e9 and results["test/elbo"] == theirs["test/elbo"]


def broken(source: Path, target: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(source, target)
    change(target)
    return target


def results_of(**values) -> Callable[[Path], object]:
    return lambda folder: RunFolder(folder).write_results(RunFolder(folder).results | values)


@pytest.mark.parametrize(
    ("other", "change", "sentence"),
    [
        ((), shutil.rmtree, "is not the folder of a run; where one was continued already"),
        ((), results_of(finished=False), "is not finished, its own command continues it: the first command"),
        ((), results_of(step=0), "has made no updates that could go on"),
        ((), results_of(updates=None), "has made no updates that could go on"),
        (
            (),
            lambda f: (f / "checkpoint_last.pt").unlink(),
            "cannot go on without checkpoint_last.pt: published",
        ),
        (
            (),
            lambda f: (f / "checkpoint_best.pt").unlink(),
            "cannot go on without checkpoint_best.pt: published",
        ),
        (
            ("train.steps=24",),
            None,
            "has made 24 updates, and this run would end at 24: train.steps, which wins",
        ),
        (("train.steps=null", "train.epochs=1"), None, "has made 24 updates, and this run would end at 22"),
        (("seed=1",), None, "is another run than this: seed is 0 there and 1 here. Only train.* may change"),
        (
            ("model.hidden=9", "lr.value=1"),
            None,
            "lr.value is 0.001 there and 1.0 here; model.hidden is 8 there",
        ),
        (("schedule.stop=0.5",), None, "schedule.stop is 1.0 there and 0.5 here"),
        (("objective.free_bits=1",), None, "objective.free_bits is 0.0 there and 1.0 here"),
        (("dataset.sentences=70",), None, "dataset.sentences is 60 there and 70 here"),
        (("precision=bf16",), None, "precision is 'float32' there and 'bf16' here"),
    ],
)
def test_what_cannot_go_on_is_refused_and_leaves_no_folder(
    other, change, sentence, finished, tmp_path, configured
):
    source = finished(*PLAIN, "train.steps=24")
    if change is not None:
        source = broken(source, tmp_path / "source", change)
    own = (f"continue_from={source}", "train.steps=36", *other)
    with pytest.raises(FolderError, match=re.escape(sentence)) as caught:
        run(configured(*PLAIN, *own), RunFolder(tmp_path / "new"))
    assert str(caught.value).startswith(f"continue_from={source} ") and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_other_data_and_a_source_that_changed_are_refused(finished, tmp_path, configured):
    def changed(folder: Path) -> None:
        record = json.loads((folder / "run.json").read_text())
        record["data"]["val"] = "0"
        (folder / "run.json").write_text(json.dumps(record))

    source = broken(finished(*PLAIN, "train.steps=24"), tmp_path / "source", changed)
    with pytest.raises(FolderError, match="was trained on other data: val changed since"):
        run(configured(*PLAIN, f"continue_from={source}", "train.steps=36"), RunFolder(tmp_path / "new"))
    source = shutil.copytree(finished(*PLAIN, "train.steps=24"), tmp_path / "another")
    config = configured(*PLAIN, f"continue_from={source}", "train.steps=36", "train.stop_after=26")
    run(config, RunFolder(tmp_path / "new"))
    (source / "checkpoint_last.pt").write_bytes(b"another run, later")
    reopen(config, RunFolder(tmp_path / "new"))  # which needs the source no more
    with pytest.raises(FolderError, match="trained on other data: continue_from changed since"):
        run(config, RunFolder(tmp_path / "new"))


def test_a_checkpoint_that_is_none_ends_in_a_sentence(finished, tmp_path, configured):
    source = shutil.copytree(finished(*PLAIN, "train.steps=24"), tmp_path / "source")
    shutil.copyfile(source / "checkpoint_best.pt", source / "checkpoint_last.pt")
    with pytest.raises(
        CheckpointError, match=f"^{source / 'checkpoint_last.pt'} has weights only: training cannot go on$"
    ):
        run(configured(*PLAIN, f"continue_from={source}", "train.steps=36"), RunFolder(tmp_path / "new"))


def test_a_checkpoint_of_another_run_is_not_gone_on_with(finished, tmp_path, configured):
    source = shutil.copytree(finished(*PLAIN, "train.steps=24"), tmp_path / "source")
    other = finished(*PLAIN, "train.steps=24", "seed=1")
    for which in ("last", "best"):
        shutil.copyfile(other / f"checkpoint_{which}.pt", source / f"checkpoint_{which}.pt")
        with pytest.raises(CheckpointError, match=f"checkpoint_{which}.pt is of another run"):
            run(configured(*PLAIN, f"continue_from={source}", "train.steps=36"), RunFolder(tmp_path / which))
        own = finished(*PLAIN, "train.steps=24") / f"checkpoint_{which}.pt"
        shutil.copyfile(own, source / f"checkpoint_{which}.pt")


def test_a_run_that_began_from_another_goes_on_without_it(finished, tmp_path, configured):
    first = finished(*PLAIN, "train.steps=24")
    second = (*PLAIN, "seed=3", "train.steps=12")
    run(configured(*second, f"init_from={first}", "reset_decoder=true"), RunFolder(tmp_path / "second"))
    third = (*second, f"continue_from={tmp_path / 'second'}", "train.steps=20")
    run(configured(*third), RunFolder(tmp_path / "third"))
    assert RunFolder(tmp_path / "third").finished


def test_early_stopping_sees_the_scores_of_before(tmp_path, configured):
    """Out of patience after two validations; a longer patience lets it go on towards the T it had."""
    source = tmp_path / "source"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DialogTask, "test_metrics", lambda self, split, terms: {})
        patch.setattr("cvae.tasks.dialog.GAIN", 0.0)  # no score is ever better
        run(configured(*DIALOG, "train.steps=10", "task.patience=2"), RunFolder(source))
        results = RunFolder(source).results
        assert results["finished"] and (results["step"], results["updates"]) == (4, 10)

        def on(*own: str) -> Config:
            return configured(*DIALOG, f"continue_from={source}", "continue_beta=hold", *own)

        said = (
            f"^continue_from={source} was out of patience after 4 of 10 updates, and this run would stop at"
            " once: a longer task.patience, or null, lets it go on$"
        )
        with pytest.raises(FolderError, match=said):
            run(on("train.steps=20", "task.patience=2"), RunFolder(tmp_path / "new"))
        run(on("train.steps=8", "task.patience=3", "train.log_every=1"), RunFolder(tmp_path / "new"))
        config = configured(*DIALOG)
        shutil.copyfile(source / "checkpoint_best.pt", source / "checkpoint_last.pt")  # which has no scores
        with pytest.raises(
            CheckpointError, match=r"checkpoint_last\.pt has weights only: training cannot go"
        ):
            run(on("train.steps=8", "task.patience=3"), RunFolder(tmp_path / "another"))
    assert RunFolder(tmp_path / "new").results["step"] == 6
    assert {step: config.schedule(step, 10) for step in range(4, 6)}.items() <= betas(
        tmp_path / "new"
    ).items()


def test_the_time_left_is_that_to_where_the_run_stops(tmp_path, configured, monkeypatch):
    left, line = [], console.validation_line
    monkeypatch.setattr(console, "validation_line", lambda *a: (left.append(a[-1]), line(*a))[1])
    for stop in ("12", "99"):  # there, or at the end, which comes first
        run(configured(*PLAIN, "train.steps=36", f"train.stop_after={stop}"), RunFolder(tmp_path))
    assert left[0] == left[2] == 0 < left[1]  # after 12, 24 and 36 updates


# ---- train.keep ----


def kept(folder: Path) -> list[str]:
    return sorted(path.stem.removeprefix("checkpoint_") for path in folder.glob("checkpoint_*.pt"))


ALWAYS = ["best", "last", "previous"]


def test_so_many_further_checkpoints_stay_and_nothing_else_changes(finished, tmp_path, configured):
    plain = finished(*PLAIN, "train.steps=24")  # saved after 5, 10, 12, 15, 20 and 24
    assert kept(plain) == ALWAYS
    for keep, numbers in (("2", ["12", "15"]), ("null", ["10", "12", "15", "5"])):
        folder = tmp_path / keep
        run(configured(*PLAIN, "train.steps=24", f"train.keep={keep}"), RunFolder(folder))
        assert kept(folder) == numbers + ALWAYS
        assert same(saved(folder), saved(plain)) and records(folder) == records(plain)
        for number in numbers:
            assert saved(folder, number)["step"] == int(number) and saved(folder, number)["optimizer"]
    RunFolder(folder).clear()
    assert kept(folder) == []


@pytest.mark.parametrize("made", range(5))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, None])
def test_the_newest_of_those_before_a_step_stay(made, count, tmp_path):
    for number in (*range(9, 9 + made), 20, 100):
        (tmp_path / f"checkpoint_{number}.pt").touch()
    checkpoint.retire(tmp_path / "checkpoint_previous.pt", count, 20)
    earlier = list(range(9, 9 + made))
    stay = earlier if count is None else earlier[made - min(made, count) :]
    assert sorted(map(int, kept(tmp_path))) == [*stay, 20, 100]


def test_one_can_go_back_to_one_of_them(finished, tmp_path, configured):
    """As docs/usage.md says: put it in the place of the last one, and take results.json away."""
    config = configured(*PLAIN, "train.steps=24", "train.keep=null")
    run(config, RunFolder(tmp_path))
    assert kept(tmp_path) == ["10", "12", "15", "5", *ALWAYS]
    shutil.copyfile(tmp_path / "checkpoint_10.pt", tmp_path / "checkpoint_last.pt")
    (tmp_path / "results.json").unlink()
    run(config, RunFolder(tmp_path))
    plain = finished(*PLAIN, "train.steps=24")
    assert same(saved(tmp_path), saved(plain)) and records(tmp_path) == records(plain)
    assert kept(tmp_path) == ["10", "12", "15", "20", "5", *ALWAYS]  # 20 was the previous one


def test_a_run_goes_on_when_another_keep_is_asked_for_and_after_a_broken_previous_one(tmp_path, configured):
    command = (*PLAIN, "train.steps=24")
    run(configured(*command, "train.keep=null", "train.stop_after=15"), RunFolder(tmp_path))
    assert kept(tmp_path) == ["10", "5", *ALWAYS]
    (tmp_path / "checkpoint_previous.pt").write_bytes(b"broken")
    run(configured(*command, "train.keep=1"), RunFolder(tmp_path))
    assert kept(tmp_path) == ["15", *ALWAYS]


def test_one_of_them_can_be_measured(tmp_path, configured, capsys):
    from cvae.cli import evaluate, sample

    run(configured(*PLAIN, "train.steps=24", "train.keep=1"), RunFolder(tmp_path))
    assert evaluate.main([str(tmp_path), "val", "--checkpoint", "15"]) == 0
    said = capsys.readouterr()
    task = reopen(RunFolder(tmp_path).configuration("cpu"), RunFolder(tmp_path), "15")
    assert json.loads(said.out)["val/rec"] == task.evaluate("val")["rec"]
    assert "of checkpoint_15.pt; results.json is of checkpoint_best.pt" in said.err
    assert sample.main([str(tmp_path), "prior", "--count", "1", "--checkpoint", "15"]) == 0
    assert evaluate.main([str(tmp_path), "val", "--checkpoint", "7"]) == 1
    assert "checkpoint_7.pt cannot be read: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path), "val", "--checkpoint", "../last"])
    assert "invalid checkpoint: '../last', must be best, last or a step" in capsys.readouterr().err
