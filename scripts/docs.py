"""Rewrite the generated blocks of README.md and docs/. A block stands between two comments:

    <!-- python scripts/table.py outputs/published/toy -->
    (what the command prints)
    <!-- end -->

Commands are those of table.py, claims.py, estimate.py and toy_grid.py, and `bench.py` and `kill.py` with
`--read FILE`. With --check nothing is written; blocks that differ from what their commands print are shown,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.cli import claims, table
from cvae.cli.arguments import Arguments, entry_point, parser

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where the other scripts are

import bench
import estimate
import kill
import toy_grid

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"<!-- python scripts/(?P<script>table|claims|bench|kill|estimate|toy_grid)\.py(?P<rest>[^\n]*?) -->\n"
    r".*?<!-- end -->",
    re.S,
)
MAINS = {
    "bench": bench.main,
    "claims": claims.main,
    "estimate": estimate.main,
    "kill": kill.main,
    "table": table.main,
    "toy_grid": toy_grid.main,
}


def printed(name: str, arguments: Sequence[str]) -> str:
    """Return what a script prints. Raises ValueError with its error where it fails."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = MAINS[name](list(arguments))
    if status:
        raise ValueError(f"python scripts/{name}.py {shlex.join(arguments)}: {err.getvalue().strip()}")
    return out.getvalue().strip("\n")


def rewritten(text: str) -> str:
    """Return a page with every block generated anew. Raises ValueError where a command fails."""

    def block(match: re.Match[str]) -> str:
        head = match[0].partition("\n")[0]
        return f"{head}\n{printed(match['script'], shlex.split(match['rest']))}\n<!-- end -->"

    return BLOCK.sub(block, text)


def parse(arguments: Arguments = None) -> argparse.Namespace:
    """Return the parsed command line."""
    head = parser("docs", __doc__)
    head.add_argument("--check", action="store_true", help="write nothing; fail where a block is out of date")
    return head.parse_args(arguments)


@entry_point
def main(arguments: Arguments = None) -> int:
    """Rewrite or check all pages; the exit status is 1 if a block is out of date or a command fails."""
    options = parse(arguments)
    stale = False
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        try:
            new = rewritten(text)
        except ValueError as error:
            print(f"{page.relative_to(ROOT)}: {error}", file=sys.stderr)
            return 1
        if new == text:
            continue
        stale = True
        if options.check:
            name = str(page.relative_to(ROOT))
            lines = difflib.unified_diff(text.splitlines(), new.splitlines(), name, name, lineterm="", n=0)
            print(*lines, sep="\n", file=sys.stderr)
        else:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))
    if stale and options.check:
        print("out of date: python scripts/docs.py rewrites the blocks", file=sys.stderr)
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
