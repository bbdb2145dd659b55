"""Prints a Markdown table of runs: rows by what differs between them, seeds as mean ± std."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cvae import tables
from cvae.figures import ORDER
from cvae.reading import UserError
from cvae.runs import find_runs

EXAMPLES = """examples:
  python scripts/table.py outputs/toy                                   val and test of the best checkpoints
  python scripts/table.py outputs/toy --at 10000 20000 30000 40000      loss, rec and KL along training
  python scripts/table.py outputs/toy --at 10000 11000 --columns val/mi val/accuracy
  python scripts/table.py outputs/ptb --columns test/ppl test/kl time/training_seconds"""


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
        help="of results.json, or with --at of metrics.jsonl",
    )
    parser.add_argument("--at", nargs="+", type=int, metavar="STEP", help="along training, at these steps")
    parser.add_argument(
        "--window", type=int, default=1000, help="updates before a step over which train/* is averaged (1000)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; the exit status is 1 where there is none."""
    options = parse(arguments)
    try:
        runs = find_runs(options.folders)
        if options.at:
            print(tables.steps_table(runs, ORDER, options.at, options.window, options.columns))
        else:
            print(tables.results_table(runs, ORDER, options.columns))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
