"""What all figures share: colours and markers, groups of runs, axes, and how a figure is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cvae.errors import RunsError
from cvae.runs.reader import Group, Run, refuse_mixture

ORDER = ("constant", "monotonic", "cyclical", "none")
# colours of Okabe and Ito; markers tell the schedules apart in grey print too
COLOURS = {"constant": "#333333", "monotonic": "#E69F00", "cyclical": "#0072B2", "none": "#009E73"}
MARKERS = {"constant": "o", "monotonic": "^", "cyclical": "s", "none": "D"}
NAMES = {"none": "Autoencoder"}
OTHER_COLOUR, OTHER_MARKER = "#CC79A7", "v"
LR_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.")
GREY = "#666666"


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Return groups in the order of the paper's figures, the constant learning rate first."""

    def place(group: Group) -> tuple[int, str, bool, str]:
        schedule, lr = group
        return (*ORDER, schedule).index(schedule), schedule, lr != "constant", lr

    return sorted(groups, key=place)


def group_runs(runs: Iterable[Run]) -> dict[Group, list[Run]]:
    """Return the runs of each schedule and learning rate in order, by seed.

    Raises RunsError where the runs of a group differ in more than their seed.
    """
    groups: dict[Group, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, str(run.folder))):
        groups.setdefault(run.group, []).append(run)
    for members in groups.values():
        refuse_mixture(members)
    return {group: groups[group] for group in in_order(groups)}


def labels(groups: Iterable[Group]) -> dict[Group, str]:
    """Return the name of each group; the learning rate is named only where it varies."""
    groups = list(groups)
    varies = len({lr for _, lr in groups}) > 1
    names = {group: NAMES.get(group[0], group[0].capitalize()) for group in groups}
    rates = {group: f", {group[1].replace('_', ' ')} lr" if varies else "" for group in groups}
    return {group: plain(names[group] + rates[group]) for group in groups}


def plain(text: str) -> str:
    """Return text without formulas: matplotlib would set what stands between two dollar signs as one."""
    return text.replace("$", r"\$")


def seed_mean(runs: Sequence[Run], key: str) -> tuple[np.ndarray, ...]:
    """Return steps, mean, lowest and highest of a scalar, over the runs that recorded it at each step."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for step, value in zip(*run.series(key), strict=True):
            values.setdefault(int(step), []).append(float(value))
    steps = sorted(values)
    columns = [np.array([f(values[s]) for s in steps]) for f in (np.mean, np.min, np.max)]
    return np.array(steps, dtype=int), *columns


def one_task(runs: Sequence[Run]) -> str:
    """Return the task of all runs. Raises RunsError where there are several."""
    tasks = sorted({run.task for run in runs})
    if len(tasks) > 1:
        raise RunsError(f"one figure shows one task, found {', '.join(tasks)}: name the folders")
    return tasks[0]


def thousands(step: float) -> str:
    """Return a step in short: 1000 is "1K", 2500 "2.5K", 500 "500"."""
    return f"{step / 1000:g}K" if abs(step) >= 1000 else f"{step:g}"


def tidy(ax: Axes) -> None:
    """Leave thin left and bottom spines and a light grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, color=GREY)
    ax.tick_params(width=0.6, length=3, color=GREY)
    ax.grid(axis="y", color="#e8e8e8", linewidth=0.6)


def over_steps(ax: Axes, total: float) -> None:
    """Prepare axes for scalars over `total` steps, x in thousands."""
    tidy(ax)
    ax.set_axisbelow(True)
    ax.set_xlim(0, 1.015 * (total or 1))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


def look_of(group: Group, rates: Sequence[str]) -> dict[str, Any]:
    """Return the look of a line: colour and marker by schedule, line style by learning rate."""
    schedule, lr = group
    return {
        "color": COLOURS.get(schedule, OTHER_COLOUR),
        "marker": MARKERS.get(schedule, OTHER_MARKER),
        "linestyle": LR_STYLES[rates.index(lr) % len(LR_STYLES)],
        "linewidth": 1.6,
        "markersize": 5,
        "markeredgewidth": 0,
    }


def marks(steps: np.ndarray, total: float, offset: float = 0.0) -> list[int]:
    """Return the indices of the points nearest to every eighth of `total`, `offset` eighths later."""
    if len(steps) == 0:
        return []
    places = (np.arange(1, 9) + offset) * total / 8
    places = places[places <= steps[-1] + total / 80]
    return sorted({int(np.abs(steps - place).argmin()) for place in places})


def note(ax: Axes, text: str) -> None:
    """Write in the middle of a panel what is missing from it."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=10, c=GREY)


def limit(ax: Axes, values: Sequence[np.ndarray], from_zero: bool) -> None:
    """Set a y range for series whose first tenth may leave it at the top."""
    flat = np.concatenate([np.zeros(0), *(series[len(series) // 10 :] for series in values)])
    flat = flat[np.isfinite(flat)]
    if len(flat) == 0:
        return
    low, high = float(flat.min()), float(flat.max())
    low = min(0.0, low) if from_zero else low
    pad = 0.06 * (high - low) or 0.5
    ax.set_ylim(low if from_zero else low - pad, high + pad)


def run_title(run: Run) -> str:
    """Return what a run is, and how far it came where it is unfinished."""
    schedule, lr = run.group
    parts = [run.task, f"schedule={schedule}", f"lr={lr}", f"seed={run.seed}"]
    if run.total and run.last < 0.99 * run.total:
        parts.append(f"unfinished: {thousands(run.last)} of {thousands(run.total)} updates")
    return plain("  ·  ".join(part for part in parts if part))


def save(
    figure: Figure, folder: str | Path, name: str, kinds: Sequence[str] = ("png", "pdf"), dpi: int = 150
) -> list[Path]:
    """Write a figure as folder/name.kind. Return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    for path in paths:
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None  # the same runs, the same bytes
        figure.savefig(path, dpi=dpi, metadata=metadata, facecolor="white")
    return paths
