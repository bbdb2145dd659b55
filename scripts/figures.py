"""Draws the paper's Figures 2 to 4, the curves of any task and an animation, from runs, running ones too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.errors import UserError
from cvae.report import figures
from cvae.runs.reader import find_runs

EXAMPLES = """examples:
  python scripts/figures.py 2                          the schedules; needs no run
  python scripts/figures.py 3 outputs/toy              the latent plane over training
  python scripts/figures.py 4 outputs/toy --to figs    loss, rec and KL over updates
  python scripts/figures.py all outputs/toy            all three
  python scripts/figures.py curves outputs/ptb_quick   ELBO, rec, KL and path A over updates
  python scripts/figures.py accuracy outputs/yelp_quick outputs/yelp_scratch   accuracy against labels
  python scripts/figures.py map outputs/yelp_quick     the test sentences' z in a plane
  python scripts/figures.py rate outputs/remedies      KL against rec, a point per run
  python scripts/figures.py animation outputs/toy      latents.gif: the latent plane over training

All but 2 read every run in and below the given folders. A row or line is one schedule
(and learning rate, where it varies); runs that differ in their seed share it."""


def dpi(text: str) -> int:
    """A resolution that can be drawn, for argparse."""
    if not 10 <= (number := int(text)) <= 1200:
        raise ValueError
    return number


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with folders that figures 3 and 4 need."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "figure",
        choices=("2", "3", "4", "all", "curves", "rate", "accuracy", "map", "animation"),
        help="2 to 4 are the paper's",
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders with runs in or below them")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="where to write (default: the first folder, or outputs/figures when none is given)",
    )
    parser.add_argument("--dpi", type=dpi, default=150, help="of the PNG, 10 to 1200 (default: 150)")
    options = parser.parse_args(arguments)
    if options.figure != "2" and not options.folders:
        parser.error(f"figure {options.figure} needs a folder with runs, for instance outputs/toy")
    if options.to is None:
        options.to = options.folders[0] if options.folders else Path("outputs/figures")
    return options


def animate(options: argparse.Namespace) -> int:
    """Writes latents.gif; the exit status."""
    try:
        frames = figures.latent_animation(find_runs(options.folders))
        print(figures.save_gif(frames, options.to / "latents.gif"))
    except (UserError, OSError) as error:
        print(f"animation: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws what is asked for; the exit status is 1 where any figure could not be drawn."""
    options = parse(arguments)
    if options.figure == "animation":
        return animate(options)
    status = 0
    drawers: dict[str, tuple[str, Callable[[], Figure]]] = {
        "2": ("figure2_schedules", figures.schedules_figure),
        "3": ("figure3_latents", lambda: figures.latent_figure(find_runs(options.folders))),
        "4": ("figure4_curves", lambda: figures.curves_figure(find_runs(options.folders))),
        "rate": ("rate", lambda: figures.rate_figure(find_runs(options.folders))),
        "curves": ("curves", lambda: figures.curves_figure(find_runs(options.folders), figures.OVERVIEW)),
        "accuracy": ("accuracy", lambda: figures.accuracy_figure(find_runs(options.folders))),
        "map": ("map", lambda: figures.map_figure(find_runs(options.folders))),
    }
    for number, (name, draw) in drawers.items():
        if options.figure != number and (options.figure != "all" or not number.isdigit()):
            continue
        try:
            for path in figures.save(draw(), options.to, name, dpi=options.dpi):
                print(path)
        except (UserError, OSError) as error:
            print(f"figure {number}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
