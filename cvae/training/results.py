"""The end of a run: the reported checkpoint measured, and all that results.json and the folder keep."""

from __future__ import annotations

import logging
from typing import Any

from cvae.evaluation import projector
from cvae.io import write_atomically
from cvae.report.tables import MEASURES
from cvae.runs.folder import RunFolder
from cvae.tasks.base import Task
from cvae.training import checkpoint
from cvae.training.classification import train_classifiers
from cvae.training.logger import BOUNDS, Logger
from cvae.training.loop import Loop

log = logging.getLogger("cvae")

PRINTED = ("rec", "kl", "ppl", "iw_ppl", "mi", "au", "path_a")  # of the reported checkpoint


def load_checkpoint(task: Task, folder: RunFolder, which: str | None) -> None:
    """Load the best, last or reported weights of a run. Raises CheckpointError for an unusable file."""
    path = folder.weights(which)
    checkpoint.restore(task.model, checkpoint.load(path, (folder.record or {}).get("config"))["model"], path)


def conclude(loop: Loop, logger: Logger, facts: dict[str, Any]) -> float:
    """Measure the reported checkpoint, write what the run leaves, and return the objective.

    results.json comes last; it has `facts` beside the measures.
    """
    from cvae.report import figures  # matplotlib takes a second, which a run needs only now

    task, folder, which = loop.task, loop.folder, loop.config.task.reported
    measured: dict[str, float] = {}
    if (folder / f"checkpoint_{which}.pt").exists():
        load_checkpoint(task, folder, which)
        measured = _measure(loop, logger, which)
        if loop.finished:
            write_atomically(folder / "samples.md", task.page())
    if loop.finished:
        if (classification := task.classification) is not None:
            measured |= train_classifiers(classification, folder)
        _write_projection(task, folder)
        logger.end()
    for path in figures.run_pictures(folder.path):
        logger.picture(path.stem, path, loop.state.step)
    head = {"finished": loop.finished, "step": loop.state.step, "checkpoint": which}
    head |= {"objective": loop.objective}  # null before the first validation
    folder.write_results(head | measured | facts | {"time/training_seconds": loop.state.seconds})
    if not loop.finished:
        log.info(f"stopped after {loop.state.step:,} of {loop.total:,} updates; the same command continues")
    return loop.objective


def _measure(loop: Loop, logger: Logger, which: str) -> dict[str, float]:
    """Measure every split but train, print it and, of a finished run, record it."""
    splits = [split for split in loop.task.data.corpora if split != "train"]
    measured = {
        f"{split}/{name}": value
        for split in splits
        for name, value in loop.task.evaluate(split, thorough=True).items()
    }
    # the others, such as KL by dimension, are no curves
    scalars = {key: value for key, value in measured.items() if key.partition("/")[2] in MEASURES}
    for split in splits:
        names = [name for name in PRINTED if f"{split}/{name}" in scalars]
        numbers = " ".join(f"{name} {scalars[f'{split}/{name}']:.5g}" for name in names)
        log.info(f"{which} checkpoint | {split} {numbers}")
    if loop.finished:
        # best/* or last/* for the hparams table; test/* unless training has recorded another at this step
        record = {f"{which}/{key}": value for key, value in scalars.items() if key in BOUNDS}
        if "test" not in loop.config.train.validate_on:
            record |= {key: value for key, value in scalars.items() if key.startswith("test/")}
        logger.write(loop.state.step, record)
    return measured


def _write_projection(task: Task, folder: RunFolder) -> None:
    """Write the points that TensorBoard's projector shows and, of labelled ones, a map of the plane."""
    if (projection := task.projection()) is None:
        return
    means, texts, labels = projection.means.cpu().numpy(), projection.texts, projection.labels
    if labels is None:
        projector.write(folder.path, means, texts)
    else:
        classes = projection.classes
        projector.write(folder.path, means, texts, [classes[label] for label in labels])
        projector.write_map(folder.path, means, labels, classes)
