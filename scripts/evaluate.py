"""Measures a run's checkpoint again: prints what training recorded in results.json.

With --iw-samples, --iw-sentences or --chunk the importance-weighted NLL is another one, and says so. 500
samples of all of Penn Treebank's test sentences take about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import count
from cvae.errors import UserError
from cvae.runs.folder import RunFolder, finite

EXAMPLES = """examples:
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb val --data ../corpora/ptb
  python scripts/evaluate.py outputs/ptb/schedule-cyclical_task-ptb --iw-samples 500 --iw-sentences all"""


def count_or_all(text: str) -> int | None:
    """The same, or None for `all`."""
    return None if text == "all" else count(text)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("split", nargs="?", default="test", choices=("train", "val", "test", "held"))
    parser.add_argument("--checkpoint", choices=("best", "last"), help="(default: the one the run reports)")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the measures as JSON, one key a line; the exit status is 1 where it cannot."""
    options = parse(arguments)
    folder = RunFolder(options.folder)
    try:
        asked = {key: value for key, value in vars(options).items() if key.startswith("iw_")}
        config = folder.configuration(options.device, options.data, **asked)
        from cvae.training import run

        task = run.reopen(config, folder, options.checkpoint, options.split)
        found = run.evaluate(task, options.split)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    measured, recorded = options.checkpoint or config.task.reported, folder.results.get("checkpoint", "best")
    if measured != recorded:
        print(f"of checkpoint_{measured}.pt; results.json is of checkpoint_{recorded}.pt", file=sys.stderr)
    print(json.dumps(finite(found), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
