"""Writes a self-contained HTML page about a sweep: tables, figures, sentences, commands, and what failed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.errors import UserError
from cvae.report.page import report_page

EXAMPLES = """examples:
  python scripts/report.py outputs/toy                      outputs/toy/report.html
  python scripts/report.py outputs/published/toy --to toy.html"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder with runs in or below it")
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the folder")
    options = parser.parse_args(arguments)
    options.to = options.to or options.folder / "report.html"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; the exit status is 1 where it cannot be written."""
    options = parse(arguments)
    try:
        page = report_page(options.folder)
        options.to.parent.mkdir(parents=True, exist_ok=True)
        options.to.write_text(page, encoding="utf-8")
        print(options.to)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
