"""What training shows on a terminal: a progress bar, and a line for each validation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from cvae.config.schema import Train

SHOWN = ("rec", "kl", "ppl", "mi", "path_a")  # of each split, where measured


def progress_bar(config: Train, step: int, total: int) -> tqdm:
    """Return a bar over the steps of a run, hidden where nobody would see it."""
    visible = config.progress and sys.stderr.isatty()
    return tqdm(total=total, initial=step, unit="update", disable=not visible)


def show_means(bar: tqdm, means: Mapping[str, float], beta: float, tokens_per_second: float) -> None:
    """Show the latest means beside the bar."""
    shown = {"β": f"{beta:.2f}", "rec": f"{means['rec']:.2f}"}
    if "kl" in means:
        shown["KL"] = f"{means['kl']:.2f}"
    bar.set_postfix(shown | {"tok/s": f"{tokens_per_second:,.0f}"}, refresh=False)


def validation_line(
    values: Mapping[str, float], splits: Sequence[str], progress: str, beta: float, seconds_left: float
) -> str:
    """Return a validation as one line, a template that the logger fills with the recorded `values`."""
    parts = [f"{progress}  β {beta:.2f}"]
    for split in ("epoch", *splits):
        names = [name for name in SHOWN if f"{split}/{name}" in values]
        numbers = " ".join(f"{name} {{{split}/{name}:.4g}}" for name in names)
        parts.append(f"{'train' if split == 'epoch' else split} {numbers}")
    return " | ".join([*parts, f"{tqdm.format_interval(seconds_left)} left"])
