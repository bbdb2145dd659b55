"""Write a run for others: model.safetensors, run.json, results.json, the vocabulary and a model card.

`cvae.load`, init_from and the commands that take a run take the folder, too, and the name of a repository of
the Hugging Face hub that holds it. There is no path of this machine in it; the model card is README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cvae.cli.arguments import Arguments, entry_point, parser
from cvae.runs.folder import RunFolder

EXAMPLES = """\
  %(prog)s outputs/ptb/default shared/ptb-cyclical
  %(prog)s outputs/ptb/default shared/ptb-last --checkpoint last"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("export", __doc__, EXAMPLES)
    head.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    head.add_argument("target", type=Path, metavar="FOLDER", help="a new folder")
    head.add_argument("--checkpoint", choices=("best", "last"), help="(default: the one the run reports)")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> None:
    """Write the folder and name its files."""
    options = parse(arguments)
    from cvae.training.export import export

    files = export(RunFolder(options.folder), options.target, options.checkpoint)
    print(f"{options.target}: {', '.join(file.name for file in files)}")
