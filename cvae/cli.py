"""The command line before Hydra acts on it: every job composed and checked, mistakes in one sentence.

Hydra composes, creates folders and then calls `main`; its own messages for typos run over several lines
and its folders stay behind. So `check` composes the same jobs first, without side effects.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.config import (
    NOT_IDENTITY,
    Config,
    ConfigError,
    TextData,
    UserError,
    listing,
    load,
)
from cvae.folder import RunFolder

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

log = logging.getLogger("cvae")

LONGEST_SLUG = 120
HELP = """\
Train and compare text VAEs. A run is composed from one choice per group:

{groups}

Examples:
  python train.py                                  the paper's synthetic VAE
  python train.py schedule=cyclical task=ptb       the paper's language model on Penn Treebank
  python train.py -m schedule=constant,monotonic,cyclical seed=0,1,2

Any key can be set: schedule.cycles=8 train.batch_size=64. `--cfg job --resolve` shows them all with their
values, each is explained in conf/; `--info defaults` shows which file won; `--hydra-help` lists the flags.
A run goes to outputs/<name>/<its overrides>; the same command continues it where it was interrupted.
"""
GROUPS = {
    "schedule": "β, the weight of the KL term",
    "lr": "the learning rate, independent of β",
    "task": "what is trained and measured",
    "dataset": "the corpus",
    "model": "the network and its sizes",
    "remedy": "further cures, a list: remedy=[a,b]",
    "experiment": "a committed table or figure",
}


def slug(overrides: Sequence[str]) -> str:
    """The name of a run's folder: its overrides, sorted, in [A-Za-z0-9._-]; `default` where none.

    Left out: what is no part of a run's identity, and `experiment` where it has set the name.
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        chosen[key.lstrip("+~")] = value
    outside = set(NOT_IDENTITY) | (set() if "name" in chosen else {"experiment"})
    parts = [f"{key}-{value}" for key, value in sorted(chosen.items()) if key not in outside]
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).strip("-.") or "default"
    if len(text) <= LONGEST_SLUG:
        return text
    import hashlib

    return f"{text[:LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("cvae.slug", lambda overrides: slug(list(overrides)), replace=True)


def help_text(conf: Path) -> str:
    """What the groups are, with their choices, and how to start. Hydra's own takes two seconds."""
    lines = []
    for group, meaning in GROUPS.items():
        files = sorted((conf / group).rglob("*.yaml"))
        choices = ", ".join(file.relative_to(conf / group).with_suffix("").as_posix() for file in files)
        lines += [f"  {group:<11} {meaning}", f"  {'':<11}   {choices}"]
    return HELP.format(groups="\n".join(lines))


def run(cfg: DictConfig) -> float | None:
    """Trains what `cfg` says in the folder Hydra chose, and returns the objective.

    What needs no torch comes before torch is imported: a folder with another run in it is refused, a
    finished run is said to be finished.
    """
    config = load(cfg)
    hydra = HydraConfig.get()
    folder = RunFolder(hydra.runtime.output_dir)
    folder.refuse_other(config)
    if not config.overwrite and (results := folder.results).get("finished"):
        log.info(f"{folder} is already finished; overwrite=true runs it again")
        return results["objective"]
    from cvae.run import run

    composition = {
        "config": cfg,
        "hydra": OmegaConf.create({"hydra": hydra}),
        "overrides": hydra.overrides.task,
    }
    return run(
        config, folder, {f"{name}.yaml": OmegaConf.to_yaml(part) for name, part in composition.items()}
    )


def check(arguments: Sequence[str], conf: Path) -> None:
    """Composes and loads every job of a command; prints what is wrong with it and exits with 1.

    Nothing is created, and a folder that holds another run is refused before Hydra touches it.
    """
    args = get_args_parser().parse_args(list(arguments))
    if args.help:
        print(help_text(conf), end="")
        sys.exit(0)
    if args.hydra_help or args.shell_completion:
        return
    conf = Path(args.config_path).resolve() if args.config_path else conf
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            try:
                _check_jobs(args, [*args.overrides, *_searched(args.config_dir)])
            except (UserError, HydraException, OmegaConfBaseException) as error:
                sys.exit(sentence(error))
    except HydraException as error:
        sys.exit(str(error))


def _searched(config_dir: str | None) -> list[str]:
    """The override by which `--config-dir` reaches the composition here."""
    return [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []


def _check_jobs(args, overrides: list[str]) -> None:
    """Raises what is wrong with the first wrong job: all its problems together."""
    name = args.config_name or "config"
    seen: dict[str, str] = {}
    for job in _jobs(name, overrides, args.multirun):
        cfg = _compose(name, job)
        config = load(cfg)
        if not (args.cfg or args.info):
            _check_surroundings(config, _output_dir(cfg, args.multirun), seen, " ".join(job))


def _jobs(name: str, overrides: list[str], multirun: bool) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper will spell them."""
    parser = OverridesParser.create()
    parsed = parser.parse_overrides(overrides)
    plain = [o.input_line for o in parsed if not o.is_sweep_override()]
    hydra = _compose(name, plain).hydra
    if not (multirun or hydra.mode == RunMode.MULTIRUN):
        _refuse_sweep(parsed)
        return [overrides]
    if not hydra.sweeper._target_.endswith("BasicSweeper"):
        return [plain]
    swept = [f"{key}={value}" for key, value in (hydra.sweeper.params or {}).items()]
    return BasicSweeper.split_arguments(parser.parse_overrides([*swept, *overrides]), None)[0]


def _refuse_sweep(parsed: Sequence[Override]) -> None:
    """Several values for one key are a sweep, and a sweep has to be asked for."""
    if swept := [o.input_line for o in parsed if o.is_sweep_override()]:
        raise ConfigError(
            f"{swept[0]} lists several values: add -m to run one job for each,"
            " or write the values in brackets for a list"
        )


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """Hydra's composition; an unknown key is left for `load`, which knows the allowed ones."""
    try:
        return compose(name, overrides, return_hydra_config=True)
    except MissingConfigException:
        raise
    except HydraException as error:
        try:
            load(compose(name, [_forced(o) for o in overrides]))
        except ConfigError as ours:
            raise ours from None
        except HydraException:
            pass
        raise error


def _forced(override: str) -> str:
    """`key=value` as `++key=value`, which Hydra takes whether or not it knows the key."""
    key, equals, _ = override.partition("=")
    is_group = _loader().get_group_options(key.lstrip("+~"))
    return override if not equals or key.startswith(("+", "~")) or is_group else f"++{override}"


def _loader() -> ConfigLoader:
    """What knows the files of the config groups."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.config_loader


def _output_dir(cfg: DictConfig, multirun: bool) -> str:
    """Where Hydra will put the run."""
    if multirun or cfg.hydra.mode == RunMode.MULTIRUN:
        return os.path.join(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir)  # noqa: PTH118
    return cfg.hydra.run.dir


def _check_surroundings(config: Config, folder: str, seen: dict[str, str], job: str) -> None:
    """Data that are missing, a folder with another run in it, two jobs for one folder."""
    if folder in seen:
        raise UserError(f"two jobs of this sweep would write to {folder}: '{seen[folder]}' and '{job}'")
    seen[folder] = job
    RunFolder(folder).refuse_other(config)
    if isinstance(config.dataset, TextData):
        config.dataset.refuse_missing()


def sentence(error: Exception) -> str:
    """An error as the user should read it: what was found and what is allowed, without Hydra's advice."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if group and (options := _loader().get_group_options(group)):
            return f"{group}={choice}: no such choice, {group} is one of {listing(options)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("See ", "full_key", "object_type"))]
    override = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
    return override + " ".join(kept)
