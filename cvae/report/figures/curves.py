"""The paper's Figures 2 and 4: β, and what the loss is made of, over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cvae.report.figures.style import (
    GREY,
    group_runs,
    labels,
    limit,
    look_of,
    marks,
    note,
    one_task,
    over_steps,
    run_title,
    seed_mean,
    thousands,
)
from cvae.runs.reader import Run
from cvae.schedules import Constant, Cyclical, Monotonic, Schedule, Shape

Panels = Sequence[tuple[str, str]]  # scalar and title of each panel
FIGURE4: Panels = (
    ("train/loss", r"loss: rec + $\beta\,$KL"),
    ("train/rec", "reconstruction error: rec"),
    ("train/kl", "KL"),
)
OVERVIEW: Panels = (
    ("val/elbo", "ELBO, validation"),
    ("val/rec", "rec, validation"),
    ("train/kl", "KL, training"),
    ("val/path_a", "path A: rise in NLL with another z"),
)
# schedule, line width, opacity, marker size and shift of the markers: the three lines coincide for long
THREE = ((Constant(), 5, 0.4, 0, 0.5), (Monotonic(), 3, 1, 8, 0.5), (Cyclical(), 1.5, 1, 8, 0))
SHAPES: tuple[tuple[Shape, str, str], ...] = (
    ("linear", "#0072B2", "-"),
    ("sigmoid", "#CC79A7", "--"),
    ("cosine", "#333333", ":"),
)


def schedules_figure(total: int = 40000) -> Figure:
    """Draw Figure 2: β over `total` steps for three schedules, and the shapes of a cyclical ramp."""
    figure = Figure(figsize=(11, 3.3), layout=ConstrainedLayoutEngine(w_pad=0.08))
    left, right = figure.subplots(1, 2, sharey=True)
    for schedule, width, alpha, size, offset in THREE:
        look = look_of((schedule.name, ""), [""])
        look |= {"linewidth": width, "alpha": alpha, "markersize": size}
        _beta_line(left, schedule, total, schedule.name.capitalize(), offset, look)
    for shape, colour, style in SHAPES:
        look = {"color": colour, "linestyle": style, "linewidth": 1.8, "marker": ""}
        _beta_line(right, Cyclical(shape=shape), total, shape, 0, look)
    for ax, title in ((left, "(a) three schedules"), (right, "(b) shapes of the cyclical ramp")):
        over_steps(ax, total)
        ax.set(ylim=(-0.04, 1.07), yticks=(0, 0.5, 1))
        ax.set_title(title, loc="left", fontsize=12, pad=28)
        ax.set_xlabel("update", fontsize=11)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=10.5)
    left.set_ylabel(r"$\beta$", fontsize=13, rotation=0, labelpad=10)
    return figure


def _beta_line(
    ax: Axes, schedule: Schedule, total: int, label: str, offset: float, look: Mapping[str, Any]
) -> None:
    """Draw one schedule, its markers `offset` eighths of training early."""
    steps = np.unique(np.append(np.arange(0, total, max(1, total // 4000)), total - 1))
    beta = [schedule(int(step), total) for step in steps]
    ax.plot(steps, beta, label=label, markevery=marks(steps, total, -offset), **look)


def curves_figure(runs: Sequence[Run], panels: Panels = FIGURE4) -> Figure:
    """Draw scalars over training, by default those of Figure 4, and β beneath; a line per schedule.

    A line is the mean over seeds, a band reaches from the lowest to the highest of them.
    """
    one_task(runs)
    groups = group_runs(runs)
    total = max(max(run.total or 0, run.last) for run in runs)
    figure, axes, strips = _panels(total, panels)
    names, rates = labels(groups), list(dict.fromkeys(lr for _, lr in groups))
    values: dict[str, list[np.ndarray]] = {key: [] for key, _ in panels}
    for group, members in groups.items():
        look, name = look_of(group, rates), f"{names[group]}{_seeds(members, total)}"
        for key, ax in axes.items():
            steps, mean, low, high = seed_mean(members, key)
            ax.plot(steps, mean, label=name, markevery=marks(steps, total), **look)
            if len(members) > 1:
                ax.fill_between(steps, low, high, color=look["color"], alpha=0.2, lw=0)
            if len(mean) == 0 and any(run.metrics for run in members):
                _absent(ax, names[group])
            values[key].append(mean)
        steps, beta, *_ = seed_mean(members, "train/beta")
        _draw_beta(strips, steps, beta, look)
    _scale(axes, values, runs[0])
    first = next(iter(axes))
    _legend(axes[first], "lower right" if first.endswith("elbo") else "upper right")
    if any(len(members) > 1 for members in groups.values()):
        text = "line: mean over seeds, band: lowest to highest"
        figure.supxlabel(text, fontsize=9.5, c=GREY, x=0.99, ha="right")
    return figure


def run_curves(run: Run) -> Figure:
    """Draw loss, rec, KL and β of one run: lines for training, markers for validation."""
    total = max(run.total or 0, run.last)
    figure, axes, strips = _panels(total, FIGURE4)
    look = look_of(run.group, [run.group[1]])
    training = look | {"marker": "", "linewidth": 1.4}
    validation = look | {"linestyle": "", "alpha": 0.6}
    values: dict[str, list[np.ndarray]] = {}
    for key, ax in axes.items():
        is_loss = key == "train/loss"  # at β = 1 the loss is the negative ELBO
        steps, train = run.series(key)
        val_steps, val = run.series("val/elbo" if is_loss else key.replace("train/", "val/"))
        val = -val if is_loss else val
        ax.plot(steps, train, label="training", **training)
        if len(val):
            ax.plot(val_steps, val, label="validation: rec + KL" if is_loss else "validation", **validation)
        if len(train) + len(val) == 0:
            note(ax, "not recorded" if run.metrics else "no records yet")
        values[key] = [train, val]
    _draw_beta(strips, *run.series("train/beta"), training)
    _scale(axes, values, run)
    for key in ("train/loss", "train/rec"):
        if axes[key].get_lines() and run.metrics:
            _legend(axes[key])
    figure.suptitle(run_title(run), fontsize=11, x=0.01, ha="left", c=GREY)
    return figure


def _panels(total: float, panels: Panels) -> tuple[Figure, dict[str, Axes], list[Axes]]:
    """Return a figure with a panel for each scalar side by side, and a thin strip for β beneath each."""
    size = (0.4 + 4.2 * len(panels), 4.4)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.04))
    top, strips = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(5, 1))
    for ax, letter, (_, title) in zip(top, "abcd", panels, strict=False):
        over_steps(ax, total)
        ax.set_title(f"({letter}) {title}", loc="left", fontsize=12)
    for strip in strips:
        over_steps(strip, total)
        strip.set_ylim(-0.1, 1.15)
        strip.set_xlabel("update", fontsize=11)
    top[0].set_ylabel("nats per sequence", fontsize=11)
    strips[0].set_ylabel(r"$\beta$", fontsize=13, rotation=0, va="center", labelpad=12)
    return figure, {key: ax for (key, _), ax in zip(panels, top, strict=True)}, list(strips)


def _seeds(runs: Sequence[Run], total: int) -> str:
    """Return the part of a legend entry that counts the seeds and names the unfinished ones."""
    short = [run for run in runs if run.last < 0.99 * (run.total or total)]
    ends = [f"to {thousands(run.last)}" if run.last else "no records yet" for run in short]
    if len(runs) == 1:
        return "".join(f" ({end})" for end in ends)
    stops = [f"seed {run.seed} {end}" for run, end in zip(short, ends, strict=True)]
    return f" ({'; '.join([f'{len(runs)} seeds', *stops])})"


def _absent(ax: Axes, name: str) -> None:
    """Add a group to those that record no such scalar, named above the panel's title."""
    before = ax.get_title(loc="right").removeprefix("not recorded: ")
    names = f"{before}, {name}" if before else name
    ax.set_title(f"not recorded: {names}", loc="right", y=1.06, fontsize=9.5, c=GREY)


def _legend(ax: Axes, loc: Literal["upper right", "lower right"] = "upper right") -> None:
    """Add a frameless legend that stays readable over lines."""
    size = 10 if len(ax.get_lines()) < 5 else 9
    legend = ax.legend(loc=loc, fontsize=size, handlelength=2.4, framealpha=0.85)
    legend.get_frame().set_linewidth(0)


def _draw_beta(strips: Sequence[Axes], steps: np.ndarray, beta: np.ndarray, look: dict[str, Any]) -> None:
    """Draw β beneath every panel; the range grows with weights above 1."""
    for strip in strips:
        strip.plot(steps, beta, **(look | {"marker": "", "linewidth": 1.3}))
        if len(beta):
            top = max(1.0, float(beta.max()))
            strip.set_ylim(-0.1 * top, max(strip.get_ylim()[1], 1.15 * top))
            strip.set_yticks((0, 1) if top <= 1 else (0, top))


def _scale(axes: Mapping[str, Axes], values: Mapping[str, Sequence[np.ndarray]], run: Run) -> None:
    """Set the y ranges: the paper's for the toy, wider for runs that end above it, else each panel's own."""
    if run.task != "toy" or "train/loss" not in axes:
        for key, ax in axes.items():
            limit(ax, values[key], from_zero=key in ("train/kl", "val/path_a"))
        return
    count = int(run.get("dataset", "sequences", 10))
    entropy = math.log(count)
    for key, ax in axes.items():
        ends = [series[-1] for series in values[key] if len(series)]
        ax.set_ylim(0, max(2.25 * entropy, 1.3 * max(ends, default=0)))
    loss = axes["train/loss"]
    loss.axhline(entropy, color=GREY, lw=1, ls=(0, (4, 3)), zorder=2.5)
    loss.annotate(
        f"ln {count}", (1, entropy), (4, 0), ("axes fraction", "data"), "offset points",
        va="center", fontsize=10, c=GREY, annotation_clip=False,
    )  # fmt: skip
