"""Rate against distortion: what the bound of each run is made of (Alemi et al. 2018)."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cvae.errors import RunsError
from cvae.report.figures.style import COLOURS, GREY, MARKERS, OTHER_MARKER, in_order, labels, one_task, plain
from cvae.runs.reader import Group, Run, changes

KL, REC = "test/kl", "test/rec"


def rate_figure(runs: Sequence[Run]) -> Figure:
    """Draw KL against rec of the reported checkpoints on test, a point for each run, and lines of equal ELBO.

    The marker is the schedule, hollow for all learning rates but the first; the colour is what else sets a
    run apart. Raises RunsError where no finished run has both numbers: an autoencoder has no KL.
    """
    one_task(runs)
    shown = [
        run
        for run in runs
        if run.results.get("finished") and None not in (run.results.get(KL), run.results.get(REC))
    ]
    if not shown:
        raise RunsError(f"none of these runs is finished and has {KL} and {REC}")
    apart = changes(shown)
    kinds = sorted(set(apart), key=lambda kind: (kind != "plain", kind))
    colours = dict(zip(kinds, itertools.cycle(["#222222", *color_sequences["tab10"]]), strict=False))
    groups = in_order({run.group for run in shown})
    first_rate = min((lr for _, lr in groups), key=lambda lr: (lr != "constant", lr))

    def look(group: Group, kind: str | None = None) -> dict[str, Any]:
        colour = COLOURS.get(group[0], GREY) if len(kinds) == 1 else colours[kind] if kind else GREY
        fill = colour if group[1] == first_rate else "none"
        marker = MARKERS.get(group[0], OTHER_MARKER)
        return {"marker": marker, "color": colour, "markerfacecolor": fill, "linestyle": "", "markersize": 8}

    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    ax = figure.subplots()
    for run, kind in zip(shown, apart, strict=True):
        ax.plot(run.results[KL], run.results[REC], alpha=0.85, zorder=3, **look(run.group, kind))
    _equal_bounds(ax)
    handles = [Line2D([], [], label=name, **look(group)) for group, name in labels(groups).items()]
    for kind in kinds if len(kinds) > 1 else ():
        text = textwrap.fill(plain(kind), 36)
        handles.append(Line2D([], [], label=text, color=colours[kind], linestyle="", marker="o"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9.5)
    ax.set_xlabel("rate: KL, nats per sequence", fontsize=11)
    ax.set_ylabel("distortion: rec, nats per sequence", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _equal_bounds(ax: Axes) -> None:
    """Draw lines of equal rec + KL, each named where it leaves the picture."""
    (left, right), (low, high) = _padded(ax.dataLim.intervalx), _padded(ax.dataLim.intervaly)
    ends = np.array([left, right])
    for total in MaxNLocator(9).tick_values(left + low, right + high):
        ax.plot(ends, total - ends, color="#dddddd", linewidth=0.8, zorder=1)
        at_right = low < total - right
        where = (right, total - right) if at_right else (total - low, low)
        if left < where[0] and where[1] < high:
            ax.annotate(f"{total:g}", where, (3, 0) if at_right else (-2, 3), textcoords="offset points",
                        fontsize=8.5, c=GREY, ha="left" if at_right else "right",
                        va="center" if at_right else "bottom", annotation_clip=False)  # fmt: skip
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.ticklabel_format(useOffset=False)
    ax.set_title("grey: equal rec + KL = -ELBO, lower is better", loc="right", fontsize=9.5, c=GREY)


def _padded(interval: np.ndarray) -> tuple[float, float]:
    """Return an interval with a margin, at least a nat wide: smaller differences mean nothing."""
    low, high = interval
    pad = max(0.08 * (high - low), (1 - (high - low)) / 2)
    return max(low - pad, -0.1), high + pad
