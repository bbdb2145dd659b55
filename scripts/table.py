"""Prints a table of runs: rows by what differs between them, seeds as mean ± sample std, the best in bold.

Bold is for measures that have a better side by themselves: elbo (up), rec, ppl, iw_nll, iw_ppl (down); of
runs on different corpora or vocabularies nothing is. n says how many of a row's runs are finished; the
others, and those that a sweep has still to start, stand beneath.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import count
from cvae.errors import UserError
from cvae.report import accuracy, tables
from cvae.report.figures import ORDER
from cvae.report.formats import FORMATS, Table
from cvae.runs.reader import Run, find_runs
from cvae.runs.sweeps import find_jobs

EXAMPLES = """examples:
  python scripts/table.py outputs/toy                                   the task's measures
  python scripts/table.py outputs/toy --columns all --format csv        every measure of val and test
  python scripts/table.py outputs/toy --at 10000 20000 30000 40000      loss, rec and KL along training
  python scripts/table.py outputs/toy --at 10000 11000 --columns val/mi val/accuracy
  python scripts/table.py outputs/ptb --columns test/ppl test/kl time/training_seconds
  python scripts/table.py outputs/yelp_quick outputs/yelp_scratch --accuracy
  python scripts/table.py outputs/remedies --columns test/iw_ppl test/kl time/relative"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders with runs in or below them")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of results.json (default: the task's; all: every measure), or with --at of metrics.jsonl",
    )
    parser.add_argument("--accuracy", action="store_true", help="of task=yelp's classifiers, in percent")
    parser.add_argument("--at", nargs="+", type=int, metavar="STEP", help="along training, at these steps")
    parser.add_argument(
        "--window",
        type=count,
        default=1000,
        help="updates before a step to average train/* over (1000)",
    )
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    return parser.parse_args(arguments)


def unmoved(runs: Sequence[Run], table: Table) -> list[str]:
    """Return a note where a column averages fine-tuned classifiers and some of them are still their probe."""
    still = sum(accuracy.still_probes(run.classifiers) for run in runs)
    if not still or not any("/finetune/" in key for key in table.head):
        return []
    return [
        f"{still} fine-tuned classifiers are still their probe (updates: 0): --accuracy shows in which means"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; the exit status is 1 where there is none."""
    options = parse(arguments)
    try:
        runs = find_runs(options.folders)
        if options.accuracy:
            table = accuracy.accuracy_table(runs, ORDER)
        elif options.at:
            table = tables.steps_table(runs, ORDER, options.at, options.window, options.columns)
        else:
            table = tables.results_table(runs, ORDER, options.columns)
        notes = [
            *table.notes,
            *unmoved(runs, table),
            *(str(job) for job in find_jobs(options.folders) if job.state != "done"),
        ]
        print(FORMATS[options.format](replace(table, notes=notes)))
        if options.format == "csv":
            print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
