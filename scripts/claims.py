"""The paper's claims and ours, each with the numbers of the runs that exist, their effect and a verdict.

The runs of an experiment come from the first of the given folders, and of outputs/published, that has a
subfolder of its name; an experiment without runs is listed with the command that makes them. The claims are
those of cvae/report/claims.yaml; verdicts follow from the rules below.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.errors import UserError
from cvae.report.claims import claims_table, experiment_runs, read_claims
from cvae.report.formats import FORMATS
from cvae.report.verdicts import RULES

EXAMPLES = """examples:
  python scripts/claims.py                       from the published runs
  python scripts/claims.py outputs               from your own, where there are any
  python scripts/claims.py --brief               one line a claim: the check that fared worst
  python scripts/claims.py --short               the same, for the claims that the README shows
  python scripts/claims.py outputs --train       first trains what has no runs yet: hours to days"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{EXAMPLES}\n\nrules:\n{RULES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders whose subfolders are experiments")
    parser.add_argument("--brief", action="store_true", help="only the check of each claim that fared worst")
    parser.add_argument("--short", action="store_true", help="--brief for the README's claims, without notes")
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--train", action="store_true", help="first train the experiments that have no runs")
    return parser.parse_args(arguments)


def train(names: Sequence[str]) -> None:
    """Train experiments in outputs/, one after another; interrupted ones go on, finished ones end at once."""
    for name in names:
        command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), f"experiment={name}"]
        if code := subprocess.run(command).returncode:
            raise UserError(f"python train.py experiment={name} ended with exit status {code}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the rules; the exit status is 1 where runs cannot be read."""
    options = parse(arguments)
    try:
        claims = read_claims()
        if options.short:
            claims = [replace(claim, claim=claim.short) for claim in claims if claim.short]
        names = list(dict.fromkeys(name for claim in claims for name in claim.experiments))
        folders = [*options.folders, Path("outputs/published")]
        runs = experiment_runs(names, folders)
        if options.train:
            train([name for name in names if not runs.get(name) or (Path("outputs") / name).is_dir()])
            runs = experiment_runs(names, [Path("outputs"), *folders])
        table = claims_table(claims, runs, options.brief or options.short)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if options.short:
        table = replace(table, notes=[])
    elif options.format == "markdown":
        table = replace(table, notes=[*table.notes, " ".join(RULES.split())])
    print(FORMATS[options.format](table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
