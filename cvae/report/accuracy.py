"""The accuracies of task=yelp's classifiers, gathered from run folders: for a figure and for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cvae.errors import RunsError
from cvae.report.tables import Cell, Table
from cvae.runs.reader import Group, Run, differing_keys, refuse_mixture, refuse_other_data

MODES = ("probe", "finetune", "scratch")
# older runs also have accuracy_sample, of a probe fitted on means: it says nothing about samples
ACCURACIES = ("test/accuracy", "test/accuracy_sampled", "test/accuracy_dropped")


@dataclass(frozen=True)
class Scores:
    """One way of making classifiers: for each share of labels its test accuracies in percent.

    `group` is the pre-training's schedule and learning rate; None without pre-training. `labels` are those to
    learn from, `val_labels` those of validation to choose by. A fine-tuned cell's mark counts its classifiers
    that are still the probe they began with.
    """

    mode: str
    group: Group | None
    cells: dict[float, Cell]
    labels: dict[float, int]
    val_labels: dict[float, int]


def pretrained(runs: Sequence[Run]) -> list[Run]:
    """The runs that have classifiers on a pre-trained encoder."""
    return [run for run in runs if any(record["mode"] != "scratch" for record in run.classifiers)]


def majority(runs: Sequence[Run]) -> float | None:
    """The accuracy in percent of always saying the most frequent class, where a run knows it."""
    found = [run.results["test/majority"] for run in runs if "test/majority" in run.results]
    return 100 * found[0] if found else None


def scores(runs: Sequence[Run], order: Sequence[str], measure: str = ACCURACIES[0]) -> list[Scores]:
    """Every way of making classifiers that the runs have: by mode, then schedules in the given order.

    Label sets, and runs that differ in their seed only, are folded. Raises RunsError where there are none,
    and where runs that cannot be folded stand for the same line.
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
    ranked = sorted(members, key=lambda m: (MODES.index(m[0]), rank.get((m[1] or ("",))[0], 99), m[1] or ()))
    found = [_gathered(mode, group, members[mode, group], measure) for mode, group in ranked]
    return [score for score in found if score.cells]


def _gathered(mode: str, group: Group | None, runs: Sequence[Run], measure: str) -> Scores:
    """Without pre-training the same label set gives the same classifier in every run, and counts once."""
    found: dict[float, dict[tuple[int, int], Mapping[str, Any]]] = {}
    for run in runs:
        for record in run.classifiers:
            if record["mode"] == mode and measure in record:
                key = (run.seed if group else 0, record["seed"])
                found.setdefault(record["share"], {})[key] = record
    cells, labels, val_labels = {}, {}, {}
    for share in sorted(found):
        records = list(found[share].values())
        labels[share], val_labels[share] = records[-1]["labels"], records[-1].get("val_labels", 0)
        still = still_probes(records)
        cells[share] = Cell(tuple(100 * r[measure] for r in records), mark=f" †{still}" if still else "")
    return Scores(mode, group, cells, labels, val_labels)


def still_probes(records: Sequence[Mapping[str, Any]]) -> int:
    """Return how many of these classifiers were fine-tuned without beating the probe they began with."""
    return sum(record["mode"] == "finetune" and record.get("updates") == 0 for record in records)


def _refuse_different_scratch(runs: Sequence[Run]) -> None:
    """What makes a classifier without pre-training must be the same in all runs that have one."""
    parts = ("dataset.", "model.", "task.finetune.")
    settings = [
        replace(run, config={part: run.config.get(part) for part in ("dataset", "model", "task")})
        for run in runs
    ]
    keys = [key for key in differing_keys(settings) if key.startswith(parts)]
    if keys := [key for key in keys if key != "task.finetune.modes"]:
        raise RunsError(
            f"classifiers without pre-training cannot be folded: the runs differ in {', '.join(keys)}"
        )


def accuracy_table(runs: Sequence[Run], order: Sequence[str] = ()) -> Table:
    """Test accuracy in percent: a row for each way of making classifiers, a column for each share of labels.

    Of a probe also where it is fitted and tested on samples, and the means' with words dropped. Heads
    count the labels to learn from and those to choose by.
    """
    rows = [(measure, score) for measure in ACCURACIES for score in scores(runs, order, measure)]
    labels = {share: count for _, score in rows for share, count in score.labels.items()}
    chosen_by = {share: count for _, score in rows for share, count in score.val_labels.items()}
    features = dict(zip(ACCURACIES, ("", " on samples of z", ", words dropped"), strict=True))
    varies = len({score.group[1] for _, score in rows if score.group}) > 1
    body = [
        [
            f"{score.mode}{features[measure]}",
            "–" if score.group is None else ", ".join(score.group if varies else score.group[:1]),
            *(score.cells.get(share, Cell(())) for share in sorted(labels)),
        ]
        for measure, score in rows
    ]
    shares = [f"{100 * share:g} % ({labels[share]:,} + {chosen_by[share]:,})" for share in sorted(labels)]
    notes = ["(n + m): n labelled sentences to learn from, and m to choose the classifier by"]
    if any(cell.mark for _, score in rows for cell in score.cells.values()):
        notes.append("†k: the mean includes k classifiers that are still their probe (updates: 0)")
    return Table(["classifier", "schedule", *shares], body, notes)
