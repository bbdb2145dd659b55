"""Published tables of each kind, byte for byte; `docs.py --check` pins those that the pages quote.

A file in golden/ holds a command below `$` and what it prints. Where runs are published anew on purpose,
`PYTHONPATH=. python tests/report/test_golden_tables.py` rewrites the files.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import pytest

from tests.helpers import ROOT, script

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def printed(command: str) -> str:
    """Return what a command prints on standard output. Raises AssertionError where it fails."""
    name, *arguments = shlex.split(command)
    out = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out):
        assert script(name).main(arguments) == 0
    return out.getvalue()


def test_tables_of_every_kind_are_pinned():
    assert len(GOLDEN) == 15


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_published_table_is_what_it_was(path, capsys):
    command, text = path.read_text(encoding="utf-8").split("\n", 1)
    assert printed(command.removeprefix("$ ")) == text


if __name__ == "__main__":
    for path in GOLDEN:
        command = path.read_text(encoding="utf-8").split("\n", 1)[0]
        path.write_text(f"{command}\n{printed(command.removeprefix('$ '))}", encoding="utf-8")
