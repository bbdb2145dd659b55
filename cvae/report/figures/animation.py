"""The latent plane over training as an animation, the schedules side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cvae.errors import RunsError
from cvae.report.figures.latents import clouds, measured, plane, plane_limit, scatter
from cvae.report.figures.style import COLOURS, GREY, OTHER_COLOUR, group_runs, labels, tidy
from cvae.runs.reader import Group, Run

SIDE, GAP = 2.3, 0.15  # inches, of a latent panel and between two


def latent_animation(runs: Sequence[Run], samples: int = 200, dpi: int = 110) -> Iterator[Image.Image]:
    """A frame for each update of which every schedule has a snapshot: samples of q(z|n), and β so far.

    Of several seeds the first with snapshots is shown. Raises RunsError where no run has a 2-d latent.
    """
    drawn = {
        group: next((run for run in members if run.latents), None)
        for group, members in group_runs(runs).items()
        if group[0] != "none"
    }
    drawn = {group: run for group, run in drawn.items() if run is not None}
    flat = [s.mean.shape[1] == 2 for run in drawn.values() for s in run.latents.values()]
    if not flat or not all(flat):
        raise RunsError("only a 2-d latent can be animated, with a latents.jsonl: use task=toy")
    steps = sorted(set.intersection(*(set(run.latents) for run in drawn.values())))
    z = {
        (group, step): clouds(run.latents[step], samples, common=False)
        for group, run in drawn.items()
        for step in steps
    }
    limit = plane_limit([points for points, _ in z.values()])
    figure, panels, strips = _axes(drawn, steps[-1], samples)
    counter = figure.text(0.5, 0.36 / figure.get_figheight(), "", ha="center", fontsize=13)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    for step in steps:
        for group, run in drawn.items():
            _panel(panels[group], run, step, z[group, step], limit)
            _beta(strips[group], run, step)
        counter.set_text(f"update {step:,}")
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _axes(
    drawn: Mapping[Group, Run], last: int, samples: int
) -> tuple[Figure, dict[Group, Axes], dict[Group, Axes]]:
    """For each schedule a latent panel, its name above it, and a strip for β beneath."""
    width, height = GAP + len(drawn) * (SIDE + GAP), SIDE + 1.75
    figure = Figure(figsize=(width, height))
    panels, strips, names = {}, {}, labels(drawn)
    for place, group in enumerate(drawn):
        left = (GAP + place * (SIDE + GAP)) / width
        panels[group] = figure.add_axes((left, 1.4 / height, SIDE / width, SIDE / height))
        inner = (left + 0.25 / width, 0.85 / height, (SIDE - 0.35) / width, 0.3 / height)
        strips[group] = figure.add_axes(inner)
        middle, top = left + SIDE / 2 / width, 1 - 0.17 / height
        look = {"c": COLOURS.get(group[0], OTHER_COLOUR), "weight": "bold", "fontsize": 13}
        figure.text(middle, top, names[group], ha="center", va="center", **look)
    first = next(iter(drawn.values()))
    most = math.log(len(first.latents[max(first.latents)].label))
    text = (
        f"{samples} samples of q(z|n) for each sequence n; circle: the prior at 2σ; "
        f"I: what z tells of n, of {most:.2f} nats; acc: how often z tells n"
    )
    figure.text(0.5, 0.1 / height, text, fontsize=7.5, c=GREY, ha="center")
    return figure, panels, strips


def _panel(ax: Axes, run: Run, step: int, cloud: tuple[np.ndarray, np.ndarray], limit: float) -> None:
    ax.clear()
    plane(ax, limit, (2,))
    scatter(ax, *cloud)
    text = measured(run, step, ("mi", "accuracy"))
    ax.text(0.5, 0.01, text, transform=ax.transAxes, ha="center", va="top", fontsize=11)


def _beta(ax: Axes, run: Run, step: int) -> None:
    """β so far, and what is to come in grey."""
    steps, beta = run.series("train/beta")
    past, colour = steps <= step, COLOURS.get(run.group[0], OTHER_COLOUR)
    ax.clear()
    tidy(ax, steps[-1])
    ax.grid(False)
    ax.set(ylim=(-0.15, 1.25), yticks=(0, 1))
    ax.plot(steps, beta, c="#cccccc", lw=1.2)
    ax.plot(steps[past], beta[past], c=colour, lw=1.6)
    ax.plot(steps[past][-1:], beta[past][-1:], "o", c=colour, ms=5, clip_on=False)
    ax.set_ylabel(r"$\beta$", fontsize=11, rotation=0, va="center", labelpad=5)
    ax.tick_params(labelsize=8)


def save_gif(frames: Iterator[Image.Image], path: Path, seconds: float = 0.3, rest: float = 3.0) -> Path:
    """Writes an endless GIF in the middle frame's 64 main colours; the last one stays for `rest` seconds."""
    pictures = list(frames)
    palette = pictures[len(pictures) // 2].quantize(64, method=Image.Quantize.MAXCOVERAGE)
    few = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [int(1000 * seconds)] * (len(few) - 1) + [int(1000 * rest)]
    path.parent.mkdir(parents=True, exist_ok=True)
    few[0].save(path, save_all=True, append_images=few[1:], duration=times, loop=0, optimize=True)
    return path
