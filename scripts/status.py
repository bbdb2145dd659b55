"""How many runs of a sweep are done, running, failed, stopped or missing, and when it will end.

A run is running while a process holds its folder; the sweep's command, given again, takes up stopped, failed
and missing ones. Missing ones are known from sweep.json, which each sweep leaves beside its runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.errors import UserError
from cvae.runs.sweeps import counted, find_jobs, seconds_left

EXAMPLES = """examples:
  python scripts/status.py outputs/toy
  watch -n 60 python scripts/status.py outputs/toy"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders with runs in or below them")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the counts, the end and a line for each run that is not done; 1 where there are no runs."""
    options = parse(arguments)
    try:
        jobs = find_jobs(options.folders)
        if not jobs:
            names = ", ".join(map(str, options.folders))
            raise UserError(f"{names}: no run found, and no sweep.json that plans one")
        print(f"{len(jobs)} runs: {counted(jobs)}")
        if (left := seconds_left(jobs)) is not None:
            end = datetime.now() + timedelta(seconds=left)
            print(f"about {tqdm.format_interval(left)} left, until {end:%a %H:%M}")
        for job in jobs:
            if job.state != "done":
                print(job)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
