"""Where the program stands, in a checkout or as an installed wheel, and how its commands are typed there."""

from __future__ import annotations

import shlex
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "conf").is_dir()  # a wheel has conf/ inside the package, a checkout beside it
CONF = (PACKAGE if INSTALLED else PACKAGE.parent) / "conf"
SCRIPTS = {"train": "train.py", "data": "scripts/get_data.py"}


def command_line(name: str, *arguments: str) -> str:
    """Return a command as typed: `python train.py seed=1` in a checkout, `cvae train seed=1` elsewhere."""
    script = SCRIPTS.get(name, f"scripts/{name}.py")
    return shlex.join([*(["cvae", name] if INSTALLED else ["python", script]), *arguments])
