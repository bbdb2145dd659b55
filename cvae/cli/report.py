"""Write a self-contained HTML page about a sweep: tables, figures, sentences, commands, and what failed."""

from __future__ import annotations

import argparse
from pathlib import Path

from cvae.cli.arguments import Arguments, entry_point, parser
from cvae.report.page import report_page

EXAMPLES = """\
  %(prog)s outputs/toy                      outputs/toy/report.html
  %(prog)s outputs/published/toy --to toy.html"""


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("report", __doc__, EXAMPLES)
    head.add_argument("folder", type=Path, help="a folder with runs in or below it")
    head.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the folder")
    options = head.parse_args(arguments)
    options.to = options.to or options.folder / "report.html"
    return options


@entry_point
def main(arguments: Arguments = None) -> None:
    """Write the page and print its path."""
    options = parse(arguments)
    page = report_page(options.folder)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_text(page, encoding="utf-8")
    print(options.to)
