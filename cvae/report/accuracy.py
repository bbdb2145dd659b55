"""Test accuracies of task=yelp's classifiers, folded over seeds: for a figure and for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cvae.errors import RunsError
from cvae.report.formats import Cell, Table
from cvae.runs.reader import Group, Run, differing_keys, refuse_mixture, refuse_other_data

MODES = ("probe", "finetune", "scratch")
ACCURACY = "test/accuracy"
# measure -> what a row adds to its mode. Older runs also have accuracy_sample, of a probe that was fitted on
# means: it says nothing about samples
FEATURES = {
    ACCURACY: "",
    "test/accuracy_sampled": " on samples of z",
    "test/accuracy_dropped": ", words dropped",
}


Way = tuple[str, Group | None]  # mode, and schedule and learning rate of the pre-training


class Scores(NamedTuple):
    """One way of making classifiers: their test accuracies in percent, by share of labels.

    `group` is the pre-training's schedule and learning rate, None without pre-training. The mark of a cell
    counts the fine-tuned classifiers that are still the probe they began with.
    """

    mode: str
    group: Group | None
    cells: dict[float, Cell]


def pretrained(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that have classifiers on a pre-trained encoder."""
    return [run for run in runs if any(record["mode"] != "scratch" for record in run.classifiers)]


def majority(runs: Sequence[Run]) -> float | None:
    """Return the accuracy in percent of always predicting the most frequent class, where a run has it."""
    values = [run.results["test/majority"] for run in runs if "test/majority" in run.results]
    return 100 * values[0] if values else None


def label_counts(runs: Sequence[Run]) -> dict[float, tuple[int, int]]:
    """Return how many labels each share is, to learn from and to choose a classifier by, fewest first."""
    records = sorted((record for run in runs for record in run.classifiers), key=lambda r: r["share"])
    return {record["share"]: (record["labels"], record.get("val_labels", 0)) for record in records}


def still_probes(records: Sequence[Mapping[str, Any]]) -> int:
    """Return how many of these classifiers were fine-tuned without beating the probe they began with."""
    return sum(record["mode"] == "finetune" and record.get("updates") == 0 for record in records)


def scores(runs: Sequence[Run], order: Sequence[str], measure: str = ACCURACY) -> list[Scores]:
    """Return the scores of every way of making classifiers, by mode and then schedule in the given order.

    Label sets, and runs that differ in their seed only, are folded. Raises RunsError where there are no
    classifiers, and where runs that cannot be folded stand for the same line.
    """
    members: dict[Way, list[Run]] = {}
    for run in runs:
        for mode in dict.fromkeys(record["mode"] for record in run.classifiers):
            members.setdefault((mode, None if mode == "scratch" else run.group), []).append(run)
    if not members:
        raise RunsError("none of these runs has classifiers: a run of task=yelp leaves classifier.jsonl")
    refuse_other_data([run for run in runs if run.classifiers], besides=["init_from"])
    for (_, group), folded in members.items():
        refuse_mixture(folded) if group else _refuse_different_scratch(folded)
    rank = {name: place for place, name in enumerate(order)}
    ways = sorted(members, key=lambda w: (MODES.index(w[0]), rank.get((w[1] or ("",))[0], 99), w[1] or ()))
    found = [Scores(*way, _cells(way, members[way], measure)) for way in ways]
    return [way for way in found if way.cells]


def _cells(way: Way, runs: Sequence[Run], measure: str) -> dict[float, Cell]:
    """Return accuracies by share; without pre-training a label set counts once, whatever the run."""
    mode, group = way
    shares: dict[float, dict[tuple[int, int], Mapping[str, Any]]] = {}
    for run in runs:
        for record in run.classifiers:
            if record["mode"] == mode and record.get(measure) is not None:
                key = (run.seed if group else 0, record["seed"])
                shares.setdefault(record["share"], {})[key] = record
    cells = {}
    for share, records in sorted(shares.items()):
        still = still_probes(list(records.values()))
        values = tuple(100 * record[measure] for record in records.values())
        cells[share] = Cell(values, mark=f" †{still}" if still else "")
    return cells


def _refuse_different_scratch(runs: Sequence[Run]) -> None:
    """Raise RunsError where classifiers without pre-training were made in different ways."""
    settings = [
        replace(run, config={part: run.config.get(part) for part in ("dataset", "model", "task")})
        for run in runs
    ]
    parts = ("dataset.", "model.", "task.finetune.")
    keys = [key for key in differing_keys(settings) if key.startswith(parts)]
    if keys := [key for key in keys if key != "task.finetune.modes"]:
        raise RunsError(
            f"classifiers without pre-training cannot be folded: the runs differ in {', '.join(keys)}"
        )


def accuracy_table(runs: Sequence[Run], order: Sequence[str] = ()) -> Table:
    """Return test accuracy in percent: a row for each way of making classifiers, a column for each share.

    Of a probe also where it is fitted and tested on samples of z, and where words are dropped. Heads count
    the labels to learn from and those to choose by.
    """
    ways = [(feature, way) for measure, feature in FEATURES.items() for way in scores(runs, order, measure)]
    counts = label_counts(runs)
    varies = len({way.group[1] for _, way in ways if way.group}) > 1
    body: list[list[str | Cell]] = [
        [
            f"{way.mode}{feature}",
            ", ".join(way.group if varies else way.group[:1]) if way.group else "–",
            *(way.cells.get(share, Cell(())) for share in counts),
        ]
        for feature, way in ways
    ]
    shares = [f"{100 * share:g} % ({learn:,} + {choose:,})" for share, (learn, choose) in counts.items()]
    notes = ["(n + m): n labelled sentences to learn from, and m to choose the classifier by"]
    if any(cell.mark for _, way in ways for cell in way.cells.values()):
        notes.append("†k: the mean includes k classifiers that are still their probe (updates: 0)")
    return Table(["classifier", "schedule", *shares], body, notes)
