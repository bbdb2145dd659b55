"""Print a table of runs: a row for each setting that differs, seeds as mean ± sample std, the best in bold.

Bold is for measures that have a better side by themselves: elbo (up), rec, ppl, iw_nll, iw_ppl (down). Among
runs on different corpora or vocabularies nothing is bold. n says how many of a row's runs are finished; the
others, and those that a sweep has not started yet, are listed below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from cvae.cli.arguments import Arguments, add_folders, count, entry_point, parser
from cvae.report import accuracy, tables
from cvae.report.figures import ORDER
from cvae.report.formats import FORMATS, Table
from cvae.runs.reader import Run, find_runs
from cvae.runs.sweeps import find_jobs

EXAMPLES = """\
  %(prog)s outputs/toy                                   the task's measures
  %(prog)s outputs/toy --columns all --format csv        every measure of val and test
  %(prog)s outputs/toy --at 10000 20000 30000 40000      loss, rec and KL along training
  %(prog)s outputs/toy --at 10000 11000 --columns val/mi val/accuracy
  %(prog)s outputs/ptb --columns test/ppl test/kl time/training_seconds
  %(prog)s outputs/yelp_quick outputs/yelp_scratch --accuracy
  %(prog)s outputs/remedies --columns test/iw_ppl test/kl time/relative"""
WINDOW = 1000


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line; options that would not be read are refused."""
    head = parser("table", __doc__, EXAMPLES)
    add_folders(head)
    head.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of results.json (default: the task's; all: every measure), or with --at of metrics.jsonl",
    )
    kinds = head.add_mutually_exclusive_group()
    kinds.add_argument("--accuracy", action="store_true", help="of task=yelp's classifiers, in percent")
    kinds.add_argument("--at", nargs="+", type=int, metavar="STEP", help="along training, at these steps")
    head.add_argument(
        "--window", type=count, help=f"with --at: updates before a step to average train/* over ({WINDOW:,})"
    )
    head.add_argument("--format", choices=FORMATS, default="markdown")
    options = head.parse_args(arguments)
    if options.accuracy and options.columns:
        head.error("--columns: not read by --accuracy")
    if options.window is not None and not options.at:
        head.error("--window: read only with --at")
    if options.at and "all" in options.columns:
        head.error("--columns all stands for measures of results.json: with --at, name keys of metrics.jsonl")
    return options


def probe_notes(runs: Sequence[Run], table: Table) -> list[str]:
    """Return a note where a column averages fine-tuned classifiers and some of them are still their probe."""
    still = sum(accuracy.still_probes(run.classifiers) for run in runs)
    if not still or not any("/finetune/" in key for key in table.head):
        return []
    return [
        f"{still} fine-tuned classifiers are still their probe (updates: 0): --accuracy shows in which means"
    ]


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the table, then the notes about it; of CSV the notes go to stderr."""
    options = parse(arguments)
    runs = find_runs(options.folders)
    if options.accuracy:
        table = accuracy.accuracy_table(runs, ORDER)
    elif options.at:
        table = tables.steps_table(runs, ORDER, options.at, options.window or WINDOW, options.columns)
    else:
        table = tables.results_table(runs, ORDER, options.columns)
    unfinished = [str(job) for job in find_jobs(options.folders) if job.state != "done"]
    notes = [*table.notes, *probe_notes(runs, table), *unfinished]
    print(FORMATS[options.format](replace(table, notes=notes)))
    if options.format == "csv":
        print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
