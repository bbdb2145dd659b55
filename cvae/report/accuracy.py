"""Test accuracies of task=yelp's classifiers, folded over seeds: for a figure and for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True)
class Scores:
    """One way of making classifiers: test accuracies in percent, and numbers of labels, by share of labels.

    `group` is the pre-training's schedule and learning rate, None without pre-training. `labels` are those to
    learn from, `val_labels` those to choose by. A cell's mark counts classifiers that are still their probe.
    """

    mode: str
    group: Group | None
    cells: dict[float, Cell] = field(default_factory=dict)
    labels: dict[float, int] = field(default_factory=dict)
    val_labels: dict[float, int] = field(default_factory=dict)


def pretrained(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that have classifiers on a pre-trained encoder."""
    return [run for run in runs if any(record["mode"] != "scratch" for record in run.classifiers)]


def majority(runs: Sequence[Run]) -> float | None:
    """Return the accuracy in percent of always predicting the most frequent class, where a run has it."""
    values = [run.results["test/majority"] for run in runs if "test/majority" in run.results]
    return 100 * values[0] if values else None


def still_probes(records: Sequence[Mapping[str, Any]]) -> int:
    """Return how many of these classifiers were fine-tuned without beating the probe they began with."""
    return sum(record["mode"] == "finetune" and record.get("updates") == 0 for record in records)


def scores(runs: Sequence[Run], order: Sequence[str], measure: str = ACCURACY) -> list[Scores]:
    """Return the scores of every way of making classifiers, by mode and then schedule in the given order.

    Label sets, and runs that differ in their seed only, are folded. Raises RunsError where there are no
    classifiers, and where runs that cannot be folded stand for the same line.
    """
    members: dict[tuple[str, Group | None], list[Run]] = {}
    for run in runs:
        for mode in dict.fromkeys(record["mode"] for record in run.classifiers):
            members.setdefault((mode, None if mode == "scratch" else run.group), []).append(run)
    if not members:
        raise RunsError("none of these runs has classifiers: a run of task=yelp leaves classifier.jsonl")
    refuse_other_data([run for run in runs if run.classifiers], besides=["init_from"])
    for (_, group), folded in members.items():
        refuse_mixture(folded) if group else _refuse_different_scratch(folded)
    rank = {name: place for place, name in enumerate(order)}
    ways = sorted(members, key=lambda m: (MODES.index(m[0]), rank.get((m[1] or ("",))[0], 99), m[1] or ()))
    found = [_scores(mode, group, members[mode, group], measure) for mode, group in ways]
    return [way for way in found if way.cells]


def _scores(mode: str, group: Group | None, runs: Sequence[Run], measure: str) -> Scores:
    """Return the scores of one way; without pre-training a label set counts once, whatever the run."""
    classifiers: dict[float, dict[tuple[int, int], Mapping[str, Any]]] = {}
    for run in runs:
        for record in run.classifiers:
            if record["mode"] == mode and measure in record:
                key = (run.seed if group else 0, record["seed"])
                classifiers.setdefault(record["share"], {})[key] = record
    way = Scores(mode, group)
    for share in sorted(classifiers):
        records = list(classifiers[share].values())
        still = still_probes(records)
        values = tuple(100 * record[measure] for record in records)
        way.cells[share] = Cell(values, mark=f" †{still}" if still else "")
        way.labels[share], way.val_labels[share] = records[-1]["labels"], records[-1].get("val_labels", 0)
    return way


def _refuse_different_scratch(runs: Sequence[Run]) -> None:
    """Raise RunsError where classifiers without pre-training were made in different ways."""
    settings = [
        replace(run, config={part: run.config.get(part) for part in ("dataset", "model", "task")})
        for run in runs
    ]
    keys = [
        key for key in differing_keys(settings) if key.startswith(("dataset.", "model.", "task.finetune."))
    ]
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
    labels = {share: count for _, way in ways for share, count in way.labels.items()}
    chosen_by = {share: count for _, way in ways for share, count in way.val_labels.items()}
    varies = len({way.group[1] for _, way in ways if way.group}) > 1
    body = [
        [
            f"{way.mode}{feature}",
            ", ".join(way.group if varies else way.group[:1]) if way.group else "–",
            *(way.cells.get(share, Cell(())) for share in sorted(labels)),
        ]
        for feature, way in ways
    ]
    shares = [f"{100 * share:g} % ({labels[share]:,} + {chosen_by[share]:,})" for share in sorted(labels)]
    notes = ["(n + m): n labelled sentences to learn from, and m to choose the classifier by"]
    if any(cell.mark for _, way in ways for cell in way.cells.values()):
        notes.append("†k: the mean includes k classifiers that are still their probe (updates: 0)")
    return Table(["classifier", "schedule", *shares], body, notes)
