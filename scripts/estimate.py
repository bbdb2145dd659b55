"""What a large model on a large corpus would need: python scripts/estimate.py

Worked out, not run: from the rates in outputs/published/bench and two public ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where the other scripts are

import bench

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "outputs" / "published" / "bench"
TOKENS = 22  # predicted of a sentence of 21 words
PIECES = 50_000  # of the vocabulary
BATCH = 1_000  # sentences a GPU and step
GPUS = 8
# training of GPT-2 124M, tokens/s of one GPU: README of nanoGPT (3e11 tokens in 4 days on 8 A100s) and, for
# llm.c, of modded-nanogpt (1e10 tokens in 45 minutes on 8 H100s)
PUBLIC = {"one A100 (nanoGPT)": 3e11 / (8 * 4 * 86_400), "one H100 (llm.c)": 1e10 / (8 * 45 * 60)}
PUBLIC_PARAMETERS = 124e6
LINKS = {"450 GB/s, within a machine": 450e9, "100 Gbit/s, between machines": 12.5e9}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=1e8, help="in matrix products (default: 1e8)")
    parser.add_argument("--sentences", type=float, default=1e8, help="of the corpus (default: 1e8)")
    return parser.parse_args(arguments)


def here() -> float:
    """Return the FLOP/s of this project's PTB step on the machine of the published bench."""
    numbers = json.loads((BENCH / "ptb.json").read_text())["ptb step"]
    return numbers["flop"]["ours"] / statistics.median(numbers["seconds"]["ours"])


def starts(sentences: float) -> dict[str, float]:
    """Return seconds and bytes of both starts for so many sentences, along the published ones."""
    numbers = json.loads((BENCH / "texts_again.json").read_text())
    sizes = "1,000,000 sentences", "5,000,000 sentences"
    growth, values = sentences / (5e6 - 1e6), {}
    for which in ("", ", again"):
        small, large = (numbers[name + which] for name in sizes)
        added = {key: (large[key] - small[key]) * growth for key in ("first_update_seconds", "peak_mib")}
        values[f"seconds{which}"] = added["first_update_seconds"]
        values[f"bytes{which}"] = added["peak_mib"] * 2**20
    return values


def duration(seconds: float) -> str:
    """Return seconds in a unit that suits them."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.2g} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how long an epoch takes, and what else is needed."""
    options = parse(arguments)
    parameters, sentences = options.parameters, options.sentences
    cost = 6 * parameters  # FLOP a token: two a parameter forward, four backward
    speeds = {"the two cores of the first table": here()}
    speeds |= {name: 6 * PUBLIC_PARAMETERS * rate for name, rate in PUBLIC.items()}
    epoch = sentences * TOKENS * cost
    rows = [(name, f"{speed / 1e12:.3g}", duration(epoch / speed)) for name, speed in speeds.items()]
    print(bench.table(["on", "TFLOP/s", "an epoch"], rows))

    fastest = max(speeds.values())
    step, start = BATCH * TOKENS * cost / fastest, starts(sentences)
    logits = 2 * 4 * BATCH * TOKENS * PIECES
    peaks = {which: f"{start[f'bytes{which}'] / 1e9:.2g} GB" for which in ("", ", again")}
    needs = [
        ("GPU: weights, gradients and Adam's moments, float32", f"{16 * parameters / 1e9:.2g} GB"),
        ("GPU: gradients once more, to sum them over processes", f"{4 * parameters / 1e9:.2g} GB"),
        (f"GPU: logits of {BATCH:,} sentences and their gradient", f"{logits / 1e9:.2g} GB"),
        ("GPU: the corpus, four bytes a token", f"{4 * sentences * (TOKENS + 1) / 1e9:.2g} GB"),
        ("first start, two cores", duration(start["seconds"])),
        ("first start, peak memory", peaks[""]),
        ("later starts, two cores, without the sha256 of the file", duration(start["seconds, again"])),
        ("later starts, peak memory of each process, mapped files included", peaks[", again"]),
        (f"a step of {BATCH:,} sentences on the fastest GPU", duration(step)),
    ]
    sent = 2 * (GPUS - 1) / GPUS * 4 * parameters
    what = f"its sum of gradients over {GPUS} GPUs"
    needs += [(f"{what}, {link}", duration(sent / rate)) for link, rate in LINKS.items()]
    print()
    print(bench.table(["what", "needs"], needs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
