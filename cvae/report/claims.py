"""The claims of claims.yaml, the paper's and ours: checks on runs, and the table of their outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cvae.errors import RunsError, UserError
from cvae.program import command_line
from cvae.report.formats import Cell, Table
from cvae.report.tables import differing_text, result_cell, scalar_cell
from cvae.report.verdicts import MARKS, SYMBOLS, Outcome, across_settings, below, compare, pooled_std, verdict
from cvae.runs.reader import Run, changes, find_runs, refuse_mixture

WINDOW = 0.025  # share of training over which train/* is averaged: 1,000 of the toy's 40,000 steps
WALL_CLOCK = "time is wall-clock, runs were not alone on the machine"

Side = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """A measure of some runs compared with a number, with other runs, or with itself at another time.

    Attributes:
        of, than: settings that select the runs of a side. `apart` stands for what `reader.changes` says of a
            run; `at` is the share of training at which the measure is read, by default from results.json.
        margin: in units of the measure or, where `relative`, as a share of the mean of `than`.
        each: compare the sides within each of the settings that `reader.changes` tells apart.
        main: the claim fails with this check.
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
        """Return the outcome on these runs. Raises RunsError where they cannot be averaged or compared."""
        if self.each:
            return self._judge_settings(runs)
        left_runs = select(runs, self.of)
        left = read_side(left_runs, self.of, self.measure)
        if not isinstance(self.than, Mapping):
            found = f"{described(self.of, left)} {SYMBOLS[self.rule]} {self.than:g}"
            return Outcome(found, "", below(left, self.than) if left.values else None, len(left.values))
        right_runs = select(runs, self.than)
        right = read_side(right_runs, self.than, self.measure)
        if differing := differing_text([*left_runs, *right_runs]):
            sides = f"{self.measure} of {described(self.of)} and {described(self.than)}"
            raise RunsError(f"{sides} cannot be compared: they differ in {', '.join(differing)}")
        found = f"{described(self.of, left)} {SYMBOLS[self.rule]} {described(self.than, right)}"
        if not (left.values and right.values and math.isfinite(left.mean - right.mean)):
            return Outcome(found, "", None)
        margin = self.margin and self.margin * (abs(right.mean) if self.relative else 1)
        spread, difference = pooled_std(left, right), left.mean - right.mean
        effect = f"{difference:+.2f}" + (f", d {difference / spread:+.1f}" if spread else "")
        seeds = min(len(left.values), len(right.values))
        return Outcome(found, effect, compare(self.rule, difference, spread, margin), seeds)

    def _judge_settings(self, runs: Sequence[Run]) -> Outcome:
        settings: dict[str, list[Run]] = {}
        for run, change in with_changes(runs):
            settings.setdefault(change, []).append(run)
        within = replace(self, each=False)
        outcomes = [o for part in settings.values() if (o := within.judge(part)).score is not None]
        holding, score = across_settings([o.score for o in outcomes if o.score is not None], self.margin)
        right = described(self.than) if isinstance(self.than, Mapping) else f"{self.than:g}"
        sides = f"{described(self.of)} {SYMBOLS[self.rule]} {right}"
        seeds = min((outcome.seeds for outcome in outcomes), default=0)
        return Outcome(f"{sides} in {holding} of {len(outcomes)} settings", "", score, seeds)


@dataclass(frozen=True)
class Claim:
    """A sentence, the experiments whose runs it is about, and the checks that decide it.

    `short` stands for the sentence in the README; a claim without one is not shown there.
    """

    claim: str
    experiments: Sequence[str]
    checks: Sequence[Check]
    short: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Claim:
        """Return the claim that plain data describe. Raises UserError where no check is marked as main."""
        checks = [Check(**check) for check in content["checks"]]
        if not any(check.main for check in checks):
            raise UserError(f"claims.yaml: no check of the claim {content['claim']!r} has main: true")
        return cls(content["claim"], content["experiments"], checks, content.get("short", ""))


def read_claims() -> list[Claim]:
    """Return the claims of claims.yaml."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return [Claim.of(content) for content in yaml.safe_load(text)]


def experiment_runs(names: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Run]]:
    """Return the runs of each experiment, from the first folder that has a subfolder of that name."""
    found = {}
    for name in names:
        if places := [folder / name for folder in folders if (folder / name).is_dir()]:
            found[name] = find_runs(places[:1])
    return found


def with_changes(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Return each run with what sets it apart from the plainest one."""
    return list(zip(runs, changes(runs), strict=True)) if runs else []


def select(runs: Sequence[Run], side: Side) -> list[Run]:
    """Return the runs with the settings of a side. Raises RunsError for more than other seeds."""
    settings = {key: value for key, value in side.items() if key != "at"}
    selected = [
        run
        for run, change in with_changes(runs)
        if settings.items() <= (run.setting | {"apart": change}).items()
    ]
    if selected:
        refuse_mixture(selected)
    return selected


def read_side(runs: Sequence[Run], side: Side, measure: str) -> Cell:
    """Return a measure of the runs of a side, at its share of training or from results.json."""
    if "at" not in side:
        return result_cell(runs, measure)
    cells = [
        scalar_cell([run], measure, round(side["at"] * run.total), max(1, round(WINDOW * run.total)))
        for run in runs
        if run.total
    ]
    return Cell(tuple(value for cell in cells for value in cell.values))


def described(side: Side, cell: Cell | None = None) -> str:
    """Return a side in words: its settings, its time, and its mean ± std with the number of seeds."""
    names = [
        f"{value}" if key in ("apart", "schedule.name") else f"{key.removesuffix('.name')} {value}".lower()
        for key, value in side.items()
        if key != "at"
    ]
    time = [f"at {100 * side['at']:g} %"] if "at" in side else []
    numbers = [f"{cell} (n {len(cell.values)})" if cell.values else "(not measured)"] if cell else []
    return " ".join([", ".join(names), *time, *numbers])


def claims_table(claims: Sequence[Claim], runs: Mapping[str, Sequence[Run]], brief: bool = False) -> Table:
    """Return a row for each check, or where `brief` for the check of each claim that fared worst.

    The first row of a claim holds its sentence and verdict. `runs` are by experiment.
    """
    body = []
    for claim in claims:
        claim_runs = [run for name in claim.experiments for run in runs.get(name, ())]
        outcomes = [check.judge(claim_runs) for check in claim.checks]
        judged = list(zip(claim.checks, outcomes, strict=True))
        if brief:
            judged = [min(judged, key=lambda pair: 2 if pair[1].score is None else pair[1].score)]
        first = [claim.claim, verdict(outcomes, [check.main for check in claim.checks])]
        for check, outcome in judged:
            measure = f"{check.measure} (main)" if check.main else check.measure
            body.append([*first, measure, outcome.found, outcome.effect, MARKS[outcome.score]])
            first = ["", ""]
    experiments = dict.fromkeys(name for claim in claims for name in claim.experiments)
    notes = [
        f"no runs: {command_line('train', f'experiment={name}')}"
        for name in experiments
        if not runs.get(name)
    ]
    if any(check.measure.startswith("time/") for claim in claims for check in claim.checks):
        notes.append(WALL_CLOCK)
    return Table(["claim", "verdict", "measure", "found", "effect", ""], body, notes)
