"""Measure a run's checkpoint again and print what training recorded in results.json.

--iw-samples, --iw-sentences and --chunk change the importance-weighted NLL, and the output says so. 500
samples for all test sentences of Penn Treebank take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys

from cvae.cli.arguments import Arguments, add_run, count, entry_point, parser
from cvae.errors import UserError
from cvae.runs.folder import RunFolder, finite

EXAMPLES = """\
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb val --data ../corpora/ptb
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb --iw-samples 500 --iw-sentences all"""


def count_or_all(text: str) -> int | None:
    """Return the count, or None for `all`, for argparse."""
    return None if text == "all" else count(text)


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line; what is not given of the task's keys is absent."""
    head = parser("evaluate", __doc__, EXAMPLES)
    add_run(head)
    head.add_argument("split", nargs="?", default="test", choices=("train", "val", "test", "held"))
    add = functools.partial(head.add_argument, default=argparse.SUPPRESS)
    add("--iw-samples", type=count, metavar="K", help="z per sentence (default: the run's)")
    add("--iw-sentences", type=count_or_all, metavar="N|all", help="sentences with an IW-NLL")
    add("--chunk", dest="iw_chunk", type=count, metavar="C", help="sequences decoded at once")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the measures as JSON, one key a line."""
    options = parse(arguments)
    folder = RunFolder(options.folder)
    changed = {key: value for key, value in vars(options).items() if key.startswith("iw_")}
    config = folder.configuration(options.device, options.data, **changed)
    if changed and config.autoencoder:
        raise UserError(
            f"{folder}: schedule=none has no likelihood to estimate, leave out --iw-* and --chunk"
        )
    if changed and not config.task.iw_samples:
        raise UserError(f"{folder}: the run has task.iw_samples=0, so give --iw-samples too")
    from cvae.training import run

    task = run.reopen(config, folder, options.checkpoint, options.split)
    measures = run.evaluate(task, options.split)
    measured, recorded = options.checkpoint or config.task.reported, folder.results.get("checkpoint", "best")
    if measured != recorded:
        print(f"of checkpoint_{measured}.pt; results.json is of checkpoint_{recorded}.pt", file=sys.stderr)
    print(json.dumps(finite(measures), indent=1))
