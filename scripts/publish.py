"""Copy what tables and figures need from run folders to outputs/published: small enough to commit.

Kept are run.json without the data's place, results.json, metrics.jsonl with neighbouring train/* records
averaged, which leaves means over longer windows as they were, and latents.jsonl, classifier.jsonl, map.jsonl
and samples.md where there are any. Runs that are not finished are named and left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli.arguments import Arguments, count, entry_point, parser
from cvae.errors import UserError
from cvae.io import write_atomically
from cvae.runs.reader import Run, find_runs, read_metrics

AS_OF_THE_LAST = ("step", "train/beta", "train/lr")


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("publish", __doc__)
    head.add_argument("folder", type=Path, help="a folder with runs in or below it, such as outputs/toy")
    head.add_argument("--thin", type=count, default=2, help="train/* records averaged into one (2)")
    head.add_argument("--to", type=Path, default=Path("outputs/published"), metavar="DIR")
    return head.parse_args(arguments)


def thinned(records: Iterable[dict[str, Any]], thin: int) -> Iterator[dict[str, Any]]:
    """Yield records in order, every `thin` train/* records as one; that of step 0 stays alone."""
    block: list[dict[str, Any]] = []
    for record in records:
        if "train/rec" not in record or record["step"] == 0:
            yield rounded(record)
            continue
        block.append(record)
        if len(block) == thin:
            yield _averaged(block)
            block = []
    if block:
        yield _averaged(block)


def _averaged(block: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one record for several: means, except for what belongs to a step and not to a window."""
    last = block[-1]
    values = {key: [record[key] for record in block if record.get(key) is not None] for key in last}
    means = {key: sum(found) / len(found) for key, found in values.items() if found}
    return rounded(means | {key: last[key] for key in AS_OF_THE_LAST if key in last})


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with six significant digits."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in record.items()}


def publish(run: Run, target: Path, thin: int) -> None:
    """Write one run's small copy; `thin` train/* records become one."""
    about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    if isinstance(dataset := about["config"].get("dataset"), dict):
        dataset.pop("path", None)
    about.pop("command", None)  # may name places of this machine
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    records = read_metrics(run.folder / "metrics.jsonl")  # all of them: `run.metrics` may lack some
    lines = [json.dumps(record) for record in thinned(records, thin)]
    write_atomically(target / "metrics.jsonl", "\n".join(lines) + "\n")
    for name in ("results.json", "latents.jsonl", "classifier.jsonl", "map.jsonl", "samples.md"):
        if (run.folder / name).exists():
            shutil.copyfile(run.folder / name, target / name)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Publish every finished run below the folder."""
    options = parse(arguments)
    for run in find_runs([options.folder]):
        if not run.results.get("finished"):
            print(f"{run.folder}: not finished, left out", file=sys.stderr)
            continue
        target = options.to / options.folder.resolve().name / run.folder.relative_to(options.folder)
        if target.resolve() == run.folder.resolve():
            raise UserError(f"--to {options.to}: {run.folder} would be replaced by its own thinned copy")
        publish(run, target, options.thin)
        print(target)


if __name__ == "__main__":
    sys.exit(main())
