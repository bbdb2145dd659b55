"""A run from its configuration to its results: the table of contents of the program."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cvae import data, models, tasks
from cvae.config.schema import Config
from cvae.errors import FolderError, UserError
from cvae.io import write_atomically
from cvae.models.kernels import memory
from cvae.report import figures
from cvae.report.tables import MEASURES
from cvae.runs import fingerprints
from cvae.runs.compatibility import refuse_other_data, refuse_other_run, unchecked_files
from cvae.runs.folder import ERROR, RunFolder, discard_if_empty
from cvae.runs.provenance import describe
from cvae.tasks.language_model import LanguageTask
from cvae.training import checkpoint
from cvae.training.logger import BOUNDS, Logger
from cvae.training.loop import Loop
from cvae.training.transfer import load_weights

log = logging.getLogger("cvae")

SAID = ("rec", "kl", "ppl", "iw_ppl", "mi", "au", "path_a")  # on the console, of the reported checkpoint


def run(
    config: Config, folder: RunFolder, command: str = "", composition: dict[str, str] | None = None
) -> float:
    """Trains, or goes on training, in a folder that has accepted the configuration.

    `command` repeats the run; `composition` is what Hydra would have written to .hydra/, by file name.
    Returns the objective: the reported checkpoint's -ELBO on validation (rec for an autoencoder) in nats per
    sequence.
    """
    with suppress(OSError):
        (folder / ERROR).unlink()
    try:
        task = prepare(config)
        if config.precision == "tf32" and task.device.type != "cuda":
            raise UserError("precision=tf32 is arithmetic of GPUs, and this run is on the CPU: take float32")
        starts = config.overwrite or not folder.has_checkpoint
        if config.init_from is not None and config.pretrains and starts:
            load_weights(RunFolder(config.source), task, encoder_only=config.reset_decoder)
    except BaseException:
        discard_if_empty(folder)
        raise
    with folder.held():
        refuse_other_run(folder, config)
        if config.overwrite:
            folder.clear()
        with _log_file(folder), _disk_trouble(folder), logging_redirect_tqdm():
            describe(folder, config, command, task.data.fingerprints | fingerprints.others(config))
            _write_texts(folder, task, composition or {})
            return _train(config, folder, task)


def prepare(config: Config) -> LanguageTask:
    """Data on the device, a freshly initialised model, and the task that measures it."""
    memory.keep_freed()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    splits = data.build(config.dataset, device)
    torch.manual_seed(config.seed)
    model = models.build(_located(config), len(splits.vocabulary), splits).to(device)
    task = tasks.build(config, model, splits)
    if config.init_from is not None and not config.pretrains:
        load_weights(RunFolder(config.source), task, encoder_only=True)
    return task


def _located(config: Config) -> Any:
    """The model's configuration, with the place of the word vectors that it starts from."""
    if (name := getattr(config.model, "vectors", None)) is None:
        return config.model
    return dataclasses.replace(config.model, vectors=str(config.beside_data(name)))


def reopen(config: Config, folder: RunFolder, which: str | None = None, split: str = "val") -> LanguageTask:
    """The task with the weights of a run's best or last checkpoint, by default the one that it reports.

    Raises FolderError where the data are not those of the run or have no such split, CheckpointError for an
    unusable file.
    """
    task = prepare(config)
    if split not in task.data.corpora:
        raise FolderError(f"{folder} has no split {split}: {', '.join(task.data.corpora)}")
    data = task.data.fingerprints | fingerprints.others(dataclasses.replace(config, init_from=None))
    refuse_other_data(folder, data)
    if unchecked := unchecked_files(folder, data):
        log.warning(f"{folder}: {unchecked}")
    _load_weights(task, folder, which or config.task.reported)
    return task


def evaluate(task: LanguageTask, split: str) -> dict[str, float]:
    """All measures of a split, by the names they have in results.json."""
    found = task.evaluate(split, thorough=True)
    return {f"{split}/{name}": value for name, value in found.items()}


def _load_weights(task: LanguageTask, folder: RunFolder, which: str) -> None:
    path = folder / f"checkpoint_{which}.pt"
    checkpoint.restore(task.model, checkpoint.load(path, (folder.record or {}).get("config"))["model"], path)


def _write_texts(folder: RunFolder, task: LanguageTask, composition: dict[str, str]) -> None:
    """Hydra's record of the composition, and the words behind the numbers."""
    for name, text in composition.items():
        (folder / ".hydra").mkdir(exist_ok=True)
        write_atomically(folder / ".hydra" / name, text)
    write_atomically(folder / "vocabulary.txt", task.data.vocabulary.text)


def _train(config: Config, folder: RunFolder, task: LanguageTask) -> float:
    """From where the folder stands to the results."""
    loop = Loop(config, task, folder)
    results: dict[str, Any] = {f"data/{name}": count for name, count in task.counts().items()}
    results |= {"model/parameters": sum(p.numel() for p in task.model.parameters()), "updates": loop.total}
    results |= {"notes": task.data.notes} if task.data.notes else {}
    with Logger(folder, config, *loop.resume()) as recorder:
        where = f"after {loop.state.step:,} updates" if loop.state.step else "from the start"
        log.info(f"{folder}: {where}, going to {loop.end:,} of {loop.total:,}, on {task.device}")
        for note in task.data.notes:
            log.info(note)
        folder.write_results({"finished": False, "step": loop.state.step} | results)
        loop.run(recorder)
        return _conclude(loop, recorder, results)


def _conclude(loop: Loop, recorder: Logger, results: dict[str, Any]) -> float:
    """Measures the reported checkpoint, draws pictures and, last of all, says that the run is finished."""
    task, folder, which = loop.task, loop.folder, loop.config.task.reported
    measured: dict[str, float] = {}
    if (folder / f"checkpoint_{which}.pt").exists():
        _load_weights(task, folder, which)
        for split in task.judged:
            measured |= evaluate(task, split)
        # how many sentences a measure saw, and KL by dimension, are no curves: results.json has them
        shown = {key: value for key, value in measured.items() if key.partition("/")[2] in MEASURES}
        for split in task.judged:
            names = [name for name in SAID if f"{split}/{name}" in shown]
            numbers = " ".join(f"{name} {shown[f'{split}/{name}']:.5g}" for name in names)
            log.info(f"{which} checkpoint | {split} {numbers}")
        if loop.finished:
            recorder.write(loop.state.step, _final_scalars(shown, which, loop.config.train.validate_on))
            write_atomically(folder / "samples.md", task.page())
    if loop.finished:
        measured |= task.conclude(folder)
        recorder.end()
    for path in figures.run_pictures(folder.path):
        recorder.picture(path.stem, path, loop.state.step)
    objective = loop.objective if math.isfinite(loop.objective) else None
    head = {"finished": loop.finished, "step": loop.state.step, "checkpoint": which, "objective": objective}
    folder.write_results(head | measured | results | {"time/training_seconds": loop.state.clock.seconds})
    if not loop.finished:
        log.info(f"stopped after {loop.state.step:,} of {loop.total:,} updates; the same command goes on")
    return loop.objective


def _final_scalars(measured: dict[str, float], which: str, validated: list[str]) -> dict[str, float]:
    """best/* or last/* for the hparams table, and test/* where training has not recorded another already."""
    bounds = {f"{which}/{key}": value for key, value in measured.items() if key in BOUNDS}
    test = {key: value for key, value in measured.items() if key.startswith("test/")}
    return bounds | ({} if "test" in validated else test)


def _device(wish: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises UserError for a GPU that is not there."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU that torch can use on this machine; device=auto or cpu")
    cuda = wish == "cuda" or (wish == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


@contextmanager
def _disk_trouble(folder: RunFolder) -> Iterator[None]:
    """Says in a sentence that the folder cannot be written: a full disk, a limit, a folder that is gone."""
    before = threading.excepthook
    # TensorBoard's writing thread would print a traceback; what stops it is raised here too
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else before(args)
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        kept = [name for name in ("last", "previous") if (folder / f"checkpoint_{name}.pt").exists()]
        state = (
            f"checkpoint_{kept[0]}.pt is intact: the same command goes on from it"
            if kept
            else "nothing is saved"
        )
        raise FolderError(f"{folder} cannot be written: {what}{error.strerror or error}; {state}") from None
    finally:
        threading.excepthook = before


@contextmanager
def _log_file(folder: RunFolder) -> Iterator[None]:
    """What the run says goes to train.log too, and so does the error that ends it, which error.txt keeps."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.handleError = lambda record: None  # a full disk is told of once, by what cannot be saved
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        folder.fail(error)
        raise
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # what a full disk could not take
            handler.close()
