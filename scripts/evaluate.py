"""Measures a run's best checkpoint again: prints what training recorded in results.json.

With --iw-samples, --iw-sentences or --chunk the importance-weighted NLL is another one, and says so. 500
samples of all of Penn Treebank's test sentences take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cvae.config import Config, load
from cvae.folder import FolderError, RunFolder
from cvae.reading import UserError

EXAMPLES = """examples:
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb val --data ../corpora/ptb
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb --iw-samples 500 --iw-sentences all"""


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def count_or_all(text: str) -> int | None:
    """The same, or None for `all`."""
    return None if text == "all" else count(text)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("split", nargs="?", default="test", choices=("train", "val", "test"))
    parser.add_argument("--data", metavar="DIR", help="where the corpus is now (default: where it was)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    unset = argparse.SUPPRESS
    parser.add_argument(
        "--iw-samples", type=count, default=unset, metavar="K", help="z a sentence (default: the run's)"
    )
    parser.add_argument(
        "--iw-sentences", type=count_or_all, default=unset, metavar="N|all", help="sentences with an IW-NLL"
    )
    parser.add_argument(
        "--chunk", dest="iw_chunk", type=count, default=unset, metavar="C", help="sequences decoded at once"
    )
    return parser.parse_args(arguments)


def recorded(folder: RunFolder, options: argparse.Namespace) -> Config:
    """The run's own configuration, on this machine's device and data location, with what was asked for."""
    if (record := folder.record) is None:
        raise FolderError(f"{folder} is not a run folder: it has no run.json")
    config = load(record["config"])
    asked = {key: value for key, value in vars(options).items() if key.startswith("iw_")}
    changed = {"device": options.device, "task": dataclasses.replace(config.task, **asked)}
    if options.data is not None:
        if not hasattr(config.dataset, "path"):
            raise UserError(f"--data: the dataset {config.dataset.name} of this run is generated")
        changed["dataset"] = dataclasses.replace(config.dataset, path=options.data)
    return dataclasses.replace(config, **changed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the measures as JSON, one key a line; the exit status is 1 where it cannot."""
    options = parse(arguments)
    folder = RunFolder(options.folder)
    try:
        config = recorded(folder, options)
        from cvae import run

        task = run.prepare(config)
        folder.refuse_other_data(task.data.fingerprints)
        found = run.evaluate(task, folder, options.split)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
