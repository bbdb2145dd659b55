"""Measures the speed of a training step of the paper's PTB model on this machine's CPU.

Three processes take turns, round after round: a plain step (nn.LSTM, cross_entropy, clip_grad_norm_ and
torch.optim.Adam as torch has them), our step (cvae.update.Update as train.py runs it) and the matrix product
of two 1024 x 1024 float32 matrices. Each round of the two steps sees the same synthetic batches: 32 sentences
of one length, lengths log-normal like PTB's with a mean of 22 predicted tokens. No data are needed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from cvae import cli, memory, models, objective  # noqa: F401  cli registers what conf/config.yaml uses
from cvae.config import Config, load
from cvae.data.text import BOS, EOS, SPECIALS, Batch
from cvae.models.output import output_nll
from cvae.models.sentence import SentenceVAE
from cvae.update import Update

WORDS = 10_002
STEPS = 4  # a round: as many batches, of lengths at evenly spaced quantiles
SIDE = 1024  # of the reference product's matrices
BETA, RATE = 0.5, 1e-3
Work = tuple[float, float]  # what was done (tokens, or FLOP for sgemm) and the seconds it took

EXAMPLES = """examples:
  python scripts/bench.py                            one minute, all cores
  python scripts/bench.py --threads 1 --json a.json

Nothing else should run: a busy core costs a step with barriers more than it costs a matrix product."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="how long to measure (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads (default: torch's choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers there, too")
    options = parser.parse_args(arguments)
    if not options.seconds > 0:
        parser.error("--seconds must be above 0")
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


# ---- what is measured ----


def configuration() -> Config:
    """The paper's PTB run."""
    conf = Path(__file__).resolve().parent.parent / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        return load(compose("config", ["task=ptb", "device=cpu"]))


def batches(size: int) -> list[Batch]:
    """A round's batches, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.5
    middle = math.log(22) - spread**2 / 2
    normal = statistics.NormalDist(middle, spread)
    counted = [math.exp(normal.inv_cdf((i + 0.5) / STEPS)) for i in range(STEPS)]
    made = []
    for length in (1 + round(count * 22 / statistics.mean(counted)) for count in counted):
        tokens = torch.randint(len(SPECIALS), WORDS, (size, length), generator=generator)
        tokens[:, 0], tokens[:, -1] = BOS, EOS
        made.append(Batch(tokens, torch.full((size,), length)))
    return made


def flops(model: SentenceVAE, batch: Batch) -> int:
    """FLOP of matrix products in a step: two a weight and use going forward, four going backward."""
    encoder, decoder = model.encoder, model.decoder
    sentences, length = batch.tokens.shape
    uses = {
        encoder.lstm: length,
        encoder.mean: 1,
        encoder.logvar: 1,
        decoder.start: 1,
        decoder.lstm: length - 1,
        decoder.output: length - 1,
    }
    weights = {module: sum(p.numel() for p in module.parameters() if p.dim() == 2) for module in uses}
    return 6 * sentences * sum(weights[module] * uses[module] for module in uses)


def plain_step(model: SentenceVAE, config: Config) -> Callable[[Batch], Any]:
    """The same step without anything of ours that makes it fast."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def step(batch: Batch) -> None:
        q = model.posterior(batch)
        z = q.mean + (0.5 * q.logvar).exp() * torch.randn_like(q.mean)
        nll = model.decode_nll(batch, z, plain=True)
        kl = 0.5 * (q.mean.square() + q.logvar.exp() - 1 - q.logvar).sum(-1)
        optimizer.zero_grad()
        (nll + BETA * kl).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()

    return step


def our_step(model: SentenceVAE, config: Config) -> Callable[[Batch], Any]:
    """The step of train.py."""
    memory.keep_freed()
    update = Update(model, config)
    return lambda batch: update(batch, BETA, RATE)


def parts(model: SentenceVAE, config: Config, batch: Batch) -> dict[str, Callable[[], Any]]:
    """The parts of our step, forward and backward, each on its own."""
    encoder, decoder = model.encoder, model.decoder
    update = Update(model, config)
    objective.loss(objective.terms(model, batch), BETA).backward()  # something for the optimiser
    sentences, length = batch.tokens.shape
    shape, hidden = (sentences, length - 1), config.model.hidden
    heard = torch.randn(sentences, length, config.model.embed, requires_grad=True)
    read = torch.randn(*shape, decoder.lstm.input_size, requires_grad=True)
    states = torch.randn(sentences * (length - 1), hidden, requires_grad=True)
    start = torch.zeros(config.model.layers, sentences, hidden, requires_grad=True)
    layer, targets = decoder.output, batch.targets.flatten()

    def backward(result: torch.Tensor, *inputs: torch.Tensor) -> None:
        torch.autograd.grad(result.mean(), inputs)

    def embeddings() -> None:
        backward(encoder.embedding(batch.tokens), encoder.embedding.weight)
        backward(decoder.embedding(batch.inputs), decoder.embedding.weight)

    return {
        "embeddings": embeddings,
        "encoder LSTM": lambda: backward(encoder.lstm(heard)[0], heard, *encoder.lstm.parameters()),
        "decoder LSTM": lambda: backward(
            decoder.lstm(read, (start, start))[0], read, start, *decoder.lstm.parameters()
        ),
        "output layer and loss": lambda: backward(
            output_nll(states, layer.weight, layer.bias, targets), states, layer.weight, layer.bias
        ),
        "clipping and Adam": lambda: update.descend(0.0),
    }


# ---- the processes ----


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def rounds_of(kind: str) -> Iterator[Work | dict[str, Any]]:
    """Rounds without end."""
    if kind == "sgemm":
        left, right, out = (torch.randn(SIDE, SIDE) for _ in range(3))
        times = 20
        while True:
            yield (
                2.0 * SIDE**3 * times,
                seconds(lambda: [torch.mm(left, right, out=out) for _ in range(times)]),
            )
    config = configuration()
    torch.manual_seed(0)
    model = models.build(config.model, WORDS).train()
    step = {"plain": plain_step, "ours": our_step}[kind](model, config)
    given = batches(config.train.batch_size)
    tokens = sum(int(batch.counted.sum()) for batch in given)
    while True:
        yield float(tokens), seconds(lambda: [step(batch) for batch in given])


def breakdown() -> dict[str, float]:
    """Seconds in each part of our step, the median of nine at a sentence of 22 tokens, and in all of it."""
    memory.keep_freed()
    config = configuration()
    model = models.build(config.model, WORDS).train()
    size = config.train.batch_size
    batch = Batch(torch.randint(len(SPECIALS), WORDS, (size, 23)), torch.full((size,), 23))
    step = our_step(model, config)
    timed = {"whole step": lambda: step(batch), **parts(model, config, batch)}
    taken = [{name: seconds(work) for name, work in timed.items()} for _ in range(10)][1:]
    return {name: statistics.median(one[name] for one in taken) for name in timed}


def work_on(kind: str, threads: int | None, orders: Connection) -> None:
    """A process: a round for each order, until the order to end; then its peak memory."""
    if threads:
        torch.set_num_threads(threads)
    made = rounds_of(kind)
    next(made)  # warm
    orders.send(None)
    while orders.recv():
        orders.send(next(made))
    orders.send(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    )
    if orders.recv():
        orders.send(breakdown())


def measure(duration: float, threads: int | None) -> dict[str, Any]:
    """Rounds of {plain, ours, sgemm} in turn for `duration` seconds, at least three; then the rest."""
    context = multiprocessing.get_context("spawn")
    lines, workers = {}, []
    for kind in ("plain", "ours", "sgemm"):
        lines[kind], theirs = context.Pipe()
        workers.append(context.Process(target=work_on, args=(kind, threads, theirs), daemon=True))
        workers[-1].start()
        theirs.close()
    for line in lines.values():
        line.recv()
    found: dict[str, list[float]] = {kind: [] for kind in lines}
    end = time.perf_counter() + duration
    while time.perf_counter() < end or len(found["sgemm"]) < 3:
        for kind, line in lines.items():
            line.send(True)
            done, taken = line.recv()
            found[kind].append(done / taken)
    for line in lines.values():
        line.send(False)
    peaks = {kind: line.recv() for kind, line in lines.items()}
    for kind, line in lines.items():
        line.send(kind == "ours")
    shares = lines["ours"].recv()
    for worker in workers:
        worker.join()
    return {"rates": found, "peak_mib": peaks, "seconds": shares}


# ---- the report ----


def flop_per_token() -> float:
    """Of a round, from the model's shapes."""
    config = configuration()
    with torch.device("meta"):
        model = models.build(config.model, WORDS)
    given = batches(config.train.batch_size)
    return sum(flops(model, batch) for batch in given) / sum(int(batch.counted.sum()) for batch in given)


def report(found: dict[str, Any], cost: float) -> str:
    """The tables, in Markdown. Ratios are medians over rounds of neighbours in time."""
    rates = found["rates"]
    median = statistics.median
    lines = [
        "| step | tokens/s | share of sgemm | ratio to plain | peak memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind in ("plain", "ours"):
        share = median(a * cost / b for a, b in zip(rates[kind], rates["sgemm"], strict=True))
        ratio = median(a / b for a, b in zip(rates[kind], rates["plain"], strict=True))
        peak = found["peak_mib"][kind]
        lines.append(f"| {kind} | {median(rates[kind]):,.0f} | {share:.2f} | {ratio:.2f} | {peak:,.0f} MiB |")
    lines += ["", "| part of our step | ms | share |", "|---|---:|---:|"]
    spent = dict(found["seconds"])
    whole = spent.pop("whole step")
    spent["the rest (dropout, latent, loss)"] = whole - sum(spent.values())
    lines += [f"| {name} | {1000 * s:.1f} | {s / whole:.0%} |" for name, s in spent.items()]
    lines += [
        f"| whole step, 32 x 22 tokens | {1000 * whole:.1f} | 100% |",
        "",
        f"sgemm {median(rates['sgemm']) / 1e9:.1f} GFLOP/s; {cost / 1e6:.2f} MFLOP a token in products;"
        f" {len(rates['sgemm'])} rounds. Peak memory is the whole process's (ru_maxrss), torch included."
        " Parts are timed each on its own, so that the rest is a difference.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    options = parse(arguments)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before the processes import torch
    found, cost = measure(options.seconds, options.threads), flop_per_token()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, torch {torch.__version__}\n")
    print(report(found, cost))
    if options.json is not None:
        options.json.write_text(json.dumps(found | {"flop_per_token": cost}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
