"""Measures how fast this machine trains, evaluates and generates, beside plain torch and its matrix product.

Three processes take turns, round after round: the work as torch's own modules do it (plain), as cvae does it
(ours), and the product of two square float32 matrices (sgemm). Models have their task's size and start at
random; batches are the first of training. `share of sgemm` sets what a work's own matrix products need at
sgemm's speed against the time it takes. A token is a predicted one; for iw_nll, one for each sample of z.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import count
from cvae.cli.composition import composed, composing
from cvae.config.load import load
from cvae.config.schema import Config
from cvae.data.text import EOS
from cvae.errors import UserError
from cvae.evaluation import latent
from cvae.io import read_json
from cvae.models import decode, gaussian, objective
from cvae.tasks.language_model import LanguageTask
from cvae.training import steps
from cvae.training.profiling import parts
from cvae.training.run import prepare

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("ptb", "switchboard", "yelp", "toy")
WORKS = {"step": 8, "evaluation": 8, "iw_nll": 1, "generation": 2}  # batches in a round
BETA, RATE = 0.5, 1e-3
SAMPLES, PASSES = 50, 3  # of z, for iw_nll; the plain passes over a batch that are measured instead
LONGEST = 20  # words of a generated sentence

EXAMPLES = """examples:
  python scripts/bench.py                                 PTB's training step, one minute
  python scripts/bench.py --task all --work all --seconds 20 --json all.json
  python scripts/bench.py --task ptb switchboard --parts  where the time of an update goes
  python scripts/bench.py --task all --startup            from the command to the first update
  python scripts/bench.py --text 10000 1000000            the same for texts of so many sentences
  python scripts/bench.py --task ptb --device cuda precision=bf16
  python scripts/bench.py --read outputs/published/bench/ptb.json   the table of what --json wrote

Nothing else should run: a busy core costs work with barriers more than it costs a matrix product."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="KEY=VALUE", help="of the configuration, as for train.py")
    add("--task", nargs="+", choices=[*TASKS, "all"], default=["ptb"], help="(default: ptb)")
    add("--work", nargs="+", choices=[*WORKS, "all"], default=["step"], help="(default: step)")
    add("--seconds", type=float, default=60, help="to measure each work of each task (default: %(default)s)")
    add("--threads", type=count, metavar="N", help="torch's threads (default: torch's choice)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    add("--parts", action="store_true", help="instead: where the time of an update goes")
    add("--startup", action="store_true", help="instead: the time to the first update, and the memory")
    add("--text", nargs="+", type=int, metavar="N", help="instead: that for texts of N sentences")
    add("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add("--read", type=Path, metavar="FILE", help="measure nothing: print the table of what --json wrote")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error("--seconds must be above 0")
    if options.text and min(options.text) < 100:
        parser.error("--text must be at least 100 sentences")
    if wrong := [given for given in options.overrides if "=" not in given]:
        parser.error(f"{wrong[0]} is no KEY=VALUE")
    options.task = list(TASKS) if "all" in options.task else options.task
    options.work = list(WORKS) if "all" in options.work else options.work
    return options


# ---- what is measured ----


def configuration(task: str, overrides: Sequence[str], threads: int | None) -> Config:
    """A task's run as train.py would have it."""
    with composing():
        return load(composed([f"task={task}", f"threads={threads or 'null'}", *overrides]))


Work = Callable[[], Any]


def work(kind: str, name: str, task: LanguageTask) -> tuple[Work, int]:
    """A round of a work, and its tokens. Raises KeyError where there is no plain one."""
    model, train = task.model, task.batches["train"]
    batches = [train.at(step) for step in range(WORKS[name])]
    tokens = sum(int(batch.counted.sum()) for batch in batches)
    if name == "step":
        model.train()
        step = {"plain": plain_step, "ours": our_step}[kind](task)
        return (lambda: [step(train.at(number)) for number in range(len(batches))]), tokens
    model.eval()
    noise = task.generator()
    if name == "evaluation":
        doing = {
            "plain": lambda: [
                objective.terms(model, batch, generator=noise, plain=True) for batch in batches
            ],
            "ours": lambda: latent.collect_posteriors(model, batches, False, noise),
        }
    elif name == "iw_nll":
        tokens *= {"plain": PASSES, "ours": SAMPLES}[kind]
        chunk = task.config.task.iw_chunk
        doing = {
            "plain": lambda: [
                objective.terms(model, batch, generator=noise, plain=True)
                for batch in batches
                for _ in range(PASSES)
            ],
            "ours": lambda: latent.importance_weighted(model, batches, SAMPLES, chunk, noise),
        }
    else:
        tokens = LONGEST * sum(len(batch.lengths) for batch in batches)
        doing = {"ours": lambda: [generation(model, batch, noise) for batch in batches]}
    return torch.no_grad()(doing[kind]), tokens


def our_step(task: LanguageTask) -> Callable[[Any], Any]:
    """The update of train.py."""
    made = steps.build(task.model, task.config)
    return lambda batch: made(batch, BETA, RATE)


def plain_step(task: LanguageTask) -> Callable[[Any], Any]:
    """The same without anything of ours that makes it fast."""
    model, config = task.model, task.config
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        objective.loss(objective.terms(model, batch, plain=True), BETA).backward()
        if config.train.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()

    return step


def generation(model: Any, batch: Any, noise: torch.Generator) -> None:
    """A sentence of LONGEST words for each of the batch, from the prior."""
    batch = objective.shared(model, batch)
    z = gaussian.sample(model.prior(batch), noise)
    decode.generate(model, batch, z, LONGEST, decode.SamplingOptions(forbid=(EOS,)), noise)


def flop(done: Work) -> int:
    """FLOP of its matrix products; recurrent ones are seen only where torch forms them itself."""

    def in_place(added: Any, left: Any, right: Any, **rest: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False
    try:
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as count:
            done()
    finally:
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = True
    return count.get_total_flops()


def sgemm(device: str) -> tuple[Work, int]:
    """Products of two square matrices, and their FLOP."""
    side, times = (1024, 20) if device == "cpu" else (8192, 10)
    left, right, out = (torch.randn(side, side, device=device) for _ in range(3))
    return (lambda: [torch.mm(left, right, out=out) for _ in range(times)]), 2 * side**3 * times


# ---- rounds ----


def seconds(done: Work) -> float:
    """How long it takes, on a GPU to its end."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    before = time.perf_counter()
    done()
    wait()
    return time.perf_counter() - before


def peak(device: str) -> float:
    """MiB: of the GPU's memory, or of the whole process's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def serve(kind: str, name: str, config: Config, line: Connection) -> None:
    """A process: tokens, or None for no such work; for each order a round's seconds; FLOP and peak."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        done, tokens = sgemm(config.device) if kind == "sgemm" else work(kind, name, prepare(config))
    except KeyError:
        line.send(None)
        return
    done()  # warm
    line.send(tokens)
    while line.recv():
        line.send(seconds(done))
    most = peak(config.device)
    line.send((tokens if kind == "sgemm" else flop(done), most))


def rounds(name: str, config: Config, duration: float) -> dict[str, Any]:
    """Rounds of {plain, ours, sgemm} in turn for `duration` seconds, at least three."""
    context = multiprocessing.get_context("spawn")
    lines, workers, done = {}, [], {}
    for kind in ("plain", "ours", "sgemm"):
        lines[kind], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(kind, name, config, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
        tokens = lines[kind].recv()
        if tokens is None:
            del lines[kind]
            continue
        done[kind] = tokens
    taken: dict[str, list[float]] = {kind: [] for kind in lines}
    end = time.perf_counter() + duration
    while time.perf_counter() < end or len(taken["sgemm"]) < 3:
        for kind, line in lines.items():
            line.send(True)
            taken[kind].append(line.recv())
    for line in lines.values():
        line.send(False)
    measured = {kind: line.recv() for kind, line in lines.items()}
    for worker in workers:
        worker.join()
    flops, peaks = ({kind: both[place] for kind, both in measured.items()} for place in range(2))
    return {"tokens": done, "seconds": taken, "flop": flops, "peak_mib": peaks}


# ---- from the command to the first update ----


def started(overrides: Sequence[str], updates: int, threads: int | None) -> dict[str, float]:
    """Seconds to the first update, MiB at most, and the median tokens/s, of train.py with a cold cache."""
    with tempfile.TemporaryDirectory() as folder:
        metrics, out = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "out"
        command = [sys.executable, str(ROOT / "train.py"), *overrides, f"train.stop_after={updates}"]
        command += ["train.log_every=10", "train.progress=false", f"hydra.run.dir={metrics.parent}"]
        more = {"HF_DATASETS_CACHE": folder} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        begun, first, ended = time.perf_counter(), None, 0
        with out.open("w") as said:
            process = subprocess.Popen(command, env=os.environ | more, stdout=said, stderr=said)
        while not ended:
            time.sleep(0.02)
            if first is None and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - begun
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or first is None:
            raise UserError(f"{' '.join(command)} failed: {out.read_text().strip()[-500:]}")
        rates = [json.loads(line).get("time/tokens_per_second") for line in metrics.open()][1:]
        found = {"first_update_seconds": first, "peak_mib": usage.ru_maxrss / 2**10}
        return found | ({"tokens_per_second": statistics.median(rates)} if rates else {})


def write_text(path: Path, sentences: int) -> None:
    """Sentences of log-normal lengths around 21 words, which are of 20,000 types distributed as Zipf's."""
    generator = np.random.default_rng(0)
    names = np.array([f"w{number}" for number in range(20_000)], dtype=object)
    reach = np.cumsum(1 / (np.arange(len(names)) + 2.7))
    with path.open("w") as file:
        for start in range(0, sentences, 10_000):
            lengths = generator.lognormal(2.92, 0.5, min(10_000, sentences - start)).astype(int).clip(1, 80)
            drawn = names[np.searchsorted(reach, generator.random(lengths.sum()) * reach[-1])]
            for words in np.split(drawn, np.cumsum(lengths)[:-1]):
                file.write(" ".join(words) + "\n")


def text(sentences: int, overrides: Sequence[str], threads: int | None) -> dict[str, float]:
    """`started` on a text of so many sentences, with the paper's PTB model and 10,000 words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write_text(path, sentences)
        data = ["task=ptb", "dataset=text", f"dataset.path={path}", "dataset.vocabulary=9998"]
        return {"file_mib": path.stat().st_size / 2**20} | started([*data, *overrides], 41, threads)


# ---- the report ----


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows])


def compared(found: dict[str, Any]) -> str:
    """A row for plain and for ours of each work. Ratios are medians over rounds of neighbours in time."""
    median, rows, speeds = statistics.median, [], []
    for name, one in found.items():
        taken, cost, rates = one["seconds"], one["flop"], {}
        speeds += [cost["sgemm"] / s / 1e9 for s in taken["sgemm"]]
        for kind in (kind for kind in taken if kind != "sgemm"):
            tokens = one["tokens"][kind]
            rates[kind] = [tokens / s for s in taken[kind]]
            of_sgemm = median(
                cost[kind] / ours * other / cost["sgemm"]
                for ours, other in zip(taken[kind], taken["sgemm"], strict=True)
            )
            ratio = "-"
            if "plain" in rates:
                ratio = f"{median(a / b for a, b in zip(rates[kind], rates['plain'], strict=True)):.2f}"
            numbers = f"{median(rates[kind]):,.0f}", f"{cost[kind] / tokens / 1e6:.3g}", f"{of_sgemm:.2f}"
            rows.append([name, kind, *numbers, ratio, f"{one['peak_mib'][kind]:,.0f} MiB"])
    head = ["work", "by", "tokens/s", "MFLOP a token", "share of sgemm", "ratio to plain", "peak memory"]
    spread = f"{median(speeds):,.0f} GFLOP/s ({min(speeds):,.0f} to {max(speeds):,.0f})"
    return f"{table(head, rows)}\n\nsgemm: {spread}"


def taken_apart(found: dict[str, dict[str, float]]) -> str:
    """Return a row for each part of an update, its share of each task's, and one of milliseconds."""
    whole = {task: sum(spent.values()) for task, spent in found.items()}
    shares: dict[str, dict[str, float]] = {}
    for task, spent in found.items():
        for part, s in spent.items():
            shares.setdefault(part, {})[task] = s / whole[task]
    ranked = sorted(shares, key=lambda part: (part == "the rest", -max(shares[part].values())))
    rows = [
        [part, *(f"{shares[part][t]:.0%}" if t in shares[part] else "-" for t in found)] for part in ranked
    ]
    rows.append(["all, in ms", *(f"{1e3 * s:.1f}" for s in whole.values())])
    return table(["part of an update", *found], rows)


def beginnings(found: dict[str, dict[str, float]]) -> str:
    """A row for each start of train.py."""
    rows = []
    for name, one in found.items():
        rate = f"{one['tokens_per_second']:,.0f}" if "tokens_per_second" in one else "-"
        rows.append([name, f"{one['first_update_seconds']:.1f}", f"{one['peak_mib']:,.0f} MiB", rate])
    return table(["started", "first update after s", "peak memory", "tokens/s"], rows)


def recorded(path: Path) -> str:
    """Return the table of the numbers that --json wrote. Raises UserError where they are none."""
    try:
        found = read_json(path) or {"": {}}
        one = min(found.values(), key=len)
        if not one:
            raise ValueError
        return (compared if "seconds" in one else beginnings if "peak_mib" in one else taken_apart)(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path} holds no numbers that --json wrote") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what is asked for and prints its table."""
    options = parse(arguments)
    if options.read is not None:
        try:
            print(recorded(options.read))
        except UserError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    threads, found = options.threads, {}
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before the processes import torch
    overrides = [*options.overrides, f"device={options.device}"]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}\n")
    try:
        configs = {task: configuration(task, overrides, threads) for task in options.task}
        if options.text:
            found = {f"{size:,} sentences": text(size, overrides, threads) for size in options.text}
            report = beginnings(found)
        elif options.startup:
            found = {task: started([f"task={task}", *overrides], 1, threads) for task in configs}
            report = beginnings(found)
        elif options.parts:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                found = dict(zip(configs, pool.map(parts, configs.values(), chunksize=1), strict=True))
            report = taken_apart(found)
        else:
            for task, config in configs.items():
                for name in options.work:
                    print(f"measuring: {task} {name}", file=sys.stderr)
                    found[f"{task} {name}"] = rounds(name, config, options.seconds)
            report = compared(found)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    try:
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
