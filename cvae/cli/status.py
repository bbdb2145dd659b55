"""Count the runs of a sweep that are done, running, failed, stopped or missing, and say when it will end.

A run is running while a process holds its folder. The sweep's command, given again, takes up stopped, failed
and missing runs. Missing ones are known from sweep.json, which each sweep leaves beside its runs.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta

from tqdm import tqdm

from cvae.cli.arguments import Arguments, add_folders, entry_point, parser
from cvae.errors import UserError
from cvae.runs.sweeps import counted, find_jobs, seconds_left

EXAMPLES = """\
  %(prog)s outputs/toy
  watch -n 60 %(prog)s outputs/toy"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("status", __doc__, EXAMPLES)
    add_folders(head)
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the counts, the expected end, and a line for each run that is not done."""
    options = parse(arguments)
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
