"""Measure how fast this machine trains, evaluates and generates, beside plain torch and its matrix product.

Processes take turns, round after round: the work by torch's own modules (plain), by cvae (ours), and the
product of two square matrices in the same precision (sgemm). On a CPU that multiplies bf16, float32 steps and
products have rows in bf16 beside them. Models are untrained and have their task's size; batches are the first
of training. `share of sgemm` is the time that a work's own matrix products would take at sgemm's speed, over
the time it takes: in bf16 it can be more than 1. A token is a predicted one; for iw_nll, one for each sample
of z.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import count
from cvae.cli.composition import composed, composing
from cvae.config.load import load
from cvae.config.schema import Config
from cvae.data.vocabulary import EOS
from cvae.errors import UserError
from cvae.evaluation import latent
from cvae.io import read_json
from cvae.models import decode, gaussian, kernels, objective
from cvae.models.kernels import multiplies_bf16
from cvae.models.objective import LatentModel, Terms
from cvae.tasks.language_model import LanguageTask
from cvae.training import steps
from cvae.training.precision import autocast
from cvae.training.run import prepare
from scripts.profiling import operations, parts

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("ptb", "switchboard", "yelp", "toy")
WORKS = {"step": 8, "evaluation": 8, "iw_nll": 1, "generation": 2}  # batches in a round
BETA, LEARNING_RATE = 0.5, 1e-3
IN_BF16 = ", bf16"  # ends the name of a row that is not in the precision of the configuration
SAMPLES, PLAIN_PASSES = 50, 3  # for iw_nll: samples of z, and the plain passes over a batch measured instead
LONGEST = 20  # words of a generated sentence

EXAMPLES = """examples:
  python scripts/bench.py                                 PTB's training step, one minute
  python scripts/bench.py --task all --work all --seconds 20 --json all.json
  python scripts/bench.py --task ptb switchboard --parts  where the time of an update goes
  python scripts/bench.py model=transformer               of that model, with torch's fused attention in both
  python scripts/bench.py --task ptb yelp --operations    how many operations an update dispatches
  python scripts/bench.py --task all --startup            from the command to the first update
  python scripts/bench.py --text 10000 1000000            the same for texts of so many sentences, twice each
  python scripts/bench.py --task ptb --device cuda precision=bf16
  python scripts/bench.py --read outputs/published/bench/ptb.json   the table of what --json wrote

--step FILE takes turns with a step of your own: FILE defines step(batch), and may define prepare(task),
called once with the task that the batches are of (configuration, data, model).

Nothing else should run: a busy core costs work with barriers more than it costs a matrix product."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
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
    add("--step", type=Path, metavar="FILE", help="time step(batch) of this Python file, too; see below")
    add("--parts", action="store_true", help="instead: where the time of an update goes")
    add("--operations", action="store_true", help="instead: how many operations an update dispatches")
    add("--startup", action="store_true", help="instead: the time to the first update, and the memory")
    add("--text", nargs="+", type=int, metavar="N", help="instead: that for texts of N sentences")
    add("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    add("--read", type=Path, metavar="FILE", help="measure nothing: print the table of what --json wrote")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error("--seconds must be above 0")
    if options.step is not None and not options.step.is_file():
        parser.error(f"--step: there is no file {options.step}")
    if options.step is not None and options.step.stem in ("plain", "ours", "sgemm"):
        parser.error(f"--step: {options.step.name} would be taken for a row of the table: rename it")
    if options.text and min(options.text) < 100:
        parser.error("--text must be at least 100 sentences")
    if wrong := [given for given in options.overrides if "=" not in given]:
        parser.error(f"{wrong[0]} is no KEY=VALUE")
    options.task = list(TASKS) if "all" in options.task else options.task
    options.work = list(WORKS) if "all" in options.work else options.work
    return options


def configuration(task: str, overrides: Sequence[str], threads: int | None) -> Config:
    """Return the configuration of a task as train.py would have it. Raises UserError."""
    with composing():
        return load(composed([f"task={task}", f"threads={threads or 'null'}", *overrides]))


Work = Callable[[], Any]


def work(kind: str, name: str, task: LanguageTask, own: Path | None = None) -> tuple[Work, int]:
    """Return a round of a work, and its tokens; `own` is the file of another step.

    Raises KeyError where there is no such work of this kind.
    """
    model, train = task.model, task.batches["train"]
    batches = [train.at(step) for step in range(WORKS[name])]
    tokens = sum(int(batch.counted.sum()) for batch in batches)
    if name == "step":
        model.train()
        if own is not None:
            step = own_step(own, task)
        else:
            step = plain_step(task) if kind == "plain" else steps.build(task.model, task.config)
        return (lambda: [step(train.at(n), BETA, LEARNING_RATE) for n in range(len(batches))]), tokens
    model.eval()
    noise = task.generator()
    if name == "evaluation":
        by_kind = {
            "plain": lambda: [plain_terms(model, batch, noise) for batch in batches],
            "ours": lambda: latent.collect_posteriors(model, batches, False, noise),
        }
    elif name == "iw_nll":
        tokens *= {"plain": PLAIN_PASSES, "ours": SAMPLES}[kind]
        chunk, passes = task.config.task.iw_chunk, range(PLAIN_PASSES)
        by_kind = {
            "plain": lambda: [plain_terms(model, batch, noise) for batch in batches for _ in passes],
            "ours": lambda: latent.importance_weighted(model, batches, SAMPLES, chunk, noise),
        }
    else:
        tokens = LONGEST * sum(len(batch.lengths) for batch in batches)
        by_kind = {"ours": lambda: [generation(model, batch, noise) for batch in batches]}
    return torch.no_grad()(by_kind[kind]), tokens


def own_step(path: Path, task: LanguageTask) -> Callable[..., Any]:
    """Return `step(batch)` of a Python file, prepared. Raises UserError where it defines none."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--step: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "step", None)):
        raise UserError(f"--step: {path} must define step(batch)")
    getattr(module, "prepare", lambda task: None)(task)
    return lambda batch, beta, lr: module.step(batch)


def plain_terms(model: LatentModel, batch: Any, noise: torch.Generator | None = None) -> Terms:
    """Return the terms of a batch by torch's own operations."""
    with kernels.disabled():
        return objective.terms(model, batch, generator=noise)


def plain_step(task: LanguageTask) -> Callable[..., Any]:
    """Return the training step of train.py by plain torch."""
    model, config = task.model, task.config
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step(batch: Any, beta: float, lr: float) -> None:
        optimizer.zero_grad()
        with autocast(config.precision, task.device.type):
            loss = objective.loss(plain_terms(model, batch), beta)
        loss.backward()
        if config.train.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()

    return step


def generation(model: Any, batch: Any, noise: torch.Generator) -> None:
    """Generate a sentence of LONGEST words from the prior for each row of the batch."""
    batch = model.shared(batch)
    z = gaussian.sample(model.prior(batch), noise)
    decode.generate(model, batch, z, LONGEST, decode.SamplingOptions(forbid=(EOS,)), noise)


def flop(work: Work) -> int:
    """Return the FLOP of a work's matrix products, of LSTMs and attention by torch code that shows them."""

    def in_place(added: Any, left: Any, right: Any, **rest: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False
    try:
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place})
        with counter, sdpa_kernel(SDPBackend.MATH):
            work()
    finally:
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = True
    return counter.get_total_flops()


def sgemm(device: str, precision: str) -> tuple[Work, int]:
    """Return a work of products of two square matrices in a precision, and its FLOP."""
    side, times = (1024, 20) if device == "cpu" else (8192, 10)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    return (lambda: [torch.mm(left, right, out=out) for _ in range(times)]), 2 * side**3 * times


def seconds(work: Work, device: str) -> float:
    """Return how long a work takes, on a GPU until it has finished."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    before = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - before


def peak(device: str) -> float:
    """Return the peak memory in MiB: of the GPU, or of the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def serve(kind: str, name: str, config: Config, own: Path | None, line: Connection) -> None:
    """Serve a work in a process of its own: send its tokens, a UserError, or None for no such work.

    Each True is answered by the seconds of a round, False by FLOP and peak memory.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if kind.endswith(IN_BF16):
        kind, config = kind.removesuffix(IN_BF16), replace(config, precision="bf16")
    try:
        if product := kind == "sgemm":
            measured, tokens = sgemm(config.device, config.precision)
        else:
            measured, tokens = work(kind, name, prepare(config), own)
    except (KeyError, UserError) as error:
        line.send(None if isinstance(error, KeyError) else error)
        return
    measured()  # to warm up
    line.send(tokens)
    while line.recv():
        line.send(seconds(measured, config.device))
    memory = peak(config.device)
    line.send((tokens if product else flop(measured), memory))


def rounds(name: str, config: Config, duration: float, own: Path | None = None) -> dict[str, Any]:
    """Return the numbers of rounds of {plain, ours, sgemm} in turn for `duration` seconds, at least three.

    Where the processor multiplies bf16, all three are measured in both precisions. `own` is the file of
    another step, which takes turns with them. Raises UserError where it has none.
    """
    context = multiprocessing.get_context("spawn")
    lines, workers, tokens = {}, [], {}
    kinds = ["plain", "ours", "sgemm"]
    if name == "step" and (config.precision, config.device) == ("float32", "cpu") and multiplies_bf16():
        kinds += [kind + IN_BF16 for kind in kinds]
    files: dict[str, Path | None] = dict.fromkeys(kinds)
    if own is not None and name == "step":
        files[own.stem] = own
    for kind, file in files.items():
        lines[kind], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(kind, name, config, file, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
        if isinstance(count_of_tokens := lines[kind].recv(), UserError):
            raise count_of_tokens
        if count_of_tokens is None:
            del lines[kind]
        else:
            tokens[kind] = count_of_tokens
    durations: dict[str, list[float]] = {kind: [] for kind in lines}
    end = time.perf_counter() + duration
    while time.perf_counter() < end or len(durations["sgemm"]) < 3:
        for kind, line in lines.items():
            line.send(True)
            durations[kind].append(line.recv())
    for line in lines.values():
        line.send(False)
    measured = {kind: line.recv() for kind, line in lines.items()}
    for worker in workers:
        worker.join()
    flops, peaks = ({kind: both[place] for kind, both in measured.items()} for place in range(2))
    return {"tokens": tokens, "seconds": durations, "flop": flops, "peak_mib": peaks}


def started(
    overrides: Sequence[str], updates: int, threads: int | None, cache: str | None = None
) -> dict[str, float]:
    """Return the seconds to the first update, peak MiB and median tokens/s of train.py.

    What it reads is kept in the folder `cache`, by default a new one.
    """
    with tempfile.TemporaryDirectory() as folder:
        metrics, out = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "out"
        command = [sys.executable, str(ROOT / "train.py"), *overrides, f"train.stop_after={updates}"]
        command += ["train.log_every=10", "train.progress=false", f"hydra.run.dir={metrics.parent}"]
        caches = dict.fromkeys(("HF_DATASETS_CACHE", "CVAE_CACHE"), cache or folder)
        variables = caches | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        begun, first, ended = time.perf_counter(), None, 0
        with out.open("w") as log:
            process = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
        while not ended:
            time.sleep(0.02)
            if first is None and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - begun
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or first is None:
            raise UserError(f"{' '.join(command)} failed: {out.read_text().strip()[-500:]}")
        rates = [json.loads(line).get("time/tokens_per_second") for line in metrics.open()][1:]
        numbers = {"first_update_seconds": first, "peak_mib": usage.ru_maxrss / 2**10}
        return numbers | ({"tokens_per_second": statistics.median(rates)} if rates else {})


def write_text(path: Path, sentences: int) -> None:
    """Write sentences of log-normal lengths around 21 words, of 20,000 types with Zipf's frequencies."""
    generator = np.random.default_rng(0)
    types = np.array([f"w{number}" for number in range(20_000)], dtype=object)
    cumulated = np.cumsum(1 / (np.arange(len(types)) + 2.7))
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, sentences, 10_000):
            lengths = generator.lognormal(2.92, 0.5, min(10_000, sentences - start)).astype(int).clip(1, 80)
            drawn = types[np.searchsorted(cumulated, generator.random(lengths.sum()) * cumulated[-1])]
            for words in np.split(drawn, np.cumsum(lengths)[:-1]):
                file.write(" ".join(words) + "\n")


def text(sentences: int, overrides: Sequence[str], threads: int | None) -> dict[str, dict[str, float]]:
    """Return `started` for a first and a second start on a text of so many sentences, by what they are.

    With the paper's PTB model and 10,000 words.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write_text(path, sentences)
        data = ["task=ptb", "dataset=text", f"dataset.path={path}", "dataset.vocabulary=9998"]
        size = {"file_mib": path.stat().st_size / 2**20}
        return {
            f"{sentences:,} sentences{which}": size | started([*data, *overrides], 41, threads, folder)
            for which in ("", ", again")
        }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows])


def compared(measured: dict[str, Any]) -> str:
    """Return a row for plain and for ours of each work; ratios are medians of those within a round."""
    median, rows = statistics.median, []
    speeds: dict[str, list[float]] = {}
    for name, numbers in measured.items():
        durations, cost, rates = numbers["seconds"], numbers["flop"], {}
        products = [kind for kind in durations if kind.startswith("sgemm")]
        for kind in products:
            speeds.setdefault(kind, []).extend(cost[kind] / s / 1e9 for s in durations[kind])
        for kind in (kind for kind in durations if kind not in products):
            tokens = numbers["tokens"][kind]
            rates[kind] = [tokens / s for s in durations[kind]]
            of_sgemm = median(
                cost[kind] / own * other / cost["sgemm"]
                for own, other in zip(durations[kind], durations["sgemm"], strict=True)
            )
            ratio = "-"
            if "plain" in rates:
                ratio = f"{median(a / b for a, b in zip(rates[kind], rates['plain'], strict=True)):.2f}"
            cells = f"{median(rates[kind]):,.0f}", f"{cost[kind] / tokens / 1e6:.3g}", f"{of_sgemm:.2f}"
            rows.append([name, kind, *cells, ratio, f"{numbers['peak_mib'][kind]:,.0f} MiB"])
    head = ["work", "by", "tokens/s", "MFLOP a token", "share of sgemm", "ratio to plain", "peak memory"]
    said = [
        f"{kind}: {median(found):,.0f} GFLOP/s ({min(found):,.0f} to {max(found):,.0f})"
        for kind, found in speeds.items()
    ]
    return "\n\n".join([table(head, rows), "; ".join(said)])


def taken_apart(measured: dict[str, dict[str, float]]) -> str:
    """Return a row for each part of an update, with its share for each task, and one of milliseconds."""
    whole = {task: sum(spent.values()) for task, spent in measured.items()}
    shares: dict[str, dict[str, float]] = {}
    for task, spent in measured.items():
        for part, s in spent.items():
            shares.setdefault(part, {})[task] = s / whole[task]
    ranked = sorted(shares, key=lambda part: (part == "the rest", -max(shares[part].values())))
    rows = [
        [part, *(f"{shares[part][t]:.0%}" if t in shares[part] else "-" for t in measured)] for part in ranked
    ]
    rows.append(["all, in ms", *(f"{1e3 * s:.1f}" for s in whole.values())])
    return table(["part of an update", *measured], rows)


def dispatched(measured: dict[str, dict[str, int]]) -> str:
    """Return a column of counts for each task."""
    rows = [
        [name, *(str(counts[name]) for counts in measured.values())] for name in next(iter(measured.values()))
    ]
    return table(["of an update", *measured], rows)


def beginnings(measured: dict[str, dict[str, float]]) -> str:
    """Return a row for each start of train.py."""
    rows = []
    for name, numbers in measured.items():
        rate = f"{numbers['tokens_per_second']:,.0f}" if "tokens_per_second" in numbers else "-"
        first = f"{numbers['first_update_seconds']:.1f}"
        rows.append([name, first, f"{numbers['peak_mib']:,.0f} MiB", rate])
    return table(["started", "first update after s", "peak memory", "tokens/s"], rows)


def recorded(path: Path) -> str:
    """Return the table of a file that --json wrote. Raises UserError for any other file."""
    try:
        measured = read_json(path) or {"": {}}
        keys = min(measured.values(), key=len)
        if not keys:
            raise ValueError
        shown = {"seconds": compared, "peak_mib": beginnings, "operations": dispatched}
        show = next((show for key, show in shown.items() if key in keys), taken_apart)
        return show(measured)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path} holds no numbers that --json wrote") from None


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return what the options ask to measure, and its table. Raises UserError."""
    threads, overrides = options.threads, [*options.overrides, f"device={options.device}"]
    configs = {task: configuration(task, overrides, threads) for task in options.task}
    if options.text:
        measured = {}
        for size in options.text:
            measured |= text(size, overrides, threads)
        return measured, beginnings(measured)
    if options.startup:
        measured = {task: started([f"task={task}", *overrides], 1, threads) for task in configs}
        return measured, beginnings(measured)
    if options.operations:
        measured = {task: operations(config) for task, config in configs.items()}
        return measured, dispatched(measured)
    if options.parts:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            measured = dict(zip(configs, pool.map(parts, configs.values(), chunksize=1), strict=True))
        return measured, taken_apart(measured)
    measured = {}
    for task, config in configs.items():
        for name in options.work:
            print(f"measuring: {task} {name}", file=sys.stderr)
            measured[f"{task} {name}"] = rounds(name, config, options.seconds, options.step)
    return measured, compared(measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for and print its table."""
    options = parse(arguments)
    try:
        if options.read is not None:
            print(recorded(options.read))
            return 0
        if options.threads:
            os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before the processes import torch
        bf16 = "" if options.device == "cuda" or multiplies_bf16() else ", no products in bf16"
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores{bf16}, torch {torch.__version__}\n")
        measured, report = measure(options)
        print(report)
        if options.json is not None:
            options.json.write_text(json.dumps(measured, indent=1) + "\n")
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
