"""What all figures share: colours, markers, groups of runs, axes, and how a figure is written."""

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
# Okabe and Ito's colours; markers tell the schedules apart in grey print too.
COLOURS = {"constant": "#333333", "monotonic": "#E69F00", "cyclical": "#0072B2", "none": "#009E73"}
MARKERS = {"constant": "o", "monotonic": "^", "cyclical": "s", "none": "D"}
NAMES = {"none": "Autoencoder"}
OTHER_COLOUR, OTHER_MARKER = "#CC79A7", "v"
LR_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.")
GREY = "#666666"


def group_runs(runs: Iterable[Run]) -> dict[Group, list[Run]]:
    """Runs by (schedule, learning rate), in the order of the paper's figures, each by seed."""
    groups: dict[Group, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, str(run.folder))):
        groups.setdefault(run.group, []).append(run)
    for members in groups.values():
        refuse_mixture(members)

    def place(group: Group) -> tuple[int, str, bool, str]:
        schedule, lr = group
        known = ORDER.index(schedule) if schedule in ORDER else len(ORDER)
        return known, schedule, lr != "constant", lr

    return {group: groups[group] for group in sorted(groups, key=place)}


def labels(groups: Iterable[Group]) -> dict[Group, str]:
    """What to call each group; the learning rate is named only where it varies."""
    groups = list(groups)
    varies = len({lr for _, lr in groups}) > 1
    return {
        (schedule, lr): plain(
            NAMES.get(schedule, schedule.capitalize()) + (f", {lr.replace('_', ' ')} lr" if varies else "")
        )
        for schedule, lr in groups
    }


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: two dollar signs would make a formula of what is between them."""
    return text.replace("$", r"\$")


def seed_mean(runs: Sequence[Run], key: str) -> tuple[np.ndarray, ...]:
    """(steps, mean, lowest, highest) of one scalar over the runs that recorded it at each step."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for step, value in zip(*run.series(key), strict=True):
            values.setdefault(int(step), []).append(float(value))
    steps = sorted(values)
    columns = [np.array([f(values[s]) for s in steps]) for f in (np.mean, np.min, np.max)]
    return np.array(steps, dtype=int), *columns


def one_task(runs: Sequence[Run]) -> str:
    """The task all runs share; RunsError where there are several."""
    tasks = sorted({run.task for run in runs})
    if len(tasks) > 1:
        raise RunsError(f"one figure shows one task, found {', '.join(tasks)}: name the folders")
    return tasks[0]


def thousands(step: float) -> str:
    """1000 -> "1K", 2500 -> "2.5K", 500 -> "500"."""
    return f"{step / 1000:g}K" if abs(step) >= 1000 else f"{step:g}"


def tidy(ax: Axes, total: float) -> None:
    """Thin left and bottom spines, a light grid, x in thousands of updates."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, color=GREY)
    ax.tick_params(width=0.6, length=3, color=GREY, labelsize=10)
    ax.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlim(0, 1.015 * (total or 1))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


def look_of(group: Group, rates: Sequence[str]) -> dict[str, Any]:
    """Colour and marker from the schedule, line style from the learning rate."""
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
    """Indices of the points nearest to every eighth of `total`, shifted by a share of an eighth."""
    if len(steps) == 0:
        return []
    wanted = (np.arange(1, 9) + offset) * total / 8
    wanted = wanted[wanted <= steps[-1] + total / 80]
    return sorted({int(np.abs(steps - step).argmin()) for step in wanted})


def note(ax: Axes, text: str) -> None:
    """A quiet remark in the middle of a panel: what is missing from it."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=10, c=GREY)


def limit(ax: Axes, values: Sequence[np.ndarray], from_zero: bool) -> None:
    """A y range for `values`, whose first tenth may leave it at the top."""
    kept = [v[len(v) // 10 :] for v in values]
    flat = np.concatenate([np.zeros(0), *kept])
    flat = flat[np.isfinite(flat)]
    if len(flat) == 0:
        return
    low, high = float(flat.min()), float(flat.max())
    low = min(0.0, low) if from_zero else low
    pad = 0.06 * (high - low) or 0.5
    ax.set_ylim(low if from_zero else low - pad, high + pad)


def run_title(run: Run) -> str:
    """What the run is, and how far it came where it is unfinished."""
    schedule, lr = run.group
    parts = [run.task, f"schedule={schedule}", f"lr={lr}", f"seed={run.seed}"]
    if run.total and run.last < 0.99 * run.total:
        parts.append(f"unfinished: {thousands(run.last)} of {thousands(run.total)} updates")
    return plain("  ·  ".join(part for part in parts if part))


def save(
    figure: Figure, folder: str | Path, name: str, kinds: Sequence[str] = ("png", "pdf"), dpi: int = 150
) -> list[Path]:
    """Writes `figure` as folder/name.kind; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    for path in paths:
        # Without a date the same runs give the same bytes.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        figure.savefig(path, dpi=dpi, metadata=metadata, facecolor="white")
    return paths
