"""Kill training at random moments, start it again each time, and compare with an undisturbed run.

Weights, every record and results.json (except time/) must be equal bit for bit, no line that was on the
disk at a kill may be missing at the end, and TensorBoard must read no step twice. A third of the kills come
while a checkpoint is being written. The counts of kills and of what they hit are printed, and written with
--record; --read prints a table of what --record wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import math
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import Arguments, count, entry_point, parser
from cvae.config.schema import TinyData
from cvae.data import toy
from cvae.errors import UserError
from cvae.io import read_json, write_atomically
from cvae.report.formats import Table

TRAIN = Path(__file__).parent.parent / "train.py"
RUNS = {
    "toy": (
        "task=toy train.steps=600 train.log_every=7 train.validate_every=30 train.save_every=9"
        " dataset.draws=2"
    ),
    "ptb": (
        "experiment=ptb_debug train.steps=300 train.validate_every=20 train.save_every=3"
        " dataset.sentences=400 remedy=[word_dropout] task.iw_sentences=20"
    ),
    "switchboard": (
        "task=switchboard dataset.path=tests/dialogs dataset.held_out=0.2 model.embed=8 model.utterance=8"
        " model.context=12 model.latent=4 model.prior=8 model.decoder=16 model.bow_hidden=8"
        " train.batch_size=8 train.steps=200 train.log_every=7 train.validate_every=20 train.save_every=3"
        " task.iw_samples=3"
    ),
    "yelp": (
        "task=yelp dataset.path={reviews} dataset.share.train=1 dataset.share.val=1 dataset.share.test=1"
        " dataset.min_count=1 model=sentence model.embed=8 model.hidden=16 model.latent=4 train.steps=150"
        " train.log_every=7 train.validate_every=30 train.save_every=4 task.iw_samples=3"
        " task.finetune.shares=[0.1,0.5,1.0] task.finetune.seeds=4 task.finetune.epochs=2"
        " task.finetune.least_updates=30 task.finetune.val_least=20 task.finetune.map_sentences=0"
    ),
}
MOMENTS = ("any", "alive", "writing")
COMMON = ("train.progress=false", "device=cpu", "threads=1")


@dataclass
class Pace:
    """CPU seconds of an undisturbed run: to its first sign of life, and from there to its end."""

    start: float
    rest: float


@dataclass
class Tally:
    """What the kills of one run hit, and the lines of its records that were on the disk at any kill."""

    kills: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    written: set[tuple[str, str]] = field(default_factory=set)


def write_reviews(folder: Path) -> None:
    """Write sentences of the generated corpus in two classes, in files like Yelp's."""
    folder.mkdir()
    splits = toy.tiny(TinyData(name="tiny", sentences=600, sampler="equal_length"))
    for split, name in (("train", "train"), ("val", "dev"), ("test", "test")):
        texts = [" ".join(words) for words in splits[split]]
        for label in (0, 1):
            chosen = [text for text in texts if ("the" in text.split()) == bool(label)]
            (folder / f"sentiment.{name}.{label}").write_text("\n".join(chosen) + "\n")


def start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start training in a folder; its output goes to a file beside the folder."""
    command = [sys.executable, str(TRAIN), *arguments, *COMMON, f"hydra.run.dir={folder}"]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=TRAIN.parent)


def finish(arguments: Sequence[str], folder: Path) -> Pace:
    """Train to the end and return the CPU seconds. Raises RuntimeError where training fails."""
    before, already = _marks(folder), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start(arguments, folder)
    _await(process, lambda: _marks(folder) != before)
    alive = _spent(process)
    if code := process.wait():
        raise RuntimeError(f"{shlex.join(arguments)} ended with {code}: see {folder.with_suffix('.log')}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Pace(alive, now.ru_utime + now.ru_stime - already.ru_utime - already.ru_stime - alive)


def _spent(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU seconds of a process, which do not count waiting on a busy machine."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return math.inf  # it has ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def torment(
    arguments: Sequence[str], folder: Path, moments: Sequence[str], rng: random.Random, pace: Pace
) -> Tally:
    """Kill at each of the moments and start again, then let the run finish.

    `any` is anywhere in a start; `alive` some time after the first sign of life in the folder, so that kills
    spread over the run; `writing` is as soon after that as a checkpoint is being written; `classifier` some
    time after a start has made one.
    """
    tally = Tally()
    for moment in moments:
        before, old = _marks(folder), _drafts(folder)
        process = start(arguments, folder)
        until = rng.expovariate(1.5 * len(moments) / pace.rest)
        if moment == "any":
            until += rng.uniform(0, pace.start)
        else:
            own = slice(-1, None) if moment == "classifier" else slice(None)
            _await(process, lambda before=before, own=own: _marks(folder)[own] != before[own])
            until += _spent(process)
        _await(process, lambda process=process, until=until: _spent(process) >= until)
        if moment == "writing":
            _await(process, lambda old=old: any("checkpoint" in name for name, _ in _drafts(folder) - old))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            tally.kills += 1
            tally.hits[_stage(folder, old)] += 1
            tally.written |= lines(folder)
        elif process.returncode:
            raise RuntimeError(f"ended with {process.returncode}: see {folder.with_suffix('.log')}")
        else:
            break  # finished before there were enough kills
    finish(arguments, folder)
    return tally


def _await(process: subprocess.Popen[bytes], sign: Callable[[], bool]) -> None:
    """Wait until the sign is there or the process has ended."""
    while process.poll() is None and not sign():
        time.sleep(0.0002)  # writing a checkpoint takes a millisecond


def _marks(folder: Path) -> tuple[Any, ...]:
    """Return the times of a run's files: they change as soon as it writes to its folder."""
    names = ("run.json", "results.json", "metrics.jsonl", "classifier.jsonl")
    return tuple(p.stat().st_mtime_ns if (p := folder / name).exists() else None for name in names)


def _drafts(folder: Path) -> set[tuple[str, int]]:
    """Return the files that are being written, or were at a kill, with their times."""
    found = set()
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _stage(folder: Path, old: set[tuple[str, int]]) -> str:
    """Return where a kill hit, as the folder shows; `old` are the drafts of earlier kills."""
    if drafts := sorted(name for name, _ in _drafts(folder) - old):
        return f"while writing {drafts[0].removesuffix('.tmp')}"
    if not (folder / "checkpoint_last.pt").exists():
        return "before the first checkpoint"
    if _timeless(folder / "results.json").get("finished"):
        return "after the end"
    return "in the second stage" if (folder / "classifier.jsonl").exists() else "in training or evaluation"


def lines(folder: Path) -> set[tuple[str, str]]:
    """Return (file, line without time/) for each whole line that a run has recorded."""
    return {
        (path.name, json.dumps(_without_time(json.loads(line))))
        for path in folder.glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    }


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of the records in which two runs differ, apart from time/."""
    import torch

    found = []
    for name in sorted({p.name for folder in (one, other) for p in folder.glob("*.jsonl")}):
        if _records(one / name) != _records(other / name):
            found.append(name)
    if _timeless(one / "results.json") != _timeless(other / "results.json"):
        found.append("results.json")
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        a, b = (torch.load(folder / name, weights_only=True)["model"] for folder in (one, other))
        if a.keys() != b.keys() or any(not torch.equal(a[key], b[key]) for key in a):
            found.append(name)
    return found


def _records(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    return [_without_time(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _timeless(path: Path) -> dict[str, Any]:
    return _without_time(json.loads(path.read_text(encoding="utf-8")))


def _without_time(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("time/")}


def repeated_steps(folder: Path) -> list[str]:
    """Return the scalars that TensorBoard reads at one step more than once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports each purge
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found = []
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        if len(set(steps)) < len(steps):
            found.append(tag)
    return found


def trial(name: str, place: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Train one of RUNS undisturbed and killed; a killed run that ends too soon is followed by another."""
    command = [word.format(reviews=place / "reviews") for word in shlex.split(RUNS[name])]
    undisturbed = place / f"{name} – undisturbed"
    pace = finish(command, undisturbed)
    found: dict[str, Any] = {"kills": 0, "hits": Counter(), "lines_on_disk_at_kills": 0, "bytes_lost": 0}
    differ: list[str] = []
    twice: list[str] = []
    moments = list(itertools.islice(itertools.cycle(MOMENTS), kills))
    if name == "yelp":
        moments[kills // 2 :] = ["classifier"] * (kills - kills // 2)  # the second stage
    for number in itertools.count(1):
        if found["kills"] == kills:
            break
        killed = place / f"{name} – killed {number}"
        tally = torment(command, killed, moments[found["kills"] :], rng, pace)
        found["kills"] += tally.kills
        found["hits"] += tally.hits
        found["lines_on_disk_at_kills"] += len(tally.written)
        found["bytes_lost"] += sum(len(line.encode()) for _, line in tally.written - lines(killed))
        differ += differences(undisturbed, killed)
        twice += repeated_steps(killed)
    return found | {"hits": dict(found["hits"]), "differ": differ, "twice_in_tensorboard": twice}


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("kill", __doc__)
    head.add_argument("runs", nargs="*", default=list(RUNS), help=f"of {', '.join(RUNS)}; default: all")
    head.add_argument("--kills", type=count, default=15, help="of each run (15)")
    head.add_argument("--seed", type=int, default=0, help="of the moments")
    head.add_argument("--to", type=Path, default=Path("outputs/kill"), metavar="DIR", help="must be new")
    head.add_argument("--record", type=Path, metavar="FILE", help="JSON with the counts of each run")
    head.add_argument("--read", type=Path, metavar="FILE", help="kill nothing: a table of such a file")
    options = head.parse_args(arguments)
    if unknown := set(options.runs) - set(RUNS):
        head.error(f"unknown run {', '.join(sorted(unknown))}: one of {', '.join(RUNS)}")
    if options.read is None and options.to.exists():
        head.error(f"--to {options.to} exists: name a new folder")
    return options


def table(path: Path) -> Table:
    """Return a row for each run of a record, and one for all. Raises UserError where there is no record."""
    try:
        found = read_json(path) or {}
        places = sorted({place for one in found.values() for place in one["hits"]})
        counts = {
            name: [
                one["kills"],
                *(one["hits"].get(place, 0) for place in places),
                one["lines_on_disk_at_kills"],
                one["bytes_lost"],
                len(one["differ"]) + len(one["twice_in_tensorboard"]),
            ]
            for name, one in found.items()
        }
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} holds no counts that --record wrote") from None
    if not counts:
        raise UserError(f"{path} holds no counts that --record wrote")
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    head = ["run", "kills", *places, "lines on the disk at kills", "bytes lost", "differences"]
    return Table(head, [[name, *map(str, row)] for name, row in counts.items()])


@entry_point
def main(arguments: Arguments = None) -> int:
    """Run the trials; the exit status is 1 where a run did not survive or differs from the undisturbed."""
    options = parse(arguments)
    if options.read is not None:
        print(table(options.read).markdown())
        return 0
    rng, record, status = random.Random(options.seed), {}, 0
    options.to.mkdir(parents=True)
    write_reviews(options.to / "reviews")
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        before = read_json(options.record) or {}
    for name in options.runs:
        try:
            found = trial(name, options.to.resolve(), options.kills, rng)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        status |= bool(found["differ"] or found["twice_in_tensorboard"] or found["bytes_lost"])
        record[name] = found
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in found.items())}", flush=True)
    if options.record:
        write_atomically(options.record, json.dumps(before | record, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
