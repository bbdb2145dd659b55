"""The command: what it is called, what it explains, and what it does once its jobs are checked."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cvae.config import NOT_IDENTITY, Config, load
from cvae.folder import FolderError, RunFolder
from cvae.precheck import check
from cvae.reading import UserError
from cvae.sweeps import Sweep, alone_on_gpu

log = logging.getLogger("cvae")

LONGEST_SLUG = 120


def slug(overrides: Sequence[str]) -> str:
    """The name of a run's folder: its overrides in [A-Za-z0-9._-]; `default` where there are none.

    Sorted, groups and the seed before dotted keys, since viewers cut long names at the end. Left out:
    what is no part of a run's identity, and `experiment` where it has set the name.
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        listed = value.startswith("[") and value.endswith("]")
        chosen[key.lstrip("+~")] = (value[1:-1] or "none") if listed else value
    outside = set(NOT_IDENTITY) | (set() if "name" in chosen else {"experiment"})
    ranked = sorted(chosen.items(), key=lambda item: ("." in item[0], item))
    parts = [f"{key}-{value}" for key, value in ranked if key not in outside]
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).strip("-.") or "default"
    if len(text) <= LONGEST_SLUG:
        return text
    import hashlib

    return f"{text[:LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("cvae.data", lambda: os.environ.get("CVAE_DATA") or "data", replace=True)
OmegaConf.register_new_resolver("cvae.slug", lambda overrides: slug(list(overrides)), replace=True)


def run(cfg: DictConfig) -> float | None:
    """Trains what `cfg` says in the folder Hydra chose, and returns the objective.

    A mistake ends the program in its sentence; in a sweep it is raised, so that the other jobs go on.
    """
    try:
        return _run(cfg)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(str(error))


def _run(cfg: DictConfig) -> float | None:
    """What needs no torch comes before torch is imported: a folder with another run in it is refused, a
    finished run is said to be finished."""
    config = load(cfg)
    hydra = HydraConfig.get()
    folder = RunFolder(hydra.runtime.output_dir)
    folder.refuse_other(config)
    if not config.overwrite and (results := folder.results).get("finished"):
        log.info(f"{folder} is already finished; overwrite=true runs it again")
        return results.get("objective")
    with alone_on_gpu(config.device, hydra.launcher):
        return _start(config, folder, cfg)


def _start(config: Config, folder: RunFolder, cfg: DictConfig) -> float:
    """Trains; in a sweep an error is said at once and left in the folder, whatever stage it came from."""
    from cvae.run import run

    hydra = HydraConfig.get()
    composition = {
        "config.yaml": OmegaConf.to_yaml(cfg),
        "hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        "overrides.yaml": OmegaConf.to_yaml(hydra.overrides.task),
    }
    command = shlex.join(["python", "train.py", *hydra.overrides.task])
    try:
        return run(config, folder, command, composition)
    except Exception as error:
        multirun = hydra.mode == RunMode.MULTIRUN
        if multirun:
            log.error(f"{folder}: {error}")  # Hydra itself shows the first failing job of a sweep only
        with contextlib.suppress(UserError):  # another one, of the folder, must not hide this one
            if (multirun or folder.record) and not (folder.error or isinstance(error, FolderError)):
                folder.fail(error)  # it came before the run held its folder
        raise


def quoted(argument: str) -> str:
    """`key=Räume/1` as `key="Räume/1"`: Hydra takes letters beyond ASCII in quotes only."""
    key, _, value = argument.partition("=")
    plain = value.isascii() or any(mark in value for mark in "'\"\\,[]{}()=$")
    return argument if plain else f'{key}="{value}"'


def start(main: Callable[[], Any], arguments: Sequence[str], conf: Path) -> None:
    """Checks the command and hands it to Hydra; a sweep ends by saying what became of each job."""
    sys.argv[1:] = arguments = [quoted(argument) for argument in arguments]
    sweep = check(arguments, conf)
    # a launcher's processes import the cvae beside conf, too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(conf.parent), os.environ.get("PYTHONPATH"))))
    if sweep is None:
        _interruptible(main)
        return
    try:
        sweep.begin()
    except OSError as error:
        sys.exit(f"{error.filename or sweep.place} cannot be written: {error.strerror}")
    except UserError as error:
        sys.exit(str(error))
    try:
        _interruptible(main)
    finally:
        sys.stderr.flush()
        all_done = _told(sweep)
    if not all_done:
        sys.exit(1)


def _told(sweep: Sweep) -> bool:
    """Whether all jobs are done, after saying so; a bad folder must not hide what ended the sweep."""
    try:
        return sweep.end()
    except UserError as error:
        print(error, file=sys.stderr)
        return False


def _interruptible(main: Callable[[], Any]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
