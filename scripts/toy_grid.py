"""How close each cell of a grid of toy runs is to the paper's curves, and in how many cells each claim holds.

A cell is a setting with all three schedules, whose runs have ended; the others are left out. In a cell with
restarts only cyclical's learning rate restarts. Distance: |ours - the paper's| in nats, averaged over rec and
KL, schedules and eight marks; ours are means over the 1,000 steps before each mark. The last two rows must be
far. A claim holds in a cell if all its checks agree: within their margin, or without one in direction.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import Arguments, add_folders, entry_point, parser
from cvae.report.claims import Claim, read_claims
from cvae.report.formats import Cell, Table
from cvae.report.tables import scalar_cell
from cvae.report.verdicts import agrees
from cvae.runs.reader import Run, RunsError, find_runs

MARKS = range(5000, 40001, 5000)
WINDOW = 1000  # steps before a mark
# figs/toy_learning_curve.png of the authors' repository, read off by colour, ± 0.03
PAPER = {
    "constant": {
        "train/rec": (2.40, 2.32, 2.31, 2.28, 2.22, 2.20, 2.18, 2.18),
        "train/kl": (0.03, 0.01, 0.02, 0.03, 0.10, 0.12, 0.13, 0.14),
    },
    "monotonic": {
        "train/rec": (1.22, 1.33, 1.39, 1.38, 1.38, 1.36, 1.35, 1.34),
        "train/kl": (1.95, 1.10, 0.95, 0.94, 0.94, 0.94, 0.96, 0.97),
    },
    "cyclical": {
        "train/rec": (2.15, 1.94, 0.84, 1.02, 0.52, 0.74, 0.41, 0.70),
        "train/kl": (0.60, 0.43, 1.55, 1.33, 1.83, 1.58, 1.92, 1.62),
    },
}
NOTHING = {"train/rec": math.log(10), "train/kl": 0.0}
KEYS = ("lr.value", "dataset.copies", "model.inject")  # of a cell, beside whether cyclical's rate restarts

Runs = Sequence[Run]


def cells(runs: Runs) -> dict[tuple[str, ...], list[Run]]:
    """Return the runs of each cell that has all three schedules, as far as the last mark.

    Raises RunsError where there is none.
    """
    found: dict[tuple[str, ...], dict[str, list[Run]]] = {}
    for run in runs:
        if run.task != "toy" or run.last < MARKS[-1]:
            continue
        key = tuple(str(run.setting[name]) for name in KEYS)
        found.setdefault((run.group[1], *key), {}).setdefault(run.group[0], []).append(run)
    whole = {}
    for (rate, *key), by_schedule in found.items():
        constant = found.get(("constant", *key), {})
        parts = [by_schedule if name == "cyclical" else constant for name in PAPER]
        if all(name in part for name, part in zip(PAPER, parts, strict=True)):
            runs = [run for name, part in zip(PAPER, parts, strict=True) for run in part[name]]
            whole[rate, *key] = runs
    if not whole:
        raise RunsError(f"no setting has toy runs of {', '.join(PAPER)} as far as step {MARKS[-1]:,}")
    return whole


def distance(runs: Runs) -> Cell:
    """Return the distance of a cell's runs to the paper's curves, in nats, by seed."""
    seeds = {run.seed for run in runs}
    return Cell(tuple(_distance([run for run in runs if run.seed == seed]) for seed in sorted(seeds)))


def _distance(runs: Runs) -> float:
    gaps = []
    for run in runs:
        for measure, wanted in PAPER[run.group[0]].items():
            found = (scalar_cell([run], measure, mark, WINDOW).mean for mark in MARKS)
            gaps += [abs(ours - theirs) for ours, theirs in zip(found, wanted, strict=True)]
    return statistics.mean(gaps)


def at_the_end(runs: Runs, schedule: str, measure: str) -> Cell:
    """Return a measure of a schedule's runs at the last mark."""
    return scalar_cell([run for run in runs if run.group[0] == schedule], measure, MARKS[-1], WINDOW)


def holds(claim: Claim, runs: Runs) -> bool:
    """Return whether all checks of a claim agree in a cell."""
    return all(agrees(check.judge(runs).score or 0.0, check.margin) for check in claim.checks)


def controls() -> dict[str, float]:
    """Return the distances of curves that must be far: none learnt, and the paper's, schedules exchanged."""
    names = list(PAPER)
    flat = [abs(theirs - ours) for c in PAPER.values() for key, ours in NOTHING.items() for theirs in c[key]]
    exchanged = [
        abs(ours - theirs)
        for name, other in zip(names, names[1:] + names[:1], strict=True)
        for key in PAPER[name]
        for ours, theirs in zip(PAPER[other][key], PAPER[name][key], strict=True)
    ]
    return {
        "nothing learnt: rec ln 10, KL 0": statistics.mean(flat),
        "the paper, schedules exchanged": statistics.mean(exchanged),
    }


def tables(grid: Mapping[tuple[str, ...], Runs]) -> list[Table]:
    """Return the cells by distance, and the claims with the number of cells in which they hold."""
    claims = [claim for claim in read_claims() if list(claim.experiments) == ["toy"]]
    rows = []
    for (rate, *key), runs in sorted(grid.items(), key=lambda item: distance(item[1]).mean):
        kls = [at_the_end(runs, schedule, "train/kl") for schedule in PAPER]
        agreeing = f"{sum(holds(claim, runs) for claim in claims)} of {len(claims)}"
        restarts = "constant" if rate == "constant" else "restarts for cyclical"
        rows.append([*key, restarts, distance(runs), *kls, agreeing])
    paper = [f"{curves['train/kl'][-1]:.2f}" for curves in PAPER.values()]
    rows.append(["the paper", "", "", "", "0", *paper, ""])
    rows += [[name, "", "", "", f"{far:.2f}", "", "", "", ""] for name, far in controls().items()]
    head = [*KEYS, "rate", "distance", *(f"KL, {schedule}" for schedule in PAPER), "claims"]
    shares = [(sum(holds(claim, runs) for runs in grid.values()), len(grid)) for claim in claims]
    counts = [
        [claim.claim, f"{holding} of {all_}"] for claim, (holding, all_) in zip(claims, shares, strict=True)
    ]
    return [Table(head, rows, []), Table(["claim", "cells in which it holds"], counts, [])]


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("toy_grid", __doc__, "  %(prog)s outputs/toy_grid outputs/toy_grid_restarts")
    add_folders(head)
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> int:
    """Print both tables."""
    runs = find_runs(parse(arguments).folders)
    print("\n\n".join(table.markdown() for table in tables(cells(runs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
