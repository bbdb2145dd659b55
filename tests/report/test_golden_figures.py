"""What the figures of published runs hold, artist by artist: a change of a figure is seen, and meant.

A file in golden/ has a line for each artist of a figure. `PYTHONPATH=. python
tests/report/test_golden_figures.py` rewrites the files.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Annotation, Text

from cvae.report import figures
from cvae.report.figures import animation, curves, latents
from cvae.runs.reader import Run, find_runs
from tests.helpers import ROOT

FOLDER = Path(__file__).parent / "golden"
PUBLISHED = ROOT / "outputs" / "published"


def runs_of(*names: str) -> list[Run]:
    return find_runs([PUBLISHED / name for name in names])


def first_of(name: str) -> Run:
    return runs_of(name)[0]


def caught(module: ModuleType, draw: Callable[[], object]) -> Figure:
    """The figure that `module` makes for pixels only."""
    made: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Figure", lambda **options: made.append(Figure(**options)) or made[0])
        draw()
    return made[0]


DRAWN: dict[str, Callable[[], Figure]] = {
    "schedules": figures.schedules_figure,
    "latents": lambda: figures.latent_figure(runs_of("toy")),
    "curves_of_the_paper": lambda: figures.curves_figure(runs_of("toy", "toy_restarts")),
    "curves": lambda: figures.curves_figure(runs_of("lr_vs_beta"), figures.OVERVIEW),
    "curves_without_records": lambda: curves.run_curves(dataclasses.replace(first_of("toy"), metrics=[])),
    "latents_of_a_seed": lambda: figures.latent_figure([run for run in runs_of("toy") if run.seed == 1]),
    "rate_of_one_kind": lambda: figures.rate_figure(runs_of("lr_vs_beta")),
    "rate": lambda: figures.rate_figure(runs_of("remedies")),
    "accuracy": lambda: figures.accuracy_figure(runs_of("yelp_quick", "yelp_scratch")),
    "map": lambda: figures.map_figure(runs_of("yelp_quick")),
    "animation": lambda: caught(
        animation, lambda: deque(islice(figures.latent_animation(runs_of("toy")), 3), 0)
    ),
    "plane": lambda: caught(
        latents, lambda: latents.plane_picture(first_of("toy").latents[10000], 10000, exact=False)
    ),
    "run_curves": lambda: curves.run_curves(first_of("cycles")),
    "run_latents": lambda: latents.run_latents(
        first_of("toy"), latents.spread_steps(sorted(first_of("toy").latents))
    ),
}


def number(value: Any) -> str:
    """A number to four digits, without the sign of a zero."""
    return f"{float(value) + 0.0:.4g}"


def numbers(values: Any) -> str:
    """How many numbers, their sum, and the sum of each times its place: any change shows."""
    flat = np.asarray(values, dtype=float).ravel()
    flat = flat[np.isfinite(flat)]
    return f"{len(flat)}: {number(flat.sum())} {number((flat * np.arange(1, len(flat) + 1)).sum())}"


def colour(value: Any) -> str:
    return to_hex(value, keep_alpha=True)


def words_of(text: Text) -> str:
    """A text, its look, its place among the axes and, of an annotation, what it points at."""
    look = f"{text.get_ha()} {text.get_va()} {number(text.get_size())}"
    where = " ".join(map(number, text.get_position())) if text.axes else ""
    if isinstance(text, Annotation):
        where += " of " + " ".join(map(number, text.xy))
    return f"text {text.get_text()!r} {colour(text.get_color())} {look} {where}".rstrip()


def axes_of(ax: Axes) -> Iterator[str]:
    """Titles, labels, scales and limits, and the ticks of both axes."""
    words = [ax.get_title(place) for place in ("left", "center", "right")]
    words += [ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale(), ax.get_yscale()]
    yield f"axes {words} {' '.join(map(number, [*ax.get_xlim(), *ax.get_ylim()]))}"
    for axis in (ax.xaxis, ax.yaxis):
        labels = axis.get_ticklabels()
        sizes = sorted({number(label.get_size()) for label in labels})
        places = numbers(axis.get_ticklocs())
        yield f"  ticks {places} {[label.get_text() for label in labels]} {' '.join(sizes)}"


def line_of(line: Line2D) -> str:
    look = f"{line.get_linestyle()} {line.get_marker()} {number(line.get_linewidth())}"
    look = f"{colour(line.get_color())} {look} {number(line.get_markersize())}"
    return f"line {look} {numbers(line.get_xdata())} | {numbers(line.get_ydata())}"


def collection_of(drawn: Collection) -> str:
    offsets, sizes = numbers(drawn.get_offsets()), numbers(getattr(drawn, "get_sizes", list)())
    paths = numbers([place for path in drawn.get_paths() for place in path.vertices.ravel()])
    look = " ".join(map(colour, drawn.get_facecolor()[:3]))
    return f"{type(drawn).__name__} {offsets} | {sizes} | {paths} {look}"


def described(figure: Figure) -> Iterator[str]:
    """Yield a line for each visible artist, but for ticks, which are told with their axes."""
    yield f"figure {' '.join(map(number, figure.get_size_inches()))}"
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = [tick for axis in axes for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    told = {id(part) for tick in ticks for part in tick.findobj()}
    for artist in figure.findobj():
        if not artist.get_visible() or id(artist) in told:
            continue
        match artist:
            case Axes():
                yield from axes_of(artist)
            case Text() if artist.get_text().strip():
                yield words_of(artist)
            case Line2D() if len(artist.get_xdata()):
                yield line_of(artist)
            case Collection():
                yield collection_of(artist)
            case Patch():
                look = f"{colour(artist.get_facecolor())} {number(artist.get_linewidth())}"
                yield f"{type(artist).__name__} {look}"


def text_of(name: str) -> str:
    """The golden text of a figure, which is laid out first: that sets ticks and limits."""
    figure = DRAWN[name]()
    figure.draw_without_rendering()
    return "\n".join(described(figure)) + "\n"


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_of_published_runs_is_what_it_was(name):
    assert text_of(name) == (FOLDER / f"{name}.figure").read_text(encoding="utf-8")


if __name__ == "__main__":
    for name in DRAWN:
        (FOLDER / f"{name}.figure").write_text(text_of(name), encoding="utf-8")
