"""What the figures of published runs hold, artist by artist: a change of a figure is seen, and meant.

A file in golden/ has a line for each artist of a figure. `PYTHONPATH=. python
tests/report/test_golden_figures.py` rewrites the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
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
from cvae.report.figures import curves, latents
from cvae.runs.reader import Run, find_runs
from tests.helpers import ROOT

FOLDER = Path(__file__).parent / "golden"
PUBLISHED = ROOT / "outputs" / "published"


def runs_of(*names: str) -> list[Run]:
    return find_runs([PUBLISHED / name for name in names])


def first_of(name: str) -> Run:
    return runs_of(name)[0]


DRAWN: dict[str, Callable[[], Figure]] = {
    "schedules": figures.schedules_figure,
    "latents": lambda: figures.latent_figure(runs_of("toy")),
    "curves_of_the_paper": lambda: figures.curves_figure(runs_of("toy", "toy_restarts")),
    "curves": lambda: figures.curves_figure(runs_of("lr_vs_beta"), figures.OVERVIEW),
    "rate": lambda: figures.rate_figure(runs_of("remedies")),
    "accuracy": lambda: figures.accuracy_figure(runs_of("yelp_quick", "yelp_scratch")),
    "map": lambda: figures.map_figure(runs_of("yelp_quick")),
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


def described(figure: Figure) -> Iterator[str]:
    """Yield a line for each visible artist, but for what matplotlib places and lays out itself."""
    yield f"figure {' '.join(map(number, figure.get_size_inches()))}"
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = {id(part) for axis in axes for tick in axis.get_major_ticks() for part in tick.findobj()}
    ticks |= {id(part) for axis in axes for tick in axis.get_minor_ticks() for part in tick.findobj()}
    for artist in figure.findobj():
        if not artist.get_visible() or id(artist) in ticks:
            continue
        if isinstance(artist, Axes):
            titles = [artist.get_title(place) for place in ("left", "center", "right")]
            limits = [*artist.get_xlim(), *artist.get_ylim()]
            words = [
                *titles,
                artist.get_xlabel(),
                artist.get_ylabel(),
                artist.get_xscale(),
                artist.get_yscale(),
            ]
            yield f"axes {words} {' '.join(map(number, limits))}"
            for axis in (artist.xaxis, artist.yaxis):
                words = [text.get_text() for text in axis.get_ticklabels()]
                sizes = sorted({number(text.get_size()) for text in axis.get_ticklabels()})
                yield f"  ticks {numbers(axis.get_ticklocs())} {words} {' '.join(sizes)}"
        elif isinstance(artist, Text) and artist.get_text().strip():
            place = " ".join(map(number, artist.get_position()))
            look = f"{artist.get_ha()} {artist.get_va()} {number(artist.get_size())}"
            where = place if artist.axes else ""
            if isinstance(artist, Annotation):
                where += " of " + " ".join(map(number, artist.xy))
            yield f"text {artist.get_text()!r} {colour(artist.get_color())} {look} {where}".rstrip()
        elif isinstance(artist, Line2D) and len(artist.get_xdata()):
            data = f"{numbers(artist.get_xdata())} | {numbers(artist.get_ydata())}"
            kind = f"{artist.get_linestyle()} {artist.get_marker()} {number(artist.get_linewidth())}"
            yield f"line {colour(artist.get_color())} {kind} {number(artist.get_markersize())} {data}"
        elif isinstance(artist, Collection):
            offsets, sizes = numbers(artist.get_offsets()), numbers(getattr(artist, "get_sizes", list)())
            paths = numbers([v for path in artist.get_paths() for v in path.vertices.ravel()])
            look = " ".join(map(colour, artist.get_facecolor()[:3]))
            yield f"{type(artist).__name__} {offsets} | {sizes} | {paths} {look}"
        elif isinstance(artist, Patch) and not getattr(artist, "_layout", False):
            yield f"{type(artist).__name__} {colour(artist.get_facecolor())} {number(artist.get_linewidth())}"


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
