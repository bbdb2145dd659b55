"""Print the paper's claims and ours: the numbers of the runs that exist, their effect and a verdict.

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

from cvae.cli.arguments import Arguments, entry_point, parser
from cvae.errors import UserError
from cvae.program import INSTALLED, PACKAGE, command_line
from cvae.report.claims import claims_table, experiment_runs, read_claims
from cvae.report.formats import FORMATS
from cvae.report.verdicts import RULES

EXAMPLES = """\
  %(prog)s                       from the published runs
  %(prog)s outputs               from your own, where there are any
  %(prog)s --brief               one line a claim: the check that fared worst
  %(prog)s --short               the same, for the claims that the README shows
  %(prog)s outputs --train       first trains what has no runs yet: hours to days

rules:
"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("claims", __doc__, EXAMPLES + RULES.replace("%", "%%"))
    head.add_argument("folders", nargs="*", type=Path, help="folders whose subfolders are experiments")
    head.add_argument("--brief", action="store_true", help="only the check of each claim that fared worst")
    head.add_argument("--short", action="store_true", help="--brief for the README's claims, without notes")
    head.add_argument("--format", choices=FORMATS, default="markdown")
    head.add_argument("--train", action="store_true", help="first train the experiments that have no runs")
    options = head.parse_args(arguments)
    for folder in options.folders:
        if not folder.is_dir():
            head.error(f"{folder}: no such folder")
    return options


def train(names: Sequence[str]) -> None:
    """Train experiments in outputs/, one after another; interrupted ones go on, finished ones end at once."""
    start = ["-m", "cvae", "train"] if INSTALLED else [str(PACKAGE.parent / "train.py")]
    for name in names:
        if code := subprocess.run([sys.executable, *start, f"experiment={name}"]).returncode:
            raise UserError(f"{command_line('train', f'experiment={name}')} ended with exit status {code}")


@entry_point
def main(arguments: Arguments = None) -> None:
    """Print the table and the rules."""
    options = parse(arguments)
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
    if options.short:
        table = replace(table, notes=[])
    elif options.format == "markdown":
        table = replace(table, notes=[*table.notes, " ".join(RULES.split())])
    print(FORMATS[options.format](table))
