"""Imports run downwards: the rooms of docs/architecture.md, in their order."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

GROUND = {"download", "errors", "io", "program", "ranges", "schedules"}
# what each room may import beside the ground and itself
BELOW = {
    "config": set(),
    "runs": {"config"},
    "report": {"config", "runs"},
    "data": {"config"},
    "models": {"config", "data"},
    "evaluation": {"config", "data", "models"},
    "tasks": {"config", "data", "models", "evaluation"},
}
BELOW["training"] = {*BELOW}
BELOW["library"] = {*BELOW}
BELOW["cli"] = {*BELOW}
BELOW["__init__"] = {"library"}  # once something of it is used
BELOW["__main__"] = {"cli"}


def imported(path: Path) -> Iterator[str]:
    """Yield the rooms and ground modules of cvae that a file imports, for types only too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cvae":
            inside = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            yield from (name for name in inside if name != "__version__")
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cvae."))


def crossing() -> set[tuple[str, str]]:
    """Return each (file, room) of an import that does not run downwards."""
    found = set()
    for path in sorted((ROOT / "cvae").rglob("*.py")):
        name = path.relative_to(ROOT / "cvae").as_posix()
        room = name.split("/")[0].removesuffix(".py")
        allowed = GROUND | ({room} | BELOW[room] if room in BELOW else set())
        found |= {(name, other) for other in imported(path) if other not in allowed}
    return found


def test_imports_run_downwards():
    assert not crossing()


def test_every_module_is_in_a_room_or_on_the_ground():
    names = {path.stem if path.is_file() else path.name for path in (ROOT / "cvae").iterdir()}
    assert names - {"__pycache__", "py"} == GROUND | BELOW.keys()  # py.typed


@pytest.mark.parametrize("line", ["from cvae.cli import main", "import cvae.cli", "from cvae import cli"])
def test_every_way_to_import_is_seen(line, tmp_path):
    (tmp_path / "module.py").write_text(line + "\n")
    assert list(imported(tmp_path / "module.py")) == ["cli"]


def test_the_page_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    page = re.sub("```.*?```", "", page, flags=re.DOTALL)
    named = {word for quoted in re.findall("`([^`]+)`", page) for word in re.findall(r"\w+", quoted)}
    named |= set(re.findall(r"\*\*(\w+)\*\*", page))  # the rooms, and modules that stand alone
    modules = {path for path in (ROOT / "cvae").rglob("*.py") if not path.stem.startswith("__")}
    assert len(modules) > 100
    assert not {str(path.relative_to(ROOT)) for path in modules if path.stem not in named}


def test_the_core_reading_path_has_at_most_3500_lines():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    command = next(block for block in page.split("```") if "wc -l" in block)
    counted = subprocess.run(["bash", "-c", f"set -e -o pipefail; {command}"], cwd=ROOT, capture_output=True)
    assert counted.returncode == 0 and 2000 < int(counted.stdout) <= 3500
