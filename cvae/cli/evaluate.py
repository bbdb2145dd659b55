"""Measure a run's checkpoint again and print what training recorded in results.json.

With --data FILE measure another text by the run's vocabulary, as text/*, with the share of unknown tokens.
--iw-samples, --iw-sentences and --chunk change the importance-weighted NLL, and the output says so. 500
samples for all test sentences of Penn Treebank take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path

from cvae.cli.arguments import Arguments, add_run, count, entry_point, parser
from cvae.config.schema import Config, Files
from cvae.errors import UserError
from cvae.runs import fingerprints, hub
from cvae.runs.folder import RunFolder, finite

EXAMPLES = """\
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb val --data ../corpora/ptb
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb --data reviews.csv --column text
  %(prog)s outputs/ptb/schedule-cyclical_task-ptb --iw-samples 500 --iw-sentences all"""


def count_or_all(text: str) -> int | None:
    """Return the count, or None for `all`, for argparse."""
    return None if text == "all" else count(text)


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line; what is not given of the task's keys is absent."""
    head = parser("evaluate", __doc__, EXAMPLES)
    add_run(head, "where the corpus is now (default: where it was), or the file of another text")
    splits = ("train", "val", "test", "held")
    head.add_argument("split", nargs="?", choices=splits, help="of the corpus (default: test)")
    head.add_argument("--column", help="of another text in a table (default: the only one that is text)")
    add = functools.partial(head.add_argument, default=argparse.SUPPRESS)
    add("--iw-samples", type=count, metavar="K", help="z per sentence (default: the run's)")
    add("--iw-sentences", type=count_or_all, metavar="N|all", help="sentences with an IW-NLL")
    add("--chunk", dest="iw_chunk", type=count, metavar="C", help="sequences decoded at once")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the measures as JSON, one key a line."""
    options = parse(arguments)
    folder = RunFolder(hub.local(options.folder))
    changed = {key: value for key, value in vars(options).items() if key.startswith("iw_")}
    config = folder.configuration(options.device, **changed)
    _refuse_unlikely(folder, config, changed)
    other = _other_text(folder, config, options.data)
    _refuse_unread(folder, options, other)
    measures = _of_text(folder, options, other, changed) if other else _of_split(folder, options, changed)
    measured = options.checkpoint or (folder.record or {}).get("checkpoint") or config.task.reported
    recorded = folder.results.get("checkpoint", "best")
    if measured != recorded:
        print(f"of checkpoint_{measured}.pt; results.json is of checkpoint_{recorded}.pt", file=sys.stderr)
    print(json.dumps(finite(measures), indent=1))


def _refuse_unlikely(folder: RunFolder, config: Config, changed: dict[str, int]) -> None:
    """Raise UserError where an importance-weighted NLL is asked for and there is none."""
    if changed and config.autoencoder:
        raise UserError(
            f"{folder}: schedule=none has no likelihood to estimate, leave out --iw-* and --chunk"
        )
    if changed and not config.task.iw_samples:
        raise UserError(f"{folder}: the run has task.iw_samples=0, so give --iw-samples too")


def _other_text(folder: RunFolder, config: Config, data: str | None) -> Path | None:
    """Return the file that --data names, None where it is the run's corpus, in a folder or as it was read."""
    if data is None or not Path(data).is_file():
        return None
    if isinstance(config.dataset, Files):
        recorded, moved = (
            (folder.record or {}).get("data", {}),
            dataclasses.replace(config.dataset, path=data),
        )
        prints = fingerprints.corpus(dataclasses.replace(config, dataset=moved))
        if prints and all(recorded.get(split) == digest for split, digest in prints.items()):
            return None
    return Path(data)


def _refuse_unread(folder: RunFolder, options: argparse.Namespace, other: Path | None) -> None:
    """Raise UserError for an option that would not be read, and for an exported model without a text."""
    if other and options.split:
        raise UserError(f"{other} has no splits: leave out {options.split}")
    if options.column and not other:
        raise UserError("--column is for another text: --data must be its file")
    if folder.exported and options.data is None:
        raise UserError(f"{folder} has no corpus: --data names it, or another text to measure")


def _of_split(folder: RunFolder, options: argparse.Namespace, changed: dict[str, int]) -> dict[str, float]:
    """Return the measures of a split of the run's corpus."""
    from cvae.training import run

    config = folder.configuration(options.device, options.data, **changed)
    split = options.split or "test"
    return run.evaluate(run.reopen(config, folder, options.checkpoint, split), split)


def _of_text(
    folder: RunFolder, options: argparse.Namespace, text: Path, changed: dict[str, int]
) -> dict[str, float]:
    """Return the measures of another text."""
    from cvae.training.standalone import measure, without_corpus

    task = without_corpus(folder, options.device, options.checkpoint, **changed)
    return measure(task, text, options.column)
