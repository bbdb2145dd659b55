"""Tables from run folders: a row for each way of running, seeds folded into mean ± std with n."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cvae.config import flatten, identity
from cvae.runs import Run, RunsError

BOUND = ("elbo", "rec", "kl", "ppl", "iw_nll", "iw_ppl")
LATENT = ("mi", "au", "accuracy", "prior_gap", "path_a", "path_a_prior", "path_b")
MEASURES = (*BOUND, *LATENT)


@dataclass(frozen=True)
class Cell:
    """The values of one measure over the seeds of a row; empty where no run has it."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """The sample standard deviation, 0 for one value."""
        n = len(self.values)
        return math.sqrt(sum((v - self.mean) ** 2 for v in self.values) / (n - 1)) if n > 1 else 0.0

    def __str__(self) -> str:
        if not self.values:
            return "–"
        digits = 1 if abs(self.mean) >= 100 else 2
        spread = f" ± {self.std:.{digits}f}" if len(self.values) > 1 else ""
        return f"{self.mean:.{digits}f}{spread}"


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The keys of the configuration in which the runs differ, the seed left out.

    Where a group is chosen differently (schedule.name), its other keys only say so again.
    """
    configs = [identity(dict(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key != "seed")
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs}) > 1]
    named = {key.partition(".")[0] for key in differing if key.endswith(".name")}
    return [key for key in differing if key.endswith(".name") or key.partition(".")[0] not in named]


def rows(runs: Sequence[Run], order: Sequence[str]) -> dict[tuple[str, ...], list[Run]]:
    """Runs by the values of the differing keys; schedules in the given order."""
    keys = differing_keys(runs)
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        flat = flatten(dict(run.config))
        found.setdefault(tuple(str(flat.get(key, "–")) for key in keys), []).append(run)
    place = {name: number for number, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: [(place.get(part, 99), part) for part in item[0]]))


def final(runs: Sequence[Run], key: str) -> Cell:
    """A value of results.json, of the finished runs."""
    return Cell(tuple(run.results[key] for run in runs if run.results.get("finished") and key in run.results))


def around(runs: Sequence[Run], name: str, step: int, window: int) -> Cell:
    """The mean of train/`name` over the `window` updates before `step`, of each run that has them."""
    values = []
    for run in runs:
        steps, found = run.series(f"train/{name}")
        inside = found[(steps > step - window) & (steps <= step)]
        if run.last >= step - 1 and len(inside):
            values.append(float(inside.mean()))
    return Cell(tuple(values))


def markdown(head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def results_table(runs: Sequence[Run], order: Sequence[str], columns: Sequence[str]) -> str:
    """Rows by what differs, columns of results.json; by default every measure of val and test there is."""
    if not columns:
        known = [f"{split}/{name}" for split in ("val", "test") for name in MEASURES]
        columns = [key for key in known if any(key in run.results for run in runs)]
    if not columns:
        raise RunsError("none of these runs has results yet")
    body = [
        [*names, _count(members), *(final(members, key) for key in columns)]
        for names, members in rows(runs, order).items()
    ]
    return markdown([*differing_keys(runs), "n", *columns], body)


def steps_table(runs: Sequence[Run], order: Sequence[str], steps: Sequence[int], window: int) -> str:
    """loss, rec and KL of training at chosen steps: a row for each way of running and measure."""
    body = [
        [*names, _count(members), name, *(around(members, name, step, window) for step in steps)]
        for names, members in rows(runs, order).items()
        for name in ("loss", "rec", "kl")
    ]
    return markdown([*differing_keys(runs), "n", "measure", *(f"{step:,}" for step in steps)], body)


def _count(runs: Sequence[Run]) -> str:
    """How many runs a row folds, and how many of them are not finished."""
    done = sum(bool(run.results.get("finished")) for run in runs)
    return str(len(runs)) if done == len(runs) else f"{done} of {len(runs)}"
