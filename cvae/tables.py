"""Tables from run folders: a row for each way of running, seeds folded into mean ± std with n."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cvae.runs import Run, RunsError, differing_keys, refuse_mixture

BOUND = ("elbo", "rec", "kl", "ppl", "iw_nll", "iw_ppl")
LATENT = ("mi", "au", "accuracy", "prior_gap", "path_a", "path_a_prior", "path_b")
MEASURES = (*BOUND, *LATENT, *(f"refined_{name}" for name in BOUND))


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
        return f"{round(self.mean, digits) + 0.0:.{digits}f}{spread}"  # + 0.0 turns -0.0 into 0.0


def rows(runs: Sequence[Run], order: Sequence[str]) -> dict[tuple[str, ...], list[Run]]:
    """Runs by the values of the differing keys; schedules in the given order.

    Raises RunsError where a row would average the same seed twice.
    """
    keys = differing_keys(runs)
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(str(run.setting.get(key, "–")) for key in keys), []).append(run)
    for members in found.values():
        refuse_mixture(members)
    place = {name: number for number, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: [(place.get(part, 99), part) for part in item[0]]))


def final(runs: Sequence[Run], key: str) -> Cell:
    """A value of results.json, of the finished runs."""
    return Cell(tuple(run.results[key] for run in runs if run.results.get("finished") and key in run.results))


def around(runs: Sequence[Run], key: str, step: int, window: int) -> Cell:
    """A scalar at a step, of each run that has come so far.

    train/* is the mean over the `window` updates before the step, any other key its value there.
    """
    values = []
    for run in runs:
        steps, found = run.series(key)
        first = step - window if key.startswith("train/") else step - 1
        inside = found[(steps > first) & (steps <= step)]
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


def steps_table(
    runs: Sequence[Run], order: Sequence[str], steps: Sequence[int], window: int, keys: Sequence[str]
) -> str:
    """Scalars at chosen steps: a row for each way of running and key, by default train/{loss,rec,kl}."""
    body = [
        [*names, _count(members), key, *(around(members, key, step, window) for step in steps)]
        for names, members in rows(runs, order).items()
        for key in keys or ("train/loss", "train/rec", "train/kl")
    ]
    return markdown([*differing_keys(runs), "n", "", *(f"{step:,}" for step in steps)], body)


def _count(runs: Sequence[Run]) -> str:
    """How many runs a row folds, and how many of them are not finished."""
    done = sum(bool(run.results.get("finished")) for run in runs)
    return str(len(runs)) if done == len(runs) else f"{done} of {len(runs)}"
