"""What `python train.py --help` says: the groups with their choices, and how to start."""

from __future__ import annotations

import textwrap
from pathlib import Path

HELP = """\
Train and compare text VAEs. A run is composed from one choice per group:

{groups}

Examples:
  python train.py                                  the paper's synthetic VAE
  python train.py schedule=cyclical task=ptb       the paper's language model on Penn Treebank
  python train.py -m schedule=constant,monotonic,cyclical seed=0,1,2

Any key can be set: schedule.cycles=8 train.batch_size=64. `--cfg job --resolve` shows them all with their
values, each is explained in conf/; `--info defaults` shows which file won; `--hydra-help` lists the flags.
A run goes to outputs/<name>/<its overrides>; the same command continues it where it was interrupted.
"""
INDENT = {"initial_indent": " " * 16, "subsequent_indent": " " * 16, "break_on_hyphens": False}
GROUPS = {
    "schedule": "β, the weight of the KL term",
    "lr": "the learning rate, independent of β",
    "task": "what is trained and measured",
    "dataset": "the corpus",
    "model": "the network and its sizes",
    "remedy": "further cures, a list: remedy=[a,b]",
    "experiment": "a committed table or figure",
}


def help_text(conf: Path) -> str:
    """What the groups are, with their choices, and how to start. Hydra's own takes two seconds."""
    lines = []
    for group, meaning in GROUPS.items():
        files = sorted((conf / group).rglob("*.yaml"))
        choices = ", ".join(file.relative_to(conf / group).with_suffix("").as_posix() for file in files)
        lines += [f"  {group:<11} {meaning}", textwrap.fill(choices, 100, **INDENT)]
    return HELP.format(groups="\n".join(lines))
