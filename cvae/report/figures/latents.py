"""The paper's Figure 3: the latent plane of the synthetic experiment over training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
SIDE = 1.85  # inches, of a panel
DRAWN = 300  # samples of each sequence
# ten colours of Petroff (2021), chosen for colour-blind readers as well
TEN = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
ESTIMATES = {"mi": "I {:.2f}", "accuracy": "acc {:.0%}", "prior_gap": "gap {:.2f}"}

Cloud = tuple[np.ndarray, np.ndarray]  # z [N, 2] and the sequence [N] of each


def clouds(snapshot: Snapshot, samples: int, exact: bool = False, common: bool = True) -> Cloud:
    """Return `samples` z of each sequence from q(z|n), the noise seeded; `exact`: the means alone.

    `common` gives all sequences the same noise, as the paper's figure does.
    """
    count = 1 if exact else samples
    noise = np.random.default_rng(0).standard_normal((1 if common else len(snapshot.mean), count, 2))
    spread = np.zeros_like(snapshot.mean) if exact else np.exp(0.5 * snapshot.logvar)
    z = snapshot.mean[:, None] + spread[:, None] * noise
    return z.reshape(-1, 2), np.repeat(snapshot.label, count)


def plane_limit(drawn: Iterable[Cloud]) -> float:
    """Return half the side, in units of z, of a square around 0 with 2 sigma and nearly every point."""
    far = np.concatenate([np.zeros(1), *(np.abs(z).max(axis=1) for z, _ in drawn)])
    far = far[np.isfinite(far)]
    return max(2.15, 1.05 * float(np.quantile(far, 0.995 if len(far) > 1000 else 1)))


def draw_plane(ax: Axes, cloud: Cloud | None, limit: float, sigmas: Sequence[float]) -> None:
    """Draw clouds over the standard normal's circles, shuffled so that no sequence lies on top."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    for radius in sigmas:
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=GREY, lw=0.7, alpha=0.7, zorder=3))
    if cloud is not None:
        z, label = cloud
        shuffled = np.random.default_rng(1).permutation(len(z))
        shuffled = shuffled[np.abs(z[shuffled]).max(axis=1) <= limit]
        colours = np.array(TEN)[label % len(TEN)]
        size, alpha = (6, 0.6) if len(z) > 100 else (60, 0.9)
        x, y = z[shuffled].T
        ax.scatter(x, y, c=colours[shuffled], s=size, alpha=alpha, lw=0, rasterized=True)


def estimates(run: Run, step: int, names: Sequence[str] = tuple(ESTIMATES)) -> str:
    """Return I(n;z), accuracy and the gap to the prior at the validation of a step, as far as recorded."""
    values = {name: run.at(f"val/{name}", step) for name in names}
    # estimates of what cannot be negative may be
    return "  ".join(ESTIMATES[name].format(max(0.0, v)) for name, v in values.items() if v is not None)


def with_posterior(runs: Sequence[Run]) -> tuple[dict[Group, list[Run]], list[Run]]:
    """Return the groups without autoencoders, and the run to draw of each: the first with snapshots."""
    groups = {group: members for group, members in group_runs(runs).items() if group[0] != "none"}
    return groups, [next((run for run in members if run.latents), members[0]) for members in groups.values()]


def latent_figure(runs: Sequence[Run], steps: Sequence[int] = SNAPSHOTS) -> Figure:
    """Draw Figure 3: samples of q(z|n) for the toy's sequences; a row for each schedule, a column a step.

    Of several seeds the first with snapshots is drawn, and the numbers are that run's. Autoencoders
    (`schedule=none`) have no posterior to sample and are left out.
    """
    groups, drawn = with_posterior(runs)
    if not any(run.latents for run in drawn):
        raise RunsError("none of the runs has both a posterior and a latents.jsonl: use task=toy")
    for run in drawn:
        if any(snapshot.mean.shape[1] != 2 for snapshot in run.latents.values()):
            raise RunsError(f"{run.folder / 'latents.jsonl'}: only a 2-d latent can be drawn")
    z = {
        (run.folder, step): clouds(run.latents[step], DRAWN)
        for run in drawn
        for step in steps
        if step in run.latents
    }
    limit, cycles = plane_limit(z.values()), cycle_numbers(drawn, steps)
    lefts = _columns(cycles, len(steps))
    top = 0.7 if cycles else 0.35
    width, height = lefts[-1] + SIDE + 0.1, top + len(drawn) * (SIDE + 0.32) + 0.75
    figure = Figure(figsize=(width, height))
    for row, (run, name) in enumerate(zip(drawn, labels(groups).values(), strict=True)):
        bottom = height - top - row * (SIDE + 0.32) - SIDE
        for step, left in zip(steps, lefts, strict=True):
            ax = figure.add_axes((left / width, bottom / height, SIDE / width, SIDE / height))
            _panel(ax, run, step, z.get((run.folder, step)), limit, (2,))
            if row == 0:
                ax.set_title(thousands(step), fontsize=12, pad=3)
        _row_label(figure, bottom + SIDE / 2, name, run, len(groups[run.group]))
    if cycles:
        _braces(figure, cycles, lefts)
    sequences = {int(n) for run in drawn for snapshot in run.latents.values() for n in snapshot.label}
    _caption(figure, sorted(sequences), limit)
    return figure


def cycle_numbers(runs: Iterable[Run], steps: Sequence[int]) -> list[int] | None:
    """Return the cycle in which each step ends, from the first cyclical run that has a length."""
    for run in runs:
        cycles, total = run.get("schedule", "cycles"), run.total
        if run.group[0] == "cyclical" and cycles and total and not run.continues:
            return [math.ceil(step * cycles / total) for step in steps]
    return None


def _columns(cycles: Sequence[int] | None, count: int) -> list[float]:
    """Return the left edge of each column in inches; the gap is wider between cycles."""
    lefts = [1.3]
    for i in range(1, count):
        skipped = cycles[i] - cycles[i - 1] if cycles else 0
        lefts.append(lefts[-1] + SIDE + (0.12, 0.3, 0.55)[min(skipped, 2)])
    return lefts


def _panel(ax: Axes, run: Run, step: int, cloud: Cloud | None, limit: float, sigmas: Sequence[float]) -> None:
    """Draw one snapshot with its numbers beneath, or write why there is none."""
    draw_plane(ax, cloud, limit, sigmas)
    if cloud is not None:
        ax.text(0.5, -0.02, estimates(run, step), transform=ax.transAxes, ha="center", va="top", fontsize=10)
    elif not run.latents:
        note(ax, "no latents.jsonl")
    elif step > max(run.latents):
        note(ax, f"the run\nends at\n{thousands(max(run.latents))}")
    else:
        note(ax, f"no\nsnapshot\nat {thousands(step)}")


def _row_label(figure: Figure, middle: float, name: str, run: Run, seeds: int) -> None:
    """Write a schedule's name left of its row, `middle` inches up, and which of several seeds is drawn."""
    name = name.replace(", ", "\n").replace(" restarts", "\nrestarts")
    width, height = figure.get_size_inches()
    colour = COLOURS.get(run.group[0], "k")
    figure.text(0.1 / width, middle / height, name, va="center", fontsize=12, weight="bold", c=colour)
    if seeds > 1:
        lower = (middle - 0.13 - 0.1 * name.count("\n")) / height
        text = f"seed {run.seed} ({seeds} runs)"
        figure.text(0.1 / width, lower, text, va="top", fontsize=9.5, c=GREY)


def _braces(figure: Figure, cycles: Sequence[int], lefts: Sequence[float]) -> None:
    """Draw a bracket over the columns of each cycle, and dots where cycles are left out."""
    width, height = figure.get_size_inches()
    y, tick = 1 - 0.36 / height, 0.06 / height
    for cycle in sorted(set(cycles)):
        own = [left for left, c in zip(lefts, cycles, strict=True) if c == cycle]
        a, b = own[0] / width, (own[-1] + SIDE) / width
        figure.add_artist(Line2D([a, a, b, b], [y - tick, y, y, y - tick], lw=0.8, color=GREY))
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(cycle if cycle < 20 else cycle % 10, "th")
        figure.text((a + b) / 2, y + tick, f"{cycle}{suffix} cycle", ha="center", fontsize=12)
    for i in range(1, len(cycles)):
        if cycles[i] - cycles[i - 1] > 1:
            x = (lefts[i - 1] + SIDE + lefts[i]) / 2 / width
            figure.text(x, y - tick / 2, "…", ha="center", va="center", fontsize=14, c=GREY)


def _caption(figure: Figure, sequences: Sequence[int], limit: float) -> None:
    """Write how to read the panels, and which colour is which sequence."""
    width, height = figure.get_size_inches()
    most = f"ln {len(sequences)} = {math.log(len(sequences)):.2f} nats"
    text = (
        f"{DRAWN} samples of q(z|n) for each n, with common noise, as far as ±{limit:.1f}; "
        "circle: prior at 2σ\n"
        f"I: mutual information of n and z, at most {most}; acc: how often argmax q(z|n) is the n of z; "
        "gap: KL(q(z) ‖ p(z)) in nats"
    )
    figure.text(0.1 / width, 0.1 / height, text, fontsize=9.5, c=GREY, va="bottom")
    if len(sequences) > len(TEN):
        return
    dots = [
        Line2D([], [], marker="o", ls="", ms=7, mew=0, color=TEN[n % len(TEN)], label=str(n))
        for n in sequences
    ]
    wide = width > 11
    figure.legend(
        handles=[Line2D([], [], ls="", label="sequence n"), *dots],
        loc="lower right" if wide else "upper left",
        bbox_to_anchor=(1, 0.26 / height) if wide else (0, 0.7 / height),
        **{"ncols": len(dots) + 1, "frameon": False, "fontsize": 10},
        **{"handletextpad": 0.05, "columnspacing": 0.5, "borderaxespad": 0},
    )


def spread_steps(available: Iterable[int]) -> list[int]:
    """Return the paper's six snapshots if all are there, else up to six spread ones with the last."""
    steps = sorted(available)
    if set(SNAPSHOTS) <= set(steps):
        return list(SNAPSHOTS)
    places = np.linspace(0, len(steps) - 1, min(len(SNAPSHOTS), len(steps))).round().astype(int)
    return [steps[place] for place in places]


def plane_picture(snapshot: Snapshot, step: int, exact: bool) -> np.ndarray:
    """Return the pixels [H, W, 3] of one snapshot, small and quickly drawn.

    Pictures of a run are to the same scale unless its z go far: ±4, ±8, ±16 and so on.
    """
    cloud = clouds(snapshot, 100, exact, common=False)
    limit = 4.0
    while limit < plane_limit([cloud]):
        limit *= 2
    figure = Figure(figsize=(2.4, 2.6), dpi=110)
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.88))
    draw_plane(ax, cloud, limit, (1, 2))
    ax.set_title(f"update {step:,}, as far as ±{limit:.0f}", fontsize=9, pad=4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def run_latents(run: Run, steps: Sequence[int]) -> Figure:
    """Draw snapshots of one run in a row; an autoencoder's z are its means alone."""
    drawn = [clouds(run.latents[step], DRAWN, exact=run.group[0] == "none") for step in steps]
    limit = plane_limit(drawn)
    width, height = max(len(steps) * (SIDE + 0.1) + 0.1, 5.5), SIDE + 0.9
    figure = Figure(figsize=(width, height))
    for place, (step, cloud) in enumerate(zip(steps, drawn, strict=True)):
        left = 0.1 + place * (SIDE + 0.1)
        ax = figure.add_axes((left / width, 0.3 / height, SIDE / width, SIDE / height))
        _panel(ax, run, step, cloud, limit, (1, 2))
        ax.set_title(thousands(step), fontsize=11, pad=3)
    title = run_title(run) + ("" if width < 8 else "  ·  circles: prior at 1σ and 2σ")
    figure.text(0.1 / width, 1 - 0.12 / height, title, fontsize=11, c=GREY, va="top")
    return figure
