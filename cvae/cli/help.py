"""What `cvae train --help` says: the groups with their choices, and how to start."""

from __future__ import annotations

import textwrap

from cvae.cli.arguments import typed
from cvae.program import CONF

HELP = """\
Train and compare text VAEs. A run is composed from one choice per group:

{groups}

Examples:
{examples}

Any key can be set: schedule.cycles=8 train.batch_size=64. Each is explained in conf/. A run goes to
outputs/<name>/<its overrides>; the same command continues it where it was interrupted.

Flags:
  -m, --multirun     run a job for each combination of values: seed=0,1,2
  --cfg job          print the configuration instead of running; --resolve fills in references
  --info defaults    print which file set what instead of running
  --config-dir DIR   also take groups and experiments from DIR
  --hydra-help       what Hydra says of its flags
"""
EXAMPLES = {
    "": "the paper's synthetic VAE",
    " schedule=cyclical task=ptb": "the paper's language model on Penn Treebank",
    " -m schedule=constant,monotonic,cyclical seed=0,1,2": "",
}
GROUPS = {
    "schedule": "β, the weight of the KL term",
    "lr": "the learning rate, independent of β",
    "task": "what is trained and measured",
    "dataset": "the corpus",
    "model": "the network and its sizes",
    "remedy": "further cures of KL vanishing, a list: remedy=[a,b]",
    "experiment": "a committed table or figure",
}


def help_text() -> str:
    """Return the help, without Hydra, whose own takes two seconds."""
    lines = []
    for group, meaning in GROUPS.items():
        files = sorted((CONF / group).rglob("*.yaml"))
        choices = ", ".join(file.relative_to(CONF / group).with_suffix("").as_posix() for file in files)
        wrapped = textwrap.wrap(choices, 84, break_on_hyphens=False)
        lines += [f"  {group:<11} {meaning}", *(f"{'':16}{line}" for line in wrapped)]
    examples = [f"  {typed('train') + words:<48} {meaning}".rstrip() for words, meaning in EXAMPLES.items()]
    return HELP.format(groups="\n".join(lines), examples="\n".join(examples))
