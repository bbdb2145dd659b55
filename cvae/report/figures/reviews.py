"""Pictures of task=yelp: accuracy against labels, and the map of the test sentences' z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from cvae.errors import RunsError
from cvae.report.accuracy import Scores, majority, pretrained, scores, still_probes
from cvae.report.figures.style import GREY, ORDER, group_runs, labels, look_of, note
from cvae.runs.reader import Run, read_map

TITLES = {"probe": "frozen encoder: logistic layer on z's mean", "finetune": "encoder fine-tuned"}
WITHOUT = look_of(("", ""), [""]) | {"linestyle": (0, (3, 1.5))}
SENTIMENT = ("#D55E00", "#0072B2")  # negative, positive


def accuracy_figure(runs: Sequence[Run]) -> Figure:
    """Test accuracy against the number of labels: a line for each schedule, and one for no pre-training.

    A line is the mean over label sets (and runs that differ in their seed), a band one sample standard
    deviation to each side.
    """
    found = scores(runs, ORDER)
    names = labels(dict.fromkeys(score.group for score in found if score.group))
    rates = list(dict.fromkeys(lr for _, lr in names))
    panels = [mode for mode in TITLES if any(score.mode == mode for score in found)] or ["scratch"]
    figure = Figure(figsize=(5.6 * len(panels) + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, mode in zip(axes, panels, strict=True):
        for score in found:
            if score.mode == mode and score.group:
                _line(ax, score, names[score.group], look_of(score.group, rates))
            elif score.mode == "scratch":
                _line(ax, score, "no pre-training", WITHOUT)
        tuned = [record for run in runs for record in run.classifiers if record["mode"] == mode]
        still = still_probes(tuned)
        title = TITLES.get(mode, "no pre-training")
        title += f" ({still} of {len(tuned)} still the probe)" if still else ""
        _axes(ax, title, found, majority(runs))
    axes[0].set_ylabel("test accuracy, %", fontsize=11)
    figure.supxlabel("line: mean, band: ± one standard deviation", fontsize=9.5, c=GREY, x=0.99, ha="right")
    return figure


def _line(ax: Axes, score: Scores, name: str, look: Mapping[str, Any]) -> None:
    """One way of making classifiers."""
    count = np.array([score.labels[share] for share in score.cells])
    mean = np.array([cell.mean for cell in score.cells.values()])
    std = np.array([cell.std for cell in score.cells.values()])
    ax.plot(count, mean, label=name, **look)
    ax.fill_between(count, mean - std, mean + std, color=look["color"], alpha=0.15, lw=0)


def _axes(ax: Axes, title: str, found: Sequence[Scores], most_frequent: float | None) -> None:
    """Labels on a logarithmic axis with a tick for each share, and the majority class."""
    shares = {score.labels[share]: share for score in found for share in score.cells}
    ax.set_xscale("log")
    ax.set_xticks(list(shares), [f"{count:,}\n{100 * share:g} %" for count, share in shares.items()])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("labels to learn from", fontsize=11)
    ax.set_title(title, loc="left", fontsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, color=GREY)
    ax.tick_params(width=0.6, length=3, color=GREY, labelsize=10)
    ax.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    if most_frequent is not None:
        ax.axhline(most_frequent, color=GREY, lw=1, ls=(0, (4, 3)), label="most frequent class")
    ax.legend(loc="upper left", fontsize=10, frameon=False)


def map_figure(runs: Sequence[Run]) -> Figure:
    """The t-SNE map of the test sentences' posterior means, coloured by sentiment: a panel a schedule."""
    groups = group_runs(pretrained(runs))
    maps = {group: read_map(members[0].folder) for group, members in groups.items()}
    if not any(len(points.labels) for points in maps.values()):
        raise RunsError("none of the runs has a map.jsonl: a finished run of task=yelp leaves one")
    names = labels(groups)
    figure = Figure(figsize=(4.2 * len(maps), 4.7), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (group, points) in zip(axes, maps.items(), strict=True):
        ax.set(xticks=(), yticks=(), title=names[group])
        ax.spines[:].set_visible(False)
        if not len(points.labels):
            note(ax, "no map yet")
            continue
        colours = np.array(SENTIMENT)[points.labels]
        mixed = np.random.default_rng(0).permutation(len(colours))  # neither class lies on top
        ax.scatter(*points.places[mixed].T, c=colours[mixed], s=4, alpha=0.6, lw=0, rasterized=True)
    dots = [Line2D([], [], marker="o", ls="", mew=0, color=colour) for colour in SENTIMENT]
    figure.legend(dots, ("negative", "positive"), loc="outside lower right", ncols=2, frameon=False)
    figure.supxlabel("t-SNE of posterior means", fontsize=9.5, c=GREY, x=0.01, ha="left")
    return figure
