"""`cvae train`: check the command line, then hand it to Hydra, which calls `run` for each job."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cvae.cli import overrides
from cvae.cli.arguments import Arguments, entry_point
from cvae.cli.precheck import check
from cvae.config.load import load
from cvae.config.schema import Config
from cvae.errors import FolderError, UserError
from cvae.program import CONF, INSTALLED, PACKAGE, command_line
from cvae.runs import fingerprints, world
from cvae.runs.compatibility import refuse_other_run, unchecked_files
from cvae.runs.devices import own_gpu
from cvae.runs.folder import RunFolder
from cvae.runs.sweeps import Sweep

log = logging.getLogger("cvae")


@entry_point
def main(arguments: Arguments = None) -> int:
    """Train, go on training, or sweep; the exit status is 1 where a job of a sweep is not done."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.argv[1:] = [overrides.quoted(argument) for argument in overrides.continued(given)]
    logging.raiseExceptions = False  # nobody may read stdout any more (`| head`); train.log has the lines
    match check(sys.argv[1:]):
        case Sweep() as sweep:
            if world.size() > 1:
                raise UserError("a sweep starts its own jobs, and torchrun trains one run: leave out -m")
            return 0 if _sweep(sweep) else 1
        case str() as text:
            print(text, end="")
        case config:
            if config is not None:
                world.refuse(config)
            _hydra(lambda cfg: run(cfg, config))
    return 0


def _hydra(job: Callable[[DictConfig], Any]) -> None:
    """Let Hydra read the command line again, and compose, launch or show what it asks for."""
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()


def _sweep(sweep: Sweep) -> bool:
    """Run a sweep, say what became of its jobs, and return whether all are done."""
    if not INSTALLED:  # a launcher's processes import the cvae of this checkout
        paths = (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sweep.begin()
    try:
        _hydra(run)
    finally:
        sys.stderr.flush()
        all_done = _end(sweep)
    return all_done


def _end(sweep: Sweep) -> bool:
    """Return whether all jobs are done; a bad folder must not hide what ended the sweep."""
    try:
        return sweep.end()
    except UserError as error:
        print(error, file=sys.stderr)
        return False


def run(cfg: DictConfig, config: Config | None = None) -> float | None:
    """Train in the folder that Hydra chose and return the objective.

    `config` is what `cfg` says, where `check` has read it. A mistake ends the program in its sentence; in a
    sweep it is raised, so that the other jobs go on.
    """
    try:
        return _run(cfg, config or load(cfg))
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(f"rank {world.rank()}: {error}" if world.rank() else str(error))


def _run(cfg: DictConfig, config: Config) -> float | None:
    """Answer for a finished run without importing torch, or train."""
    hydra_config = HydraConfig.get()
    folder = RunFolder(hydra_config.runtime.output_dir)
    if folder.finished and not config.overwrite:
        if world.rank():
            return None
        refuse_other_run(folder, config)
        unchecked = unchecked_files(folder, fingerprints.of_config(config))
        sentence = f"{folder} is already finished; overwrite=true runs it again"
        log.info(f"{sentence} ({unchecked})" if unchecked else sentence)
        return folder.results.get("objective")
    with own_gpu(config.device, hydra_config.launcher, config.jobs_per_gpu):
        return _train(config, folder, cfg)


def _train(config: Config, folder: RunFolder, cfg: DictConfig) -> float:
    """Train; in a sweep an error is said at once and left in the folder, whatever stage it came from."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(fingerprints.corpus, config)  # a long text is hashed while torch is imported
        from cvae.training.run import run

    hydra_config = HydraConfig.get()
    given = hydra_config.overrides.task
    composition = {
        "config.yaml": OmegaConf.to_yaml(cfg),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_config})),
        "overrides.yaml": OmegaConf.to_yaml(given),
    }
    try:
        return run(config, folder, command_line("train", *given), composition)
    except Exception as error:
        if world.rank():  # the folder is rank 0's
            raise
        multirun = hydra_config.mode == RunMode.MULTIRUN
        if multirun:
            log.error(f"{folder}: {error}")  # Hydra itself shows the first failing job of a sweep only
        with contextlib.suppress(UserError):  # another one, of the folder, must not hide this one
            if (multirun or folder.record) and not (folder.error or isinstance(error, FolderError)):
                folder.fail(error)  # it came before the run held its folder
        raise
