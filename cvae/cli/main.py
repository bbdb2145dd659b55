"""The program `cvae`, also `python -m cvae`: hands over to one of its commands."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable

from cvae import __version__
from cvae.cli.arguments import Arguments, entry_point

COMMANDS = {
    "train": "train a model, continue a run, or sweep over settings",
    "evaluate": "measure a run's checkpoint again, or another text with it",
    "sample": "print sentences or answers of a run's model",
    "encode": "write the z of each sentence of a file",
    "decode": "print a sentence for each z of a file",
    "export": "write a run for others: safetensors, JSON, a model card",
    "table": "print a table of runs: a row per setting, seeds as mean ± std",
    "figures": "draw the paper's figures, curves, and an animation",
    "claims": "print the paper's claims and ours, each with its numbers and a verdict",
    "report": "write one HTML page about a sweep",
    "status": "count the runs of a sweep that are done, running, failed or missing",
    "data": "download the public corpora",
}
HELP = "\n".join(
    [
        "Train and compare text VAEs: cvae COMMAND ...",
        "",
        *(f"  {name:<9} {about}" for name, about in COMMANDS.items()),
        "",
        "cvae COMMAND --help explains a command; cvae --version prints the version.",
    ]
)


@entry_point
def main(arguments: Arguments = None) -> int:
    """Run a command and return its exit status; 2 where there is no such command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return entry(name)(arguments[1:])
    if name in ("-h", "--help", "--version"):
        print(__version__ if name == "--version" else HELP)
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    print(f"cvae: no command {name!r}{hint}" if name else "cvae: a command is missing", file=sys.stderr)
    print(f"\n{HELP}", file=sys.stderr)
    return 2


def entry(name: str) -> Callable[[Arguments], int]:
    """Return the entry point of a command, importing nothing of the others."""
    match name:
        case "train":
            from cvae.cli.train import main
        case "evaluate":
            from cvae.cli.evaluate import main
        case "sample":
            from cvae.cli.sample import main
        case "encode":
            from cvae.cli.encode import main
        case "decode":
            from cvae.cli.decode import main
        case "export":
            from cvae.cli.export import main
        case "table":
            from cvae.cli.table import main
        case "figures":
            from cvae.cli.figures import main
        case "claims":
            from cvae.cli.claims import main
        case "report":
            from cvae.cli.report import main
        case "status":
            from cvae.cli.status import main
        case _:
            from cvae.cli.data import main
    return main
