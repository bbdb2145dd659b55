"""The paper's claims and ours, each with the numbers of the runs that exist, their effect and a verdict.

A claim's experiments are looked for in the given folders, then in outputs/published; the first that has one
counts. What has no runs yet is listed with the command that makes them. scripts/claims.yaml holds the claims.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from cvae import claims, tables
from cvae.reading import UserError
from cvae.runs import Run, find_runs

EXAMPLES = """examples:
  python scripts/claims.py                       of the published runs
  python scripts/claims.py outputs               of your own, where you have them"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{EXAMPLES}\n\nrules:\n{claims.RULES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders whose subfolders are experiments")
    parser.add_argument("--format", choices=tables.FORMATS, default="markdown")
    return parser.parse_args(arguments)


def read() -> list[claims.Claim]:
    """The claims of claims.yaml."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return [claims.Claim.of(content) for content in yaml.safe_load(text)]


def gathered(names: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Run]]:
    """The runs of each experiment, from the first folder that has a subfolder of that name."""
    found = {}
    for name in names:
        if places := [folder / name for folder in folders if (folder / name).is_dir()]:
            found[name] = find_runs(places[:1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and the rules; the exit status is 1 where runs cannot be read."""
    options = parse(arguments)
    try:
        known = read()
        names = list(dict.fromkeys(name for claim in known for name in claim.experiments))
        runs = gathered(names, [*options.folders, Path("outputs/published")])
        table = claims.claims_table(known, runs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if options.format == "markdown":
        table = replace(table, notes=[*table.notes, " ".join(claims.RULES.split())])
    print(tables.FORMATS[options.format](table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
