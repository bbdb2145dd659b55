"""The paper's claims and ours, each with the numbers of the runs that exist, their effect and a verdict.

A claim's experiments are looked for in the given folders, then in outputs/published; the first that has one
counts. What has no runs yet is listed with the command that makes them. claims.yaml, beside this file, holds
the claims; the verdicts follow from the rules that --help states.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.errors import RunsError, UserError
from cvae.report.tables import FORMATS, Cell, Table, around, differing_text, final
from cvae.runs.reader import Run, changes, find_runs, refuse_mixture

EXAMPLES = """examples:
  python scripts/claims.py                       of the published runs
  python scripts/claims.py outputs               of your own, where you have them
  python scripts/claims.py --brief               a line for each claim, with the check that fared worst
  python scripts/claims.py --short               the same of the claims that the README shows
  python scripts/claims.py outputs --train       first trains what has no runs yet: hours to days"""
RULES = """\
> and <: the difference of two means, measured in the larger of two pooled standard deviations over seeds
and the margin, where one is stated: from 1 on it holds, from 1/2 on partly. Of one seed each and without
a margin, only the direction is known, and it holds partly at best. ≯: the opposite of >. ≈: the means
differ by no more than the margin; partly by no more than two. Below a number: the mean is, and what lies
a standard deviation above it; partly the mean alone. In settings: so in every one that has both, and in 5
at least; partly in more than half; with a margin, a setting where it holds partly does not count. A claim
does not hold here if a main check does not; it holds if every check does, with at least 3 seeds a side;
else it holds partly. d is the difference in pooled standard deviations."""
SYMBOLS = {"more": ">", "less": "<", "not more": "≯", "same": "≈", "below": "<"}
MARKS = {1.0: "✓", 0.5: "~", 0.0: "✗", None: "missing"}
WORDS = {1.0: "holds", 0.5: "holds partly", 0.0: "does not hold here", None: "missing"}
WINDOW = 0.025  # of training, over which train/* are averaged: 1,000 of the toy's 40,000 updates
SETTINGS = 5  # that agree by chance once in 2^5
SEEDS = 3  # a side, without which no claim holds

Side = Mapping[str, Any]


class Outcome(NamedTuple):
    """What a check found, its effect, its score (1 holds, 1/2 partly, 0 not, None: no runs) and its seeds."""

    found: str
    effect: str
    score: float | None
    seeds: int = 0


@dataclass(frozen=True)
class Check:
    """A measure of some runs beside a number, or that of other runs, or their own at another time.

    of, than: values of settings that choose runs; `apart`, what `runs.changes` says of them; and `at`, the
    share of training at which the measure is read, without which results.json has it. margin: in the unit of
    the measure, or with `relative` as a share of `than`. main: whether the claim falls with this check.
    """

    measure: str
    of: Side
    rule: str
    than: Side | float
    margin: float | None = None
    relative: bool = False
    each: bool = False
    main: bool = False

    def judge(self, runs: Sequence[Run]) -> Outcome:
        """The outcome on these runs. Raises RunsError where they cannot be averaged or compared."""
        return self._judge_each(runs) if self.each else self._judge(runs)

    def _judge(self, runs: Sequence[Run]) -> Outcome:
        left = chosen(runs, self.of, self.measure)
        if not isinstance(self.than, Mapping):
            score = below(left, self.than) if left.values else None
            found = f"{shown(self.of, left)} {SYMBOLS[self.rule]} {self.than:g}"
            return Outcome(found, "", score, len(left.values))
        right = chosen(runs, self.than, self.measure)
        if differing := differing_text([*members(runs, self.of), *members(runs, self.than)]):
            sides = f"{shown(self.of)} and {shown(self.than)}"
            raise RunsError(
                f"{self.measure} of {sides} cannot be compared: they differ in {', '.join(differing)}"
            )
        found = f"{shown(self.of, left)} {SYMBOLS[self.rule]} {shown(self.than, right)}"
        if not (left.values and right.values and math.isfinite(left.mean - right.mean)):
            return Outcome(found, "", None)
        margin = self.margin and self.margin * (abs(right.mean) if self.relative else 1)
        spread, difference = pooled(left, right), left.mean - right.mean
        effect = f"{difference:+.2f}" + (f", d {difference / spread:+.1f}" if spread else "")
        seeds = min(len(left.values), len(right.values))
        return Outcome(found, effect, compare(self.rule, difference, spread, margin), seeds)

    def _judge_each(self, runs: Sequence[Run]) -> Outcome:
        settings: dict[str, list[Run]] = {}
        for run, apart in zip(runs, changes(runs) if runs else [], strict=True):
            settings.setdefault(apart, []).append(run)
        one = replace(self, each=False)
        outcomes = [found for part in settings.values() if (found := one._judge(part)).score is not None]
        scores, seeds = (
            [found.score for found in outcomes],
            min((found.seeds for found in outcomes), default=0),
        )
        least = 0.5 if self.margin is None else 1.0  # a margin is kept or it is not
        right = sum(score >= least for score in scores)
        found = (
            f"{shown(self.of)} {SYMBOLS[self.rule]} {shown(self.than)} in {right} of {len(scores)} settings"
        )
        if not scores:
            return Outcome(found, "", None)
        every = right == len(scores) >= SETTINGS
        return Outcome(found, "", 1.0 if every else 0.5 if 2 * right > len(scores) else 0.0, seeds)


@dataclass(frozen=True)
class Claim:
    """A sentence, the experiments whose runs it is about, and what must be so for it to hold.

    short: the sentence that stands for it in the README; empty where it is not shown there.
    """

    claim: str
    experiments: Sequence[str]
    checks: Sequence[Check]
    short: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Claim:
        """From plain data. Raises UserError where no check is marked as main."""
        checks = [Check(**check) for check in content["checks"]]
        if not any(check.main for check in checks):
            raise UserError(f"claims.yaml: no check of the claim {content['claim']!r} has main: true")
        return cls(content["claim"], content["experiments"], checks, content.get("short", ""))


def members(runs: Sequence[Run], side: Side) -> list[Run]:
    """The runs that have these settings. Raises RunsError where they differ in more than their seed."""
    wanted = {key: value for key, value in side.items() if key != "at"}
    known = [
        run.setting | {"apart": apart} for run, apart in zip(runs, changes(runs) if runs else [], strict=True)
    ]
    own = [run for run, has in zip(runs, known, strict=True) if wanted.items() <= has.items()]
    if own:
        refuse_mixture(own)
    return own


def chosen(runs: Sequence[Run], side: Side, measure: str) -> Cell:
    """A measure of the runs that have these settings, at a share of training or as results.json has it."""
    own = members(runs, side)
    if "at" not in side:
        return final(own, measure)
    cells = [
        around([run], measure, round(side["at"] * run.total), max(1, round(WINDOW * run.total)))
        for run in own
        if run.total
    ]
    return Cell(tuple(value for cell in cells for value in cell.values))


def pooled(left: Cell, right: Cell) -> float | None:
    """The pooled sample standard deviation, None of one seed each."""
    freedom = len(left.values) + len(right.values) - 2
    squares = sum((len(cell.values) - 1) * cell.std * cell.std for cell in (left, right))
    return math.sqrt(squares / freedom) if freedom else None


def compare(rule: str, difference: float, spread: float | None, margin: float | None) -> float:
    """1 where the rule holds, 1/2 partly, 0 not: see RULES."""
    if rule == "same":
        return 1.0 if abs(difference) <= margin else 0.5 if abs(difference) <= 2 * margin else 0.0
    gain = -difference if rule == "less" else difference
    if spread is None and margin is None:
        return 0.5 if (gain > 0) == (rule != "not more") else 0.0
    if rule == "not more":
        return 1.0 - compare("more", difference, spread, margin)
    unit = max(2 * (spread or 0.0), margin or 0.0)
    if gain <= 0 or unit == 0:
        return float(gain > 0)
    return 1.0 if gain >= unit else 0.5 if gain >= unit / 2 else 0.0


def below(cell: Cell, bound: float) -> float:
    """1 where the mean and what lies a standard deviation above it are below, 1/2 where the mean is."""
    return 1.0 if cell.mean + cell.std < bound else 0.5 if cell.mean < bound else 0.0


def shown(side: Side, cell: Cell | None = None) -> str:
    """A side in words: the values of its settings, the time, its mean ± std and the number of seeds."""
    names = [
        f"{value}" if key in ("apart", "schedule.name") else f"{key.removesuffix('.name')} {value}".lower()
        for key, value in side.items()
        if key != "at"
    ]
    time = [f"at {100 * side['at']:g} %"] if "at" in side else []
    numbers = [f"{cell} (n {len(cell.values)})" if cell.values else "(not measured)"] if cell else []
    return " ".join([", ".join(names), *time, *numbers])


def verdict(outcomes: Sequence[Outcome], main: Sequence[bool]) -> str:
    """In words, of all checks of a claim and which of them are main ones, in whatever order: see RULES."""
    measured = [outcome for outcome in outcomes if outcome.score is not None]
    if not measured:
        return WORDS[None]
    seeds = min(outcome.seeds for outcome in measured)
    if any(outcome.score == 0 for outcome, decides in zip(outcomes, main, strict=True) if decides):
        word = WORDS[0.0]
    else:
        every = all(outcome.score == 1 for outcome in outcomes) and seeds >= SEEDS
        word = WORDS[1.0 if every else 0.5]
    remarks = ["one seed" if seeds == 1 else f"{seeds} seeds"] if seeds < SEEDS else []
    remarks += [f"{len(measured)} of {len(outcomes)} measured"] if len(measured) < len(outcomes) else []
    return f"{word} ({', '.join(remarks)})" if remarks else word


def claims_table(claims: Sequence[Claim], runs: Mapping[str, Sequence[Run]], brief: bool = False) -> Table:
    """A row for each check, the claim and its verdict before the first; `runs` by experiment.

    Where `brief`, of each claim only the check that fared worst.
    """
    body = []
    for claim in claims:
        own = [run for name in claim.experiments for run in runs.get(name, ())]
        outcomes = [check.judge(own) for check in claim.checks]
        judged = list(zip(claim.checks, outcomes, strict=True))
        if brief:
            judged = [min(judged, key=lambda pair: 2 if pair[1].score is None else pair[1].score)]
        first = [claim.claim, verdict(outcomes, [check.main for check in claim.checks])]
        for check, outcome in judged:
            measure = f"{check.measure} (main)" if check.main else check.measure
            body.append([*first, measure, outcome.found, outcome.effect, MARKS[outcome.score]])
            first = ["", ""]
    wanted = dict.fromkeys(name for claim in claims for name in claim.experiments)
    missing = [f"no runs: python train.py experiment={name}" for name in wanted if not runs.get(name)]
    return Table(["claim", "verdict", "measure", "found", "effect", ""], body, missing)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{EXAMPLES}\n\nrules:\n{RULES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders whose subfolders are experiments")
    parser.add_argument("--brief", action="store_true", help="of each claim only the check that fared worst")
    parser.add_argument("--short", action="store_true", help="--brief of what the README shows, no rules")
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--train", action="store_true", help="train the experiments that have no runs, first")
    return parser.parse_args(arguments)


def read() -> list[Claim]:
    """The claims of claims.yaml."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return [Claim.of(content) for content in yaml.safe_load(text)]


def gathered(names: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Run]]:
    """The runs of each experiment, from the first folder that has a subfolder of that name."""
    found = {}
    for name in names:
        if places := [folder / name for folder in folders if (folder / name).is_dir()]:
            found[name] = find_runs(places[:1])
    return found


def train(names: Sequence[str]) -> None:
    """One experiment after another, in outputs/; what was interrupted goes on, what is done ends at once."""
    for name in names:
        command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), f"experiment={name}"]
        if code := subprocess.run(command).returncode:
            raise UserError(f"python train.py experiment={name} ended with exit status {code}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and the rules; the exit status is 1 where runs cannot be read."""
    options = parse(arguments)
    try:
        known = read()
        if options.short:
            known = [replace(claim, claim=claim.short) for claim in known if claim.short]
        names = list(dict.fromkeys(name for claim in known for name in claim.experiments))
        folders = [*options.folders, Path("outputs/published")]
        runs = gathered(names, folders)
        if options.train:
            train([name for name in names if not runs.get(name) or (Path("outputs") / name).is_dir()])
            runs = gathered(names, [Path("outputs"), *folders])
        table = claims_table(known, runs, options.brief or options.short)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if options.short:
        table = replace(table, notes=[])
    elif options.format == "markdown":
        table = replace(table, notes=[*table.notes, " ".join(RULES.split())])
    print(FORMATS[options.format](table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
