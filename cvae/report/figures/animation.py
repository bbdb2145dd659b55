"""The latent plane over training as an animation, the schedules side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cvae.errors import RunsError
from cvae.report.figures.latents import clouds, draw_plane, estimates, plane_limit, with_posterior
from cvae.report.figures.style import COLOURS, GREY, OTHER_COLOUR, labels, over_steps
from cvae.runs.reader import Run

SIDE, GAP = 2.3, 0.15  # inches, of a latent panel and between two


def latent_animation(runs: Sequence[Run], samples: int = 200, dpi: int = 110) -> Iterator[Image.Image]:
    """Yield a frame for each step of which every schedule has a snapshot: samples of q(z|n), and β so far.

    Of several seeds the first with snapshots is shown. Raises RunsError where no run has a 2-d latent.
    """
    drawn = [run for run in with_posterior(runs)[1] if run.latents]
    flat = [snapshot.mean.shape[1] == 2 for run in drawn for snapshot in run.latents.values()]
    if not flat or not all(flat):
        raise RunsError("only a 2-d latent can be animated, with a latents.jsonl: use task=toy")
    steps = sorted(set.intersection(*(set(run.latents) for run in drawn)))
    frames = {step: [clouds(run.latents[step], samples, common=False) for run in drawn] for step in steps}
    limit = plane_limit(cloud for frame in frames.values() for cloud in frame)
    figure, panels, strips = _axes(drawn, samples)
    counter = figure.text(0.5, 0.36 / figure.get_figheight(), "", ha="center", fontsize=13)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    for step, frame in frames.items():
        for run, cloud, panel, strip in zip(drawn, frame, panels, strips, strict=True):
            panel.clear()
            draw_plane(panel, cloud, limit, (2,))
            text = estimates(run, step, ("mi", "accuracy"))
            panel.text(0.5, 0.01, text, transform=panel.transAxes, ha="center", va="top", fontsize=11)
            _beta(strip, run, step)
        counter.set_text(f"update {step:,}")
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _axes(drawn: Sequence[Run], samples: int) -> tuple[Figure, list[Axes], list[Axes]]:
    """Return a figure with a latent panel for each run, its schedule above it and a strip for β beneath."""
    width, height = GAP + len(drawn) * (SIDE + GAP), SIDE + 1.75
    figure = Figure(figsize=(width, height))
    panels, strips = [], []
    for place, (group, name) in enumerate(labels(run.group for run in drawn).items()):
        left = (GAP + place * (SIDE + GAP)) / width
        panels.append(figure.add_axes((left, 1.4 / height, SIDE / width, SIDE / height)))
        inner = (left + 0.25 / width, 0.85 / height, (SIDE - 0.35) / width, 0.3 / height)
        strips.append(figure.add_axes(inner))
        middle, top = left + SIDE / 2 / width, 1 - 0.17 / height
        look: dict[str, Any] = {"c": COLOURS.get(group[0], OTHER_COLOUR), "weight": "bold", "fontsize": 13}
        figure.text(middle, top, name, ha="center", va="center", **look)
    most = math.log(len(drawn[0].latents[max(drawn[0].latents)].label))
    text = (
        f"{samples} samples of q(z|n) for each sequence n; circle: the prior at 2σ; "
        f"I: what z tells of n, of {most:.2f} nats; acc: how often z tells n"
    )
    figure.text(0.5, 0.1 / height, text, fontsize=7.5, c=GREY, ha="center")
    return figure, panels, strips


def _beta(ax: Axes, run: Run, step: int) -> None:
    """Draw β up to a step, and what is to come in grey."""
    steps, beta = run.series("train/beta")
    past, colour = steps <= step, COLOURS.get(run.group[0], OTHER_COLOUR)
    ax.clear()
    over_steps(ax, steps[-1])
    ax.grid(False)
    ax.set(ylim=(-0.15, 1.25), yticks=(0, 1))
    ax.plot(steps, beta, c="#cccccc", lw=1.2)
    ax.plot(steps[past], beta[past], c=colour, lw=1.6)
    ax.plot(steps[past][-1:], beta[past][-1:], "o", c=colour, ms=5, clip_on=False)
    ax.set_ylabel(r"$\beta$", fontsize=11, rotation=0, va="center", labelpad=5)
    ax.tick_params(labelsize=8)


def save_gif(frames: Iterator[Image.Image], path: Path, seconds: float = 0.3, rest: float = 3.0) -> Path:
    """Write an endless GIF in the middle frame's 64 main colours; the last frame stays for `rest` seconds."""
    pictures = list(frames)
    palette = pictures[len(pictures) // 2].quantize(64, method=Image.Quantize.MAXCOVERAGE)
    few = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    times = [int(1000 * seconds)] * (len(few) - 1) + [int(1000 * rest)]
    path.parent.mkdir(parents=True, exist_ok=True)
    few[0].save(path, save_all=True, append_images=few[1:], duration=times, loop=0, optimize=True)
    return path
