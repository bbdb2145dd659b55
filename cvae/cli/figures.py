"""Draw the paper's Figures 2 to 4, the curves of any task and an animation, from finished or running runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cvae.cli.arguments import Arguments, add_folders, entry_point, number, parser
from cvae.errors import UserError
from cvae.report import figures
from cvae.runs.reader import find_runs

EXAMPLES = """\
  %(prog)s 2                          the schedules; needs no run
  %(prog)s 3 outputs/toy              the latent plane over training
  %(prog)s 4 outputs/toy --to figs    loss, rec and KL over updates
  %(prog)s all outputs/toy            all three
  %(prog)s curves outputs/lr_vs_beta  ELBO, rec, KL and path A over updates
  %(prog)s accuracy outputs/yelp_quick outputs/yelp_scratch   accuracy against labels
  %(prog)s map outputs/yelp_quick     the test sentences' z in a plane
  %(prog)s rate outputs/remedies      KL against rec, a point per run
  %(prog)s animation outputs/toy      latents.gif: the latent plane over training

All but 2 read every run in and below the given folders. A row or line is one schedule
(and learning rate, where it varies); runs that differ in their seed share it."""
FIGURES = {  # name on the command line: file name and what draws it from runs
    "2": ("figure2_schedules", lambda runs: figures.schedules_figure()),
    "3": ("figure3_latents", figures.latent_figure),
    "4": ("figure4_curves", figures.curves_figure),
    "curves": ("curves", lambda runs: figures.curves_figure(runs, figures.OVERVIEW)),
    "rate": ("rate", figures.rate_figure),
    "accuracy": ("accuracy", figures.accuracy_figure),
    "map": ("map", figures.map_figure),
}
DPI = 150
dpi = number("dpi", int, "a whole number from 10 to 1200", lambda value: 10 <= value <= 1200)


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line; what a figure needs is there, and what it would not read is refused."""
    head = parser("figures", __doc__, EXAMPLES)
    head.add_argument("figure", choices=(*FIGURES, "all", "animation"), help="2 to 4 are the paper's")
    add_folders(head, "*")
    head.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="where to write (default: the first folder, or outputs/figures when none is given)",
    )
    head.add_argument("--dpi", type=dpi, help=f"of the PNG, 10 to 1200 (default: {DPI})")
    options = head.parse_args(arguments)
    if options.figure != "2" and not options.folders:
        head.error(f"figure {options.figure} needs a folder with runs, for instance outputs/toy")
    if options.figure == "2" and options.folders:
        head.error("figure 2 is drawn without runs: leave out the folders; --to says where to write")
    if options.figure == "animation" and options.dpi:
        head.error("--dpi: not read by animation")
    if options.to is None:
        options.to = options.folders[0] if options.folders else Path("outputs/figures")
    return options


@entry_point
def main(arguments: Arguments = None) -> int:
    """Draw what is asked for and print the files; the exit status is 1 where a figure cannot be drawn."""
    options = parse(arguments)
    status = 0
    for name in ("2", "3", "4") if options.figure == "all" else (options.figure,):
        try:
            print(*draw(name, options), sep="\n")
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            print(f"{name if name == 'animation' else f'figure {name}'}: {error}", file=sys.stderr)
            status = 1
    return status


def draw(name: str, options: argparse.Namespace) -> list[Path]:
    """Write one figure and return its files. Raises UserError where the runs do not allow it."""
    runs = [] if name == "2" else find_runs(options.folders)
    if name == "animation":
        return [figures.save_gif(figures.latent_animation(runs), options.to / "latents.gif")]
    file, drawn = FIGURES[name]
    return figures.save(drawn(runs), options.to, file, dpi=options.dpi or DPI)
