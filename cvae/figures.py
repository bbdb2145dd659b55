"""Run folders -> the paper's Figures 2 to 4, and the pictures each run leaves behind.

Reads `run.json`, `metrics.jsonl` and `latents.jsonl`; trains nothing and needs no torch. Figures
are drawn without pyplot's global state, so that drawing is safe within training and in threads.
Nats are per sequence, x is the optimiser step ("update").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cvae.runs import Group, Run, RunsError, Snapshot, read_run, refuse_mixture
from cvae.schedules import Constant, Cyclical, Monotonic

SNAPSHOTS = (1000, 10000, 11000, 20000, 31000, 40000)
ORDER = ("constant", "monotonic", "cyclical", "none")
# Okabe and Ito's colours; markers tell the schedules apart in grey print too.
COLOURS = {"constant": "#333333", "monotonic": "#E69F00", "cyclical": "#0072B2", "none": "#009E73"}
MARKERS = {"constant": "o", "monotonic": "^", "cyclical": "s", "none": "D"}
NAMES = {"none": "Autoencoder"}
OTHER_COLOUR, OTHER_MARKER = "#CC79A7", "v"
LR_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), "-.")
# Petroff (2021): ten colours in the spirit of tab10, chosen for colour-blind readers as well.
TEN = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
GREY = "#666666"
PANELS = (
    ("loss", r"loss: rec + $\beta\,$KL"),
    ("rec", "reconstruction error: rec"),
    ("kl", "KL"),
)


# ----------------------------------------------------------------------------------- grouping


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
        (schedule, lr): NAMES.get(schedule, schedule.capitalize())
        + (f", {lr.replace('_', ' ')} lr" if varies else "")
        for schedule, lr in groups
    }


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


# ------------------------------------------------------------------------------- common marks


def thousands(step: float) -> str:
    """1000 -> "1K", 2500 -> "2.5K", 500 -> "500"."""
    return f"{step / 1000:g}K" if abs(step) >= 1000 else f"{step:g}"


def _tidy(ax: Axes, total: float) -> None:
    """Thin left and bottom spines, a light grid, x in thousands of updates."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, color=GREY)
    ax.tick_params(width=0.6, length=3, color=GREY, labelsize=10)
    ax.grid(axis="y", color="#e8e8e8", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlim(0, 1.015 * (total or 1))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


def _look(group: Group, rates: Sequence[str]) -> dict[str, Any]:
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


def _marks(steps: np.ndarray, total: float, offset: float = 0.0) -> list[int]:
    """Indices of the points nearest to every eighth of `total`, shifted by a share of an eighth."""
    if len(steps) == 0:
        return []
    wanted = (np.arange(1, 9) + offset) * total / 8
    wanted = wanted[wanted <= steps[-1] + total / 80]
    return sorted({int(np.abs(steps - step).argmin()) for step in wanted})


def _note(ax: Axes, text: str) -> None:
    """A quiet remark in the middle of a panel: what is missing from it."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=10, c=GREY)


def _limit(ax: Axes, values: Sequence[np.ndarray], from_zero: bool) -> None:
    """A y range for `values`; unless it starts from 0, the first tenth may leave it at the top."""
    kept = [v if from_zero else v[len(v) // 10 :] for v in values]
    flat = np.concatenate([np.zeros(0), *kept])
    flat = flat[np.isfinite(flat)]
    if len(flat) == 0:
        return
    low, high = float(flat.min()), float(flat.max())
    low = min(0.0, low) if from_zero else low
    pad = 0.06 * (high - low) or 0.5
    ax.set_ylim(low if from_zero else low - pad, high + pad)


# ----------------------------------------------------------------------------------- Figure 2


def schedules_figure(total: int = 40000) -> Figure:
    """Figure 2: β over `total` updates for three schedules, and the shapes of a cyclical ramp."""
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    left, right = figure.subplots(1, 2, sharey=True)
    three = {"constant": Constant(), "monotonic": Monotonic(), "cyclical": Cyclical()}
    for place, (name, schedule) in enumerate(three.items()):
        look = _look((name, ""), [""])
        look |= {
            "linewidth": (5, 3, 1.5)[place],
            "alpha": (0.4, 1, 1)[place],
            "markersize": (0, 8, 8)[place],
        }
        _beta_line(left, schedule, total, name.capitalize(), (0.5, 0.5, 0)[place], look)
    shapes = (("linear", "#0072B2", "-"), ("sigmoid", "#CC79A7", "--"), ("cosine", "#333333", ":"))
    for shape, colour, style in shapes:
        look = {"color": colour, "linestyle": style, "linewidth": 1.8, "marker": ""}
        _beta_line(right, Cyclical(shape=shape), total, shape, 0, look)
    for ax, title in ((left, "(a) three schedules"), (right, "(b) shapes of the cyclical ramp")):
        _tidy(ax, total)
        ax.set(ylim=(-0.04, 1.07), yticks=(0, 0.5, 1))
        ax.set_title(title, loc="left", fontsize=12, pad=28)
        ax.set_xlabel("update", fontsize=11)
        ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=10.5)
    left.set_ylabel(r"$\beta$", fontsize=13, rotation=0, labelpad=10)
    return figure


def _beta_line(
    ax: Axes, schedule: Any, total: int, label: str, offset: float, look: Mapping[str, Any]
) -> None:
    """One schedule; lines that coincide keep their own markers, a share of an eighth apart."""
    steps = np.unique(np.append(np.arange(0, total, max(1, total // 4000)), total - 1))
    beta = [schedule(int(step), total) for step in steps]
    ax.plot(steps, beta, label=label, markevery=_marks(steps, total, -offset), **look)


# ----------------------------------------------------------------------------------- Figure 3


def clouds(snapshot: Snapshot, samples: int, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Samples z [N * samples, 2] of q(z|n), and the label of each.

    All sequences share one seeded noise, as in the paper's figure. `exact` draws the means alone.
    """
    noise = np.random.default_rng(0).standard_normal((1 if exact else samples, 2))
    spread = np.zeros_like(snapshot.mean) if exact else np.exp(0.5 * snapshot.logvar)
    z = snapshot.mean[:, None] + spread[:, None] * noise
    return z.reshape(-1, 2), np.repeat(snapshot.label, len(noise))


def plane_limit(points: Iterable[np.ndarray]) -> float:
    """Half the side, in units of z, of a square around 0 with 2 sigma and nearly every point."""
    far = np.concatenate([np.zeros(1), *(np.abs(z).max(axis=1) for z in points)])
    far = far[np.isfinite(far)]
    return max(2.15, 1.05 * float(np.quantile(far, 0.995 if len(far) > 1000 else 1)))


def _plane(ax: Axes, limit: float, sigmas: Sequence[float]) -> None:
    """An empty latent plane: no axes, the standard normal's circles for scale."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for radius in sigmas:
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=GREY, lw=0.7, alpha=0.7, zorder=3))


def _scatter(ax: Axes, z: np.ndarray, label: np.ndarray) -> None:
    """The clouds in one shuffled layer, so that no sequence lies on top of the others."""
    shuffled = np.random.default_rng(1).permutation(len(z))
    shuffled = shuffled[np.abs(z[shuffled]).max(axis=1) <= ax.get_xlim()[1]]
    colours = np.array(TEN)[label % len(TEN)]
    size, alpha = (6, 0.6) if len(z) > 100 else (60, 0.9)
    ax.scatter(*z[shuffled].T, c=colours[shuffled], s=size, alpha=alpha, lw=0, rasterized=True)


def _measures(run: Run, step: int) -> str:
    """I(n;z), accuracy and the gap to the prior at the validation of `step`, as far as recorded."""
    values = {name: run.at(f"val/{name}", step) for name in ("mi", "accuracy", "prior_gap")}
    shown = {name: max(0.0, value) for name, value in values.items() if value is not None}  # estimates dip
    texts = {"mi": "I {mi:.2f}", "accuracy": "acc {accuracy:.0%}", "prior_gap": "gap {prior_gap:.2f}"}
    return "  ".join(texts[name].format_map(shown) for name in shown)


def _missing(run: Run, step: int) -> str:
    """Why there is no picture of `step`."""
    if not run.latents:
        return "no latents.jsonl"
    if step > max(run.latents):
        return f"the run\nends at\n{thousands(max(run.latents))}"
    return f"no\nsnapshot\nat {thousands(step)}"


def cycle_numbers(runs: Iterable[Run], steps: Sequence[int]) -> list[int] | None:
    """The cycle in which each step ends, from the first cyclical run that states its length."""
    for run in runs:
        cycles, total = run.get("schedule", "cycles"), run.total
        if run.group[0] == "cyclical" and cycles and total:
            return [math.ceil(step * cycles / total) for step in steps]
    return None


def latent_figure(runs: Sequence[Run], steps: Sequence[int] = SNAPSHOTS, samples: int = 300) -> Figure:
    """Figure 3: samples of q(z|n) for the toy's sequences; a row per schedule, a column per step.

    Of several seeds the first with snapshots is drawn, and the numbers are that run's. Autoencoders
    (`schedule=none`) have no posterior to sample and are left out.
    """
    rows = {g: members for g, members in group_runs(runs).items() if g[0] != "none"}
    drawn = {g: next((r for r in m if r.latents), m[0]) for g, m in rows.items()}
    if not any(run.latents for run in drawn.values()):
        raise RunsError("none of the runs has both a posterior and a latents.jsonl: use task=toy")
    for run in drawn.values():
        if any(snapshot.mean.shape[1] != 2 for snapshot in run.latents.values()):
            raise RunsError(f"{run.folder / 'latents.jsonl'}: only a 2-d latent can be drawn")
    z = {
        (group, step): clouds(run.latents[step], samples)
        for group, run in drawn.items()
        for step in steps
        if step in run.latents
    }
    limit = plane_limit(points for points, _ in z.values())
    cycles = cycle_numbers(drawn.values(), steps)
    lefts, width = _columns(cycles, len(steps))
    top = 0.7 if cycles else 0.35
    height = top + len(rows) * (SIDE + 0.32) + 0.75
    figure = Figure(figsize=(width, height))
    for row, (group, run) in enumerate(drawn.items()):
        bottom = height - top - row * (SIDE + 0.32) - SIDE
        for step, left in zip(steps, lefts, strict=True):
            ax = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
            _latent_panel(ax, run, step, z.get((group, step)), limit, (2,))
            if row == 0:
                ax.set_title(thousands(step), fontsize=12, pad=3)
        _row_label(figure, bottom / height, SIDE / height, group, rows, drawn)
    if cycles:
        _braces(figure, cycles, lefts)
    shown = {int(n) for run in drawn.values() for s in run.latents.values() for n in s.label}
    _latent_caption(figure, sorted(shown), samples, limit)
    return figure


SIDE = 1.85  # inches, of one latent panel


def _columns(cycles: Sequence[int] | None, count: int) -> tuple[list[float], float]:
    """The left edge of each column and the width of the figure, in inches; wider between cycles."""
    lefts = [1.3]
    for i in range(1, count):
        skipped = cycles[i] - cycles[i - 1] if cycles else 0
        lefts.append(lefts[-1] + SIDE + (0.12, 0.3, 0.55)[min(skipped, 2)])
    return lefts, lefts[-1] + SIDE + 0.1


def _latent_panel(
    ax: Axes,
    run: Run,
    step: int,
    cloud: tuple[np.ndarray, np.ndarray] | None,
    limit: float,
    sigmas: Sequence[float],
) -> None:
    """One snapshot with its numbers beneath, or a word on why there is none."""
    _plane(ax, limit, sigmas)
    if cloud is None:
        _note(ax, _missing(run, step))
        return
    _scatter(ax, *cloud)
    text = _measures(run, step)
    ax.text(0.5, -0.02, text, transform=ax.transAxes, ha="center", va="top", fontsize=10)


def _row_label(
    figure: Figure,
    bottom: float,
    height: float,
    group: Group,
    rows: Mapping[Group, Sequence[Run]],
    drawn: Mapping[Group, Run],
) -> None:
    """The schedule's name at the left of its row, and the seed drawn where there are several."""
    name = labels(rows)[group].replace(", ", "\n").replace(" restarts", "\nrestarts")
    middle = bottom + height / 2
    x = 0.1 / figure.get_figwidth()
    figure.text(x, middle, name, va="center", fontsize=12, weight="bold", c=COLOURS.get(group[0], "k"))
    if len(rows[group]) > 1:
        seed = f"seed {drawn[group].seed} ({len(rows[group])} runs)"
        lower = (0.13 + 0.1 * name.count("\n")) / figure.get_figheight()
        figure.text(x, middle - lower, seed, va="top", fontsize=9.5, c=GREY)


def _braces(figure: Figure, cycles: Sequence[int], lefts: Sequence[float]) -> None:
    """A bracket over the columns of each cycle, dots where cycles are left out."""
    width, height = figure.get_size_inches()
    y, tick = 1 - 0.36 / height, 0.06 / height
    for cycle in sorted(set(cycles)):
        own = [left for left, c in zip(lefts, cycles, strict=True) if c == cycle]
        a, b = own[0] / width, (own[-1] + SIDE) / width
        line = Line2D([a, a, b, b], [y - tick, y, y, y - tick], lw=0.8, color=GREY)
        figure.add_artist(line)
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(cycle if cycle < 20 else cycle % 10, "th")
        figure.text((a + b) / 2, y + tick, f"{cycle}{suffix} cycle", ha="center", fontsize=12)
    for i in range(1, len(cycles)):
        if cycles[i] - cycles[i - 1] > 1:
            x = (lefts[i - 1] + SIDE + lefts[i]) / 2 / width
            figure.text(x, y - tick / 2, "…", ha="center", va="center", fontsize=14, c=GREY)


def _latent_caption(figure: Figure, shown: Sequence[int], samples: int, limit: float) -> None:
    """Which colour is which sequence, and how to read the panels."""
    width, height = figure.get_size_inches()
    most = f"ln {len(shown)} = {math.log(len(shown)):.2f} nats"
    text = (
        f"{samples} samples of q(z|n) for each n, with common noise, as far as ±{limit:.1f}; "
        "circle: prior at 2σ\n"
        f"I: mutual information of n and z, at most {most}; acc: how often argmax q(z|n) is the n of z; "
        "gap: KL(q(z) ‖ p(z)) in nats"
    )
    figure.text(0.1 / width, 0.1 / height, text, fontsize=9.5, c=GREY, va="bottom")
    if len(shown) > len(TEN):
        return
    dots = [
        Line2D([], [], marker="o", ls="", ms=7, mew=0, color=TEN[n % len(TEN)], label=str(n)) for n in shown
    ]
    figure.legend(
        handles=[Line2D([], [], ls="", label="sequence n"), *dots],
        loc="lower right" if width > 11 else "upper left",
        bbox_to_anchor=(1, 0.26 / height) if width > 11 else (0, 0.7 / height),
        ncols=len(dots) + 1,
        frameon=False,
        fontsize=10,
        handletextpad=0.05,
        columnspacing=0.5,
        borderaxespad=0,
    )


# ----------------------------------------------------------------------------------- Figure 4


def curves_figure(runs: Sequence[Run]) -> Figure:
    """Figure 4: loss, rec and KL over updates, and β beneath; a line per schedule.

    A line is the mean over seeds, a band reaches from the lowest to the highest of them.
    """
    task = one_task(runs)
    groups = group_runs(runs)
    total = max(max(run.total or 0, run.last) for run in runs)
    figure, panels, strips = _curve_axes(total)
    names, rates = labels(groups), list(dict.fromkeys(lr for _, lr in groups))
    values: dict[str, list[np.ndarray]] = {key: [] for key, _ in PANELS}
    for group, members in groups.items():
        look = _look(group, rates)
        for key, _ in PANELS:
            steps, mean, low, high = seed_mean(members, f"train/{key}")
            name = f"{names[group]}{_seeds(members, total)}"
            panels[key].plot(steps, mean, label=name, markevery=_marks(steps, total), **look)
            if len(members) > 1:
                panels[key].fill_between(steps, low, high, color=look["color"], alpha=0.2, lw=0)
            values[key].append(mean)
            if len(mean) == 0 and any(run.metrics for run in members):
                _absent(panels[key], names[group])
        _draw_beta(strips, *seed_mean(members, "train/beta")[:2], look)
    _scale(panels, values, runs, task)
    _legend(panels["loss"])
    if any(len(members) > 1 for members in groups.values()):
        text = "line: mean over seeds, band: lowest to highest"
        figure.supxlabel(text, fontsize=9.5, c=GREY, x=0.99, ha="right")
    return figure


def _curve_axes(total: float) -> tuple[Figure, dict[str, Axes], list[Axes]]:
    """Three panels side by side, each with a thin strip for β beneath."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.04)
    axes = figure.subplots(2, 3, sharex=True, height_ratios=(5, 1))
    panels = {}
    for letter, (key, title), ax in zip("abc", PANELS, axes[0], strict=True):
        _tidy(ax, total)
        ax.set_title(f"({letter}) {title}", loc="left", fontsize=12)
        panels[key] = ax
    for strip in axes[1]:
        _tidy(strip, total)
        strip.set_ylim(-0.1, 1.15)
        strip.set_xlabel("update", fontsize=11)
    axes[0, 0].set_ylabel("nats per sequence", fontsize=11)
    axes[1, 0].set_ylabel(r"$\beta$", fontsize=13, rotation=0, va="center", labelpad=12)
    return figure, panels, list(axes[1])


def _seeds(runs: Sequence[Run], total: int) -> str:
    """The part of a legend entry that says how many seeds there are and which are unfinished."""
    short = [run for run in runs if run.last < 0.99 * (run.total or total)]
    ends = [f"to {thousands(run.last)}" if run.last else "no records yet" for run in short]
    if len(runs) == 1:
        return "".join(f" ({end})" for end in ends)
    stops = [f"seed {run.seed} {end}" for run, end in zip(short, ends, strict=True)]
    return f" ({'; '.join([f'{len(runs)} seeds', *stops])})"


def _absent(ax: Axes, name: str) -> None:
    """Says above a panel which groups record no such scalar."""
    before = ax.get_title(loc="right").removeprefix("not recorded: ")
    names = f"{before}, {name}" if before else name
    ax.set_title(f"not recorded: {names}", loc="right", fontsize=9.5, c=GREY)


def _legend(ax: Axes) -> None:
    """A frameless legend that stays readable over lines."""
    size = 10 if len(ax.get_lines()) < 5 else 9
    legend = ax.legend(loc="upper right", fontsize=size, handlelength=2.4, framealpha=0.85)
    legend.get_frame().set_linewidth(0)


def _draw_beta(strips: Sequence[Axes], steps: np.ndarray, beta: np.ndarray, look: Any) -> None:
    """β beneath every panel; its range grows with weights above 1."""
    for strip in strips:
        strip.plot(steps, beta, **(look | {"marker": "", "linewidth": 1.3}))
        if len(beta):
            top = max(1.0, float(np.nanmax(beta)))
            strip.set_ylim(-0.1 * top, max(strip.get_ylim()[1], 1.15 * top))
            strip.set_yticks((0, 1) if top <= 1 else (0, top))


def _scale(
    panels: Mapping[str, Axes],
    values: Mapping[str, Sequence[np.ndarray]],
    runs: Sequence[Run],
    task: str,
) -> None:
    """y ranges: the paper's for the toy, wider where a short run ends above it; else each panel's own."""
    if task == "toy":
        count = int(runs[0].get("dataset", "sequences", 10))
        entropy = math.log(count)
        for key, ax in panels.items():
            ends = [series[-1] for series in values[key] if len(series)]
            ax.set_ylim(0, max(2.25 * entropy, 1.3 * max(ends, default=0)))
        loss = panels["loss"]
        loss.axhline(entropy, color=GREY, lw=1, ls=(0, (4, 3)), zorder=2.5)
        loss.annotate(
            f"ln {count}", (1, entropy), (4, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=10, c=GREY, annotation_clip=False,
        )  # fmt: skip
        return
    for key, ax in panels.items():
        _limit(ax, values[key], from_zero=key == "kl")


# --------------------------------------------------------------------------------- of one run


def run_pictures(folder: str | Path) -> list[Path]:
    """Writes `curves.png` and, for a 2-d latent, `latents.png` into a run folder: the paths."""
    run = read_run(folder)
    written = save(_run_curves(run), run.folder, "curves", ("png",))
    flat = {step: s for step, s in run.latents.items() if s.mean.shape[1] == 2}
    if flat:
        written += save(_run_latents(run, spread_steps(flat)), run.folder, "latents", ("png",))
    return written


def _run_curves(run: Run) -> Figure:
    """Loss, rec, KL and β of one run: lines for training, markers for validation."""
    total = max(run.total or 0, run.last)
    figure, panels, strips = _curve_axes(total)
    look = _look(run.group, [run.group[1]])
    training = look | {"marker": "", "linewidth": 1.4}
    checks = {"loss": ("val/elbo", -1, "validation: rec + KL")}
    values: dict[str, list[np.ndarray]] = {}
    for key, _ in PANELS:
        ax = panels[key]
        name, sign, text = checks.get(key, (f"val/{key}", 1, "validation"))
        steps, train = run.series(f"train/{key}")
        val_steps, val = run.series(name)
        ax.plot(steps, train, label="training", **training)
        if len(val):
            ax.plot(val_steps, sign * val, label=text, **(look | {"linestyle": "", "alpha": 0.6}))
        values[key] = [train, sign * val]
        if len(train) + len(val) == 0:
            _note(ax, "not recorded" if run.metrics else "no records yet")
    _draw_beta(strips, *run.series("train/beta"), training)
    _scale(panels, values, [run], run.task)
    for key in ("loss", "rec"):
        if panels[key].get_lines() and run.metrics:
            _legend(panels[key])
    figure.suptitle(_run_title(run), fontsize=11, x=0.01, ha="left", c=GREY)
    return figure


def _run_title(run: Run) -> str:
    """What the run is, and how far it came where it is unfinished."""
    schedule, lr = run.group
    parts = [run.task, f"schedule={schedule}", f"lr={lr}", f"seed={run.seed}"]
    if run.total and run.last < 0.99 * run.total:
        parts.append(f"unfinished: {thousands(run.last)} of {thousands(run.total)} updates")
    return "  ·  ".join(part for part in parts if part)


def spread_steps(available: Iterable[int], count: int = 6) -> list[int]:
    """The paper's six snapshots if all are there, else up to `count` spread ones with the last."""
    steps = sorted(available)
    if set(SNAPSHOTS) <= set(steps):
        return list(SNAPSHOTS)
    places = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[place] for place in places]


def _run_latents(run: Run, steps: Sequence[int], samples: int = 300) -> Figure:
    """Snapshots of one run in a row; an autoencoder's z are its means alone."""
    exact = run.group[0] == "none"
    drawn = [clouds(run.latents[step], samples, exact) for step in steps]
    limit = plane_limit(z for z, _ in drawn)
    width, height = len(steps) * (SIDE + 0.1) + 0.1, SIDE + 0.9
    figure = Figure(figsize=(max(width, 5.5), height))
    width = figure.get_figwidth()
    for place, (step, cloud) in enumerate(zip(steps, drawn, strict=True)):
        left = 0.1 + place * (SIDE + 0.1)
        ax = figure.add_axes((left / width, 0.3 / height, SIDE / width, SIDE / height))
        _latent_panel(ax, run, step, cloud, limit, (1, 2))
        ax.set_title(thousands(step), fontsize=11, pad=3)
    title = _run_title(run) + ("" if width < 8 else "  ·  circles: prior at 1σ and 2σ")
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=11, c=GREY, va="top")
    return figure


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
