"""The classifiers of task=yelp: trained one after another, each recorded in classifier.jsonl when done."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cvae.errors import Diverged
from cvae.io import append_line, cut_unfinished, write_atomically, write_json
from cvae.report.accuracy import accuracy_table, still_probes
from cvae.runs.folder import RunFolder
from cvae.runs.reader import read_classifiers, read_run
from cvae.tasks.base import Task
from cvae.tasks.reviews import Classification, Trial

log = logging.getLogger("cvae")

RECORD, TABLE = "classifier.jsonl", "accuracy.md"


def train_classifiers(classification: Classification, folder: RunFolder) -> dict[str, float]:
    """Train the classifiers that classifier.jsonl lacks, write their table and return their summary.

    Raises Diverged, with the batch kept in diverged.json.
    """
    path = folder / RECORD
    cut_unfinished(path)
    records = {Trial(r["mode"], r["share"], r["seed"]): r for r in read_classifiers(path)}
    for trial in classification.trials():
        if trial in records:
            continue
        start = time.perf_counter()
        try:
            measured = classification.measure(trial)
        except Diverged as error:
            raise _with_batch(error, trial, classification.task, folder) from None
        record = records[trial] = trial._asdict() | measured | {"time/seconds": time.perf_counter() - start}
        append_line(path, record)
        log.info(
            f"{trial.mode}, {record['labels']:,} labels, seed {trial.seed}"
            f" | test accuracy {record['test/accuracy']:.4f}"
        )
    if records:
        table = accuracy_table([read_run(folder.path)]).markdown()
        write_atomically(folder / TABLE, table + "\n")
        log.info(f"test accuracy in %\n{table}")
    done = [records[trial] for trial in classification.trials()]
    return summary(done) | {"test/majority": classification.majority()}


def _with_batch(error: Diverged, trial: Trial, task: Task, folder: RunFolder) -> Diverged:
    """Keep the batch of a classifier that diverged and return the error with the classifier's name."""
    sentences = task.words(task.data.corpora["train"].batch(error.rows))
    write_json(folder / "diverged.json", trial._asdict() | {"cause": str(error), "sentences": sentences})
    return Diverged(
        f"{error} of the classifier {trial.mode}, share {trial.share:g}, seed {trial.seed}: the pre-trained"
        " checkpoint is kept, diverged.json has the batch; a smaller task.finetune.lr or encoder_lr may help"
    )


def summary(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return test/accuracy*/<mode>/<share>, the mean over label sets, its sample std, and labels/<share>.

    still_probe/<share> counts the fine-tuned classifiers that never beat the probe they began with.
    """
    values: dict[str, float] = {}
    for mode, share in dict.fromkeys((record["mode"], record["share"]) for record in records):
        members = [r for r in records if (r["mode"], r["share"]) == (mode, share)]
        values[f"labels/{share:g}"] = members[0]["labels"]
        if mode == "finetune":
            values[f"still_probe/{share:g}"] = still_probes(members)
        for key in (k for k in members[0] if k.startswith("test/") and all(k in m for m in members)):
            accuracies = [member[key] for member in members]
            values[f"{key}/{mode}/{share:g}"] = float(np.mean(accuracies))
            if len(accuracies) > 1:
                values[f"{key}_std/{mode}/{share:g}"] = float(np.std(accuracies, ddof=1))
    return values
