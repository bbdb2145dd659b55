"""Figures of task=yelp: accuracy against labels, and the map of the test sentences' z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from cvae.errors import RunsError
from cvae.report.accuracy import Scores, label_counts, majority, pretrained, scores, still_probes
from cvae.report.figures.style import GREY, ORDER, group_runs, labels, look_of, note, tidy
from cvae.runs.reader import Run, read_map

TITLES = {"probe": "frozen encoder: logistic layer on z's mean", "finetune": "encoder fine-tuned"}
WITHOUT = look_of(("", ""), [""]) | {"linestyle": (0, (3, 1.5))}
COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#F0E442",
    "#000000",
)  # Okabe, Ito


def accuracy_figure(runs: Sequence[Run]) -> Figure:
    """Draw test accuracy against labels: a line for each schedule, and one for no pre-training.

    A line is the mean over label sets, and over runs that differ in their seed; a band is one sample standard
    deviation to each side.
    """
    ways = scores(runs, ORDER)
    counts = {share: learn for share, (learn, _) in label_counts(runs).items()}
    names = labels(dict.fromkeys(way.group for way in ways if way.group))
    rates = list(dict.fromkeys(lr for _, lr in names))
    modes = [mode for mode in TITLES if any(way.mode == mode for way in ways)] or ["scratch"]
    figure = Figure(figsize=(5.6 * len(modes) + 0.4, 4.6), layout="constrained")
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for ax, mode in zip(axes, modes, strict=True):
        for way in ways:
            if way.mode == mode and way.group:
                _line(ax, way, counts, names[way.group], look_of(way.group, rates))
            elif way.mode == "scratch":
                _line(ax, way, counts, "no pre-training", WITHOUT)
        records = [record for run in runs for record in run.classifiers if record["mode"] == mode]
        still = still_probes(records)
        title = TITLES.get(mode, "no pre-training")
        title += f" ({still} of {len(records)} still the probe)" if still else ""
        _axes(ax, title, counts, majority(runs))
    axes[0].set_ylabel("test accuracy, %", fontsize=11)
    figure.supxlabel("line: mean, band: ± one standard deviation", fontsize=9.5, c=GREY, x=0.99, ha="right")
    return figure


def _line(ax: Axes, way: Scores, counts: Mapping[float, int], name: str, look: Mapping[str, Any]) -> None:
    """Draw mean and band of one way of making classifiers."""
    count = [counts[share] for share in way.cells]
    mean, std = np.array([(cell.mean, cell.std) for cell in way.cells.values()]).T
    ax.plot(count, mean, label=name, **look)
    ax.fill_between(count, mean - std, mean + std, color=look["color"], alpha=0.15, lw=0)


def _axes(ax: Axes, title: str, counts: Mapping[float, int], most_frequent: float | None) -> None:
    """Prepare a logarithmic axis with a tick for each share of labels, and mark the majority class."""
    tidy(ax)
    ax.set_xscale("log")
    names = [f"{count:,}\n{100 * share:g} %" for share, count in counts.items()]
    ax.set_xticks(list(counts.values()), names)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("labels to learn from", fontsize=11)
    ax.set_title(title, loc="left", fontsize=12)
    if most_frequent is not None:
        ax.axhline(most_frequent, color=GREY, lw=1, ls=(0, (4, 3)), label="most frequent class")
    ax.legend(loc="best", fontsize=10, frameon=False)


def map_figure(runs: Sequence[Run]) -> Figure:
    """Draw the t-SNE map of the test sentences' posterior means by class: a panel for each schedule."""
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
        colours = np.array([COLOURS[label % len(COLOURS)] for label in points.labels])
        mixed = np.random.default_rng(0).permutation(len(colours))  # neither class lies on top
        ax.scatter(*points.places[mixed].T, c=colours[mixed], s=4, alpha=0.6, lw=0, rasterized=True)
    drawn = sorted({label for points in maps.values() for label in points.labels.tolist()})
    classes = {label: points.classes[label] for points in maps.values() for label in points.classes}
    dots = [Line2D([], [], marker="o", ls="", mew=0, color=COLOURS[label % len(COLOURS)]) for label in drawn]
    names_drawn = [classes[label] for label in drawn]
    figure.legend(dots, names_drawn, loc="outside lower right", ncols=min(4, len(drawn)), frameon=False)
    figure.supxlabel("t-SNE of posterior means", fontsize=9.5, c=GREY, x=0.01, ha="left")
    return figure
