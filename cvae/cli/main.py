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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cvae.cli.precheck import check
from cvae.config.load import load
from cvae.config.schema import NOT_IDENTITY, Config
from cvae.errors import FolderError, UserError
from cvae.runs import fingerprints
from cvae.runs.compatibility import refuse_other_run, unchecked_files
from cvae.runs.devices import own_gpu
from cvae.runs.folder import RunFolder
from cvae.runs.sweeps import Sweep

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
    refuse_other_run(folder, config)
    if folder.finished and not config.overwrite:
        unchecked = unchecked_files(folder, fingerprints.of_config(config))
        told = f"{folder} is already finished; overwrite=true runs it again"
        log.info(f"{told} ({unchecked})" if unchecked else told)
        return folder.results.get("objective")
    with own_gpu(config.device, hydra.launcher, config.jobs_per_gpu):
        return _start(config, folder, cfg)


def _start(config: Config, folder: RunFolder, cfg: DictConfig) -> float:
    """Trains; in a sweep an error is said at once and left in the folder, whatever stage it came from."""
    from cvae.training.run import run

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


# keys whose values are paths: there brackets, quotes and equal signs are parts of a name, too
PATHS = {"dataset.path", "init_from", "model.vectors", "task.vectors", "task.references"}
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


def quoted(argument: str) -> str:
    """Return `key=~/Räume` as `key="~/Räume"`: much of what a shell passes on, Hydra takes in quotes only.

    What Hydra can read stays as it is. Else the parts of the value between commas and brackets that it cannot
    read are quoted, of a path the parts between commas. What nothing helps stays, to be refused as typed.
    """
    key, sign, value = argument.partition("=")
    if not sign or argument.startswith("-") or _readable(argument):
        return argument
    for marks in (r"[,\[\]{}()]", ",") if key.lstrip("+") in PATHS else (r"[,\[\]{}()]",):
        parts = re.split(f"({QUOTED}|{marks})", value)
        parts[::2] = [_part(key.lstrip("+"), part) for part in parts[::2]]
        if _readable(found := f"{key}={''.join(parts)}"):
            return found
    return argument


def _part(key: str, part: str) -> str:
    """A part of a value, in quotes where Hydra needs them. Hydra's own keys have no `~`: it is replaced."""
    text = part.strip()
    if not text or _readable(f"key={text}") or (key not in PATHS and re.search(r"""['"\\=$]""", text)):
        return part
    text = str(Path(text).expanduser()) if key.startswith("hydra.") else text
    return QuotedString(text, Quote.double).with_quotes()


def _readable(argument: str) -> bool:
    """Whether Hydra's grammar has such an override."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


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
