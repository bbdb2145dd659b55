"""The harness that kills runs: what a kill hit, what is compared, and what makes it fail."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from scripts import kill


def write(path: Path, *records: dict) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def run(tmp_path) -> Path:
    """What a run leaves."""
    folder = tmp_path / "run"
    folder.mkdir()
    for which in ("last", "best"):
        torch.save({"model": {"weight": torch.ones(2)}}, folder / f"checkpoint_{which}.pt")
    write(folder / "results.json", {"finished": True, "val/kl": 0.5, "time/seconds": 3.0})
    write(folder / "metrics.jsonl", {"step": 1, "time/seconds": 2.0}, {"step": 2})
    return folder


def again(run: Path, name: str) -> Path:
    """A copy of a run whose clock went otherwise."""
    copy = run.parent / name
    copy.mkdir()
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes().replace(b'"time/seconds": ', b'"time/seconds": 9'))
    return copy


def test_a_kill_hit_what_the_folder_shows(tmp_path):
    drafts = kill._drafts(tmp_path)
    assert kill._stage(tmp_path, drafts) == "before the first checkpoint"
    (tmp_path / "checkpoint_last.pt").touch()
    write(tmp_path / "results.json", {"finished": False})
    assert kill._stage(tmp_path, drafts) == "in training or evaluation"
    (tmp_path / "classifier.jsonl").touch()
    assert kill._stage(tmp_path, drafts) == "in the second stage"
    write(tmp_path / "results.json", {"finished": True})
    assert kill._stage(tmp_path, drafts) == "after the end"
    for name in ("results.json", "checkpoint_last.pt"):
        (tmp_path / f"{name}.tmp").touch()
    assert kill._stage(tmp_path, drafts) == "while writing checkpoint_last.pt"
    assert kill._stage(tmp_path, kill._drafts(tmp_path)) == "after the end"  # those are of an earlier kill


def test_whole_lines_count_without_their_times(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}')
    (run / "classifier.jsonl").write_text('{"seed": 0}\n')
    assert kill.lines(run) == {
        ("metrics.jsonl", '{"step": 1}'),
        ("metrics.jsonl", '{"step": 2}'),
        ("classifier.jsonl", '{"seed": 0}'),
    }


def test_runs_differ_in_anything_but_time(run):
    assert kill.differences(run, again(run, "same")) == []
    for name, record in (("metrics.jsonl", {"step": 1}), ("results.json", {"finished": True, "val/kl": 0.6})):
        other = again(run, f"other {name}")
        write(other / name, record)
        assert kill.differences(run, other) == kill.differences(other, run) == [name]
    more = again(run, "more")
    write(more / "classifier.jsonl", {"seed": 0})
    assert kill.differences(run, more) == kill.differences(more, run) == ["classifier.jsonl"]
    for which, model in (("last", {"weight": torch.zeros(2)}), ("best", {"other": torch.ones(2)})):
        other = again(run, f"other {which}")
        torch.save({"model": model}, other / f"checkpoint_{which}.pt")
        assert kill.differences(run, other) == [f"checkpoint_{which}.pt"]


def test_a_run_shows_signs_of_life_in_any_of_its_files(tmp_path):
    seen = {kill._marks(tmp_path)}
    for number, name in enumerate(("run.json", "metrics.jsonl", "classifier.jsonl", "results.json")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(number, number))
        seen.add(kill._marks(tmp_path))
    os.utime(tmp_path / "metrics.jsonl", ns=(99, 99))
    seen.add(kill._marks(tmp_path))
    assert len(seen) == 6 and kill._marks(tmp_path)[-1] == 2  # the last is the classifiers'


class Process:
    """A run that spends a second at each look, makes its files, and ends after so many looks."""

    def __init__(self, folder: Path, signs: dict[int, str], ends: int = 99, code: int = 0) -> None:
        self.folder, self.signs, self.ends, self.code = folder, signs, ends, code
        self.looks, self.returncode, self.signal = 0, None, None

    def poll(self) -> int | None:
        self.looks += 1
        if name := self.signs.get(self.looks):
            (self.folder / name).touch()
        self.returncode = self.code if self.looks > self.ends else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.signal = number

    def wait(self) -> int:
        self.returncode = self.code if self.looks > self.ends else -signal.SIGKILL
        return self.returncode


@pytest.fixture
def torment(tmp_path, monkeypatch):
    """`torment(moment, later, **process)`: the tally and the process that was killed so much later."""

    def work(moment: str, later: float, **process) -> tuple[kill.Tally, Process]:
        made, finished = Process(tmp_path, **process), []
        monkeypatch.setattr(kill, "start", lambda arguments, folder: made)
        monkeypatch.setattr(kill, "finish", lambda arguments, folder: finished.append(folder))
        monkeypatch.setattr(kill, "_spent", lambda process: float(process.looks))
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        rng = random.Random()
        monkeypatch.setattr(rng, "expovariate", lambda rate: later)
        monkeypatch.setattr(rng, "uniform", lambda low, high: high)
        tally = kill.torment(["a=1"], tmp_path, [moment], rng, kill.Pace(start=7.0, rest=3.0))
        assert finished == [tmp_path]
        return tally, made

    return work


SIGNS = {4: "run.json", 9: "checkpoint_last.pt.tmp", 20: "classifier.jsonl"}


@pytest.mark.parametrize(
    ("moment", "looks", "hit"),
    [
        ("any", 7 + 2, "while writing checkpoint_last.pt"),  # after the start, whatever there is
        ("alive", 4 + 2, "before the first checkpoint"),
        ("writing", 9, "while writing checkpoint_last.pt"),
        ("classifier", 20 + 2, "while writing checkpoint_last.pt"),
    ],
)
def test_a_kill_comes_at_the_moment_asked_for(moment, looks, hit, torment):
    tally, process = torment(moment, 2.0, signs=SIGNS)
    assert process.signal == signal.SIGKILL and looks <= process.looks <= looks + 1
    assert (tally.kills, tally.hits) == (1, {hit: 1})


def test_a_run_that_ended_before_its_kill_counts_for_none_and_one_that_failed_is_told(torment, tmp_path):
    tally, _ = torment("alive", 2.0, signs=SIGNS, ends=2)
    assert (tally.kills, tally.written) == (0, set())
    with pytest.raises(RuntimeError, match=rf"^ended with 3: see {tmp_path}\.log$"):
        torment("alive", 2.0, signs=SIGNS, ends=2, code=3)


def test_the_cpu_seconds_of_a_process_are_its_own():
    class Own:
        pid = os.getpid()

    before = sum(os.times()[:2])
    assert before - 0.05 <= kill._spent(Own()) <= sum(os.times()[:2]) + 0.05
    Own.pid = 2**30
    assert kill._spent(Own()) == float("inf")  # it has ended


def test_a_run_that_fails_undisturbed_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(kill, "TRAIN", tmp_path / "train.py")
    (tmp_path / "train.py").write_text("import sys; print(*sys.argv[1:]); sys.exit(4)")
    with pytest.raises(RuntimeError, match=r"^a=1 ended with 4: see .*a run\.log$"):
        kill.finish(["a=1"], tmp_path / "a run")
    said = (tmp_path / "a run.log").read_text()
    assert said == f"a=1 train.progress=false device=cpu threads=1 hydra.run.dir={tmp_path / 'a run'}\n"


def test_a_pace_is_the_seconds_before_and_after_the_first_sign_of_life(tmp_path, monkeypatch):
    made = Process(tmp_path, signs={4: "run.json"})
    monkeypatch.setattr(made, "wait", lambda: 0)
    monkeypatch.setattr(kill, "start", lambda arguments, folder: made)
    monkeypatch.setattr(kill, "_spent", lambda process: float(process.looks))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    children = iter([(1.0, 0.5), (11.0, 2.5)])  # of this process, before and after: 12 seconds more

    def usage(who: int) -> SimpleNamespace:
        user, system = next(children)
        return SimpleNamespace(ru_utime=user, ru_stime=system)

    monkeypatch.setattr(resource, "getrusage", usage)
    assert kill.finish([], tmp_path) in (kill.Pace(4.0, 8.0), kill.Pace(5.0, 7.0))


@pytest.mark.parametrize(("name", "second"), [("toy", ["alive", "writing"]), ("yelp", ["classifier"] * 3)])
def test_kills_go_on_in_another_run_where_one_ends_too_soon(name, second, tmp_path, monkeypatch):
    asked = []

    def torment(arguments, folder, moments, rng, pace):
        asked.append((folder.name, list(moments)))
        assert len(asked) < 9  # or it would go on for ever
        written = {("a", "{}"), ("a", f"{len(asked)}")}
        return kill.Tally(min(3, len(moments)), Counter(x=1), written)

    monkeypatch.setattr(kill, "torment", torment)
    monkeypatch.setattr(kill, "finish", lambda arguments, folder: asked.append((folder.name, arguments[:1])))
    monkeypatch.setattr(kill, "lines", lambda folder: {("a", "{}")})
    monkeypatch.setattr(kill, "differences", lambda one, other: [f"{one.name} {other.name}"])
    monkeypatch.setattr(kill, "repeated_steps", lambda folder: [folder.name])
    found = kill.trial(name, tmp_path, 5, random.Random(0))
    whole, first, other = asked
    assert whole == (f"{name} – undisturbed", [f"task={name}"])
    moments = ["any", "alive", "writing", "any", "alive"]
    moments[2:] = second if name == "yelp" else moments[2:]
    assert first == (f"{name} – killed 1", moments) and other == (f"{name} – killed 2", moments[3:])
    killed = [f"{name} – killed {number}" for number in (1, 2)]
    assert found == {
        "kills": 5,
        "hits": {"x": 2},
        "lines_on_disk_at_kills": 4,
        "bytes_lost": 2,  # "1" and "2"
        "differ": [f"{name} – undisturbed {one}" for one in killed],
        "twice_in_tensorboard": killed,
    }


GOOD = {"kills": 2, "hits": {}, "lines_on_disk_at_kills": 1, "bytes_lost": 0, "differ": []}
GOOD |= {"twice_in_tensorboard": []}


@pytest.mark.parametrize(
    ("found", "status"),
    [({}, 0), ({"differ": ["a"]}, 1), ({"twice_in_tensorboard": ["a"]}, 1), ({"bytes_lost": 1}, 1)],
)
def test_the_command_fails_where_anything_differs_and_adds_to_its_record(
    found, status, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        kill, "trial", lambda *how: asked.append(how) or GOOD | (found if how[0] == "toy" else {})
    )
    record = tmp_path / "to" / "record.json"
    record.parent.mkdir()
    write(record, {"ptb": {}, "earlier": {"kills": 1}})
    given = ["toy", "ptb", "--kills", "2", "--to", str(tmp_path / "new"), "--record", str(record)]
    assert kill.main(given) == status
    assert json.loads(record.read_text()) == {"ptb": GOOD, "earlier": {"kills": 1}, "toy": GOOD | found}
    assert [how[:3] for how in asked] == [(name, tmp_path / "new", 2) for name in ("toy", "ptb")]
    assert len(list((tmp_path / "new" / "reviews").iterdir())) == 6


def test_a_record_is_shown_with_its_sums(tmp_path):
    toy = {"hits": {"b": 1, "a": 1}, "bytes_lost": 5, "differ": ["x"], "twice_in_tensorboard": ["y", "z"]}
    write(tmp_path / "record.json", {"toy": GOOD | toy, "ptb": GOOD | {"hits": {"b": 2}}})
    shown = kill.table(tmp_path / "record.json")
    assert shown.head[:4] == ["run", "kills", "a", "b"]
    assert shown.body == [
        ["toy", "2", "1", "1", "1", "5", "3"],
        ["ptb", "2", "0", "2", "1", "0", "0"],
        ["all", "4", "1", "3", "2", "5", "3"],
    ]


def test_a_step_that_tensorboard_reads_twice_is_found_by_its_scalar(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for tag, steps in (("once", (1, 2)), ("twice", (1, 2, 2))):
            for step in steps:
                writer.add_scalar(tag, 0.5, step)
    assert kill.repeated_steps(tmp_path) == ["twice"]


def test_reviews_are_told_apart_by_a_word(tmp_path):
    kill.write_reviews(tmp_path / "reviews")
    for path in (tmp_path / "reviews").iterdir():
        lines = path.read_text().splitlines()
        assert lines and {("the" in line.split()) for line in lines} == {path.name.endswith(".1")}
    names = {path.name for path in (tmp_path / "reviews").iterdir()}
    assert names == {f"sentiment.{split}.{label}" for split in ("train", "dev", "test") for label in (0, 1)}


def test_a_wrong_command_is_refused(tmp_path, capsys, monkeypatch):
    for given, said in (
        (["toy", "no"], "unknown run no: one of toy, ptb, switchboard, yelp"),
        (["toy", "--to", str(tmp_path)], f"--to {tmp_path} exists: name a new folder"),
        (["--kills", "0"], "argument --kills: invalid count value"),
    ):
        with pytest.raises(SystemExit, match="2"):
            kill.parse(given)
        assert said in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    options = kill.parse([])
    assert (options.runs, options.kills, options.seed) == (list(kill.RUNS), 15, 0)
    assert kill.parse(["--read", "a.json", "--to", str(tmp_path)]).read == Path("a.json")


def test_what_ends_a_trial_ends_the_command(tmp_path, monkeypatch, capsys):
    def trial(*_: object) -> dict:
        raise RuntimeError("a=1 ended with 4")

    monkeypatch.setattr(kill, "trial", trial)
    assert kill.main(["toy", "--to", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == "toy: a=1 ended with 4\n"
