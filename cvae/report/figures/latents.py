"""The paper's Figure 3: the latent plane of the synthetic experiment over training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from cvae.errors import RunsError
from cvae.report.figures.style import COLOURS, GREY, group_runs, labels, note, run_title, thousands
from cvae.runs.reader import Group, Run, Snapshot

SNAPSHOTS = (1000, 10000, 11000, 20000, 31000, 40000)
# Petroff (2021): ten colours in the spirit of tab10, chosen for colour-blind readers as well.
TEN = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)


def clouds(
    snapshot: Snapshot, samples: int, exact: bool = False, common: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Samples z [N * samples, 2] of q(z|n), and the label of each; the noise is seeded.

    `common` gives all sequences the same noise, as in the paper's figure. `exact` draws the means alone.
    """
    count = 1 if exact else samples
    noise = np.random.default_rng(0).standard_normal((1 if common else len(snapshot.mean), count, 2))
    spread = np.zeros_like(snapshot.mean) if exact else np.exp(0.5 * snapshot.logvar)
    z = snapshot.mean[:, None] + spread[:, None] * noise
    return z.reshape(-1, 2), np.repeat(snapshot.label, count)


def plane_limit(points: Iterable[np.ndarray]) -> float:
    """Half the side, in units of z, of a square around 0 with 2 sigma and nearly every point."""
    far = np.concatenate([np.zeros(1), *(np.abs(z).max(axis=1) for z in points)])
    far = far[np.isfinite(far)]
    return max(2.15, 1.05 * float(np.quantile(far, 0.995 if len(far) > 1000 else 1)))


def plane(ax: Axes, limit: float, sigmas: Sequence[float]) -> None:
    """An empty latent plane: no axes, the standard normal's circles for scale."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for radius in sigmas:
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=GREY, lw=0.7, alpha=0.7, zorder=3))


def scatter(ax: Axes, z: np.ndarray, label: np.ndarray) -> None:
    """The clouds in one shuffled layer, so that no sequence lies on top of the others."""
    shuffled = np.random.default_rng(1).permutation(len(z))
    shuffled = shuffled[np.abs(z[shuffled]).max(axis=1) <= ax.get_xlim()[1]]
    colours = np.array(TEN)[label % len(TEN)]
    size, alpha = (6, 0.6) if len(z) > 100 else (60, 0.9)
    ax.scatter(*z[shuffled].T, c=colours[shuffled], s=size, alpha=alpha, lw=0, rasterized=True)


def measured(run: Run, step: int, names: Sequence[str] = ("mi", "accuracy", "prior_gap")) -> str:
    """I(n;z), accuracy and the gap to the prior at the validation of `step`, as far as recorded."""
    values = {name: run.at(f"val/{name}", step) for name in names}
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
    plane(ax, limit, sigmas)
    if cloud is None:
        note(ax, _missing(run, step))
        return
    scatter(ax, *cloud)
    text = measured(run, step)
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


def spread_steps(available: Iterable[int], count: int = 6) -> list[int]:
    """The paper's six snapshots if all are there, else up to `count` spread ones with the last."""
    steps = sorted(available)
    if set(SNAPSHOTS) <= set(steps):
        return list(SNAPSHOTS)
    places = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[place] for place in places]


def plane_picture(snapshot: Snapshot, step: int, exact: bool = False) -> np.ndarray:
    """Pixels [H, W, 3] of one snapshot, small and quickly drawn.

    Pictures of a run are to the same scale, unless its z go far: ±4, ±8, ±16 and so on.
    """
    z, label = clouds(snapshot, 100, exact, common=False)
    limit = 4.0
    while limit < plane_limit([z]):
        limit *= 2
    figure = Figure(figsize=(2.4, 2.6), dpi=110)
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    plane(ax, limit, (1, 2))
    scatter(ax, z, label)
    ax.set_title(f"update {step:,}, as far as ±{limit:.0f}", fontsize=9, pad=4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def run_latents(run: Run, steps: Sequence[int], samples: int = 300) -> Figure:
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
    title = run_title(run) + ("" if width < 8 else "  ·  circles: prior at 1σ and 2σ")
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=11, c=GREY, va="top")
    return figure
