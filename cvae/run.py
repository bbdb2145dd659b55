"""A run from its configuration to its results: the table of contents of the program."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cvae import checkpoint, data, figures, memory, models, tasks
from cvae.config import Config, UserError
from cvae.folder import RunFolder, write_atomically
from cvae.loop import Loop
from cvae.record import Recorder
from cvae.tasks.language_model import LanguageModelling

log = logging.getLogger("cvae")


def run(config: Config, folder: RunFolder, composition: dict[str, str] | None = None) -> float:
    """Trains, or goes on training, in a folder that has accepted the configuration.

    `composition` is what Hydra would have written to .hydra/: names of files and their text.
    Returns the objective: the best validation's -ELBO (rec for an autoencoder) in nats per sequence.
    """
    try:
        task = prepare(config)
    except UserError:
        folder.discard_if_empty()
        raise
    with folder.held(), _log_file(folder), logging_redirect_tqdm():
        return _train(config, folder, task, composition or {})


def prepare(config: Config) -> LanguageModelling:
    """Data on the device, a freshly initialised model, and the task that measures it."""
    memory.keep_freed()
    device = _device(config.device)
    splits = data.build(config.dataset, device)
    torch.manual_seed(config.seed)
    model = models.build(config.model, len(splits.vocabulary)).to(device)
    return tasks.build(config, model, splits)


def evaluate(task: LanguageModelling, folder: RunFolder, split: str) -> dict[str, float]:
    """The measures of a run's best checkpoint on a split: results.json has the same numbers."""
    best = checkpoint.load(folder / "checkpoint_best.pt")
    task.model.load_state_dict(best["model"])
    found = task.evaluate(split)
    return {f"{split}/{name}": value for name, value in found.items()}


def _train(config: Config, folder: RunFolder, task: LanguageModelling, composition: dict[str, str]) -> float:
    """The part of a run during which the folder is ours."""
    if config.overwrite:
        folder.clear()
    folder.describe(config, " ".join(["python", *sys.argv]), task.data.fingerprints)
    for name, text in composition.items():
        (folder / ".hydra").mkdir(exist_ok=True)
        write_atomically(folder / ".hydra" / name, text)
    write_atomically(folder / "vocabulary.txt", "\n".join(task.data.vocabulary.words) + "\n")
    loop = Loop(config, task, folder)
    results = {f"data/{name}": count for name, count in task.counts().items()}
    results["model/parameters"] = sum(p.numel() for p in task.model.parameters())
    offsets = loop.resume()
    recorder = Recorder(folder, config, loop.step, offsets)
    where = f"after {loop.step:,} updates" if loop.step else "from the start"
    recorder.say(f"{folder}: {where}, {loop.end:,} of {loop.total:,} to go to, on {task.device}")
    folder.finish({"finished": False, "step": loop.step, **results})
    before = time.perf_counter()
    loop.run(recorder)
    results |= {"time/training_seconds": time.perf_counter() - before}
    return _conclude(loop, recorder, results)


def _conclude(loop: Loop, recorder: Recorder, results: dict[str, Any]) -> float:
    """Measures the best checkpoint, draws the pictures and writes results.json."""
    task, folder = loop.task, loop.folder
    measured: dict[str, float] = {}
    if (folder / "checkpoint_best.pt").exists():
        for split in ("val", "test"):
            measured |= evaluate(task, folder, split)
        shown = {key: value for key, value in measured.items() if key.startswith("test/")}
        if loop.finished:
            recorder.write(loop.step, shown)
        recorder.say("best checkpoint: " + ", ".join(f"{k} {v:.5g}" for k, v in measured.items()))
    objective = loop.best if math.isfinite(loop.best) else None
    head = {"finished": loop.finished, "step": loop.step, "objective": objective}
    folder.finish(head | measured | results)
    for path in figures.run_pictures(folder.path):
        recorder.picture(path.stem, path, loop.step)
    recorder.close(loop.finished)
    if not loop.finished:
        log.info(f"stopped after {loop.step:,} of {loop.total:,} updates; the same command goes on")
    return loop.best


def _device(wish: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises UserError for a GPU that is not there."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU that torch can use on this machine; device=auto or cpu")
    cuda = wish == "cuda" or (wish == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


@contextmanager
def _log_file(folder: RunFolder) -> Iterator[None]:
    """What the run says goes to train.log too, and so does the error that ends it."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        handler.emit(log.makeRecord("cvae", logging.ERROR, "", 0, str(error), (), None))
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
