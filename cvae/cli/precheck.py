"""The command line of `train`, checked before Hydra acts on it: every job composed, mistakes in one sentence.

Hydra makes a run's folder before it calls our code, and its messages for typos run over several lines. So
`check` composes the same jobs first, without side effects.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cvae.cli.arguments import Parser
from cvae.cli.composition import composed, composing, parsed
from cvae.cli.help import help_text
from cvae.config.load import load
from cvae.config.schema import Config, Files
from cvae.errors import ConfigError, UserError
from cvae.runs import hub
from cvae.runs.compatibility import refuse_as_source, refuse_other_run
from cvae.runs.continuation import refuse_to_continue
from cvae.runs.folder import RunFolder, refuse_impossible
from cvae.runs.sweeps import Sweep
from cvae.training.tracker import refuse_unusable

CHECKED = 40  # jobs of a sweep composed before it starts, a tenth of a second each; each job checks itself


class Flags(Parser):
    """Those of Hydra's flags that `train` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.add_argument("overrides", nargs="*")
        modes = self.add_mutually_exclusive_group()
        modes.add_argument("--multirun", "-m", action="store_true")
        modes.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        shown = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
        modes.add_argument("--info", "-i", nargs="?", const="all", choices=shown)
        self.add_argument("--resolve", action="store_true")
        self.add_argument("--config-dir", "-cd", type=Path)
        self.add_argument("--hydra-help", action="store_true")
        self.add_argument("--shell-completion", "-sc", action="store_true")

    def format_help(self) -> str:
        """Return our own help, since Hydra's takes two seconds."""
        return help_text()

    def error(self, message: str) -> NoReturn:
        """Raise what argparse says as a UserError."""
        raise UserError(
            f"{message}; keys are set as key=value, without dashes and all on one side of the flags,"
            " which --help lists"
        )


def check(arguments: Sequence[str]) -> Config | Sweep | str | None:
    """Return the run or sweep that a command asks for, or what --cfg job prints; None: Hydra answers.

    Each job is composed and checked once. Raises UserError for a mistake, for missing data and for a folder
    that holds another run; nothing is created.
    """
    options = Flags().parse_args(list(arguments))
    if options.hydra_help or options.shell_completion:
        return None
    folder = options.config_dir
    if folder is not None and not folder.is_dir():
        raise UserError(f"--config-dir must be a folder of configurations, found no folder {folder}")
    if options.resolve and not options.cfg:
        raise UserError("--resolve goes with --cfg only")
    with composing(options.config_dir):
        items = [parsed(override) for override in options.overrides]
        plain = [str(item.input_line) for item in items if not item.is_sweep_override()]
        base = composed(plain)
        runs = not (options.cfg or options.info)
        if runs and (options.multirun or base.hydra.mode == RunMode.MULTIRUN):
            return _check_sweep(base, plain, items)
        _refuse_sweep(items)
        config = _checked(base)
        if options.cfg == "job":
            job = OmegaConf.masked_copy(base, [str(key) for key in base if key != "hydra"])
            return OmegaConf.to_yaml(job, resolve=options.resolve)
        if not runs:
            return None
        check_surroundings(config, base.hydra.run.dir)
        return config


def _refuse_sweep(items: Sequence[Override]) -> None:
    """Raise ConfigError where a single run is given several values for a key."""
    if swept := [item.input_line for item in items if item.is_sweep_override()]:
        raise ConfigError(
            f"{swept[0]} lists several values: add -m to run one job for each,"
            " or write the values in brackets for a list"
        )


def _checked(cfg: DictConfig) -> Config:
    """Return the configuration of a job. Raises ConfigError with all that is wrong with it."""
    config = load(cfg)
    choice = cfg.hydra.runtime.choices.get("experiment")
    if choice and OmegaConf.is_interpolation(cfg, "name"):  # its runs would go to the folder of plain ones
        raise ConfigError(f"experiment={choice} sets no name: give its file a line such as name: {choice}")
    return config


def check_surroundings(config: Config, folder: str) -> None:
    """Raise UserError for missing data, and for a folder that holds another run or cannot be made."""
    if not folder:
        raise UserError("hydra.run.dir must name the folder of the run, found nothing")
    run = RunFolder(folder)
    refuse_other_run(run, config)
    refuse_impossible(run)
    if run.finished and not config.overwrite:  # which needs no data to say so
        return
    if isinstance(config.dataset, Files):
        config.dataset.refuse_missing()
    refuse_unusable(config)
    starts = config.overwrite or not run.has_checkpoint
    if config.init_from is not None and (starts or not config.pretrains):
        refuse_as_source(RunFolder(hub.source(config)), config)
    if config.continue_from is not None and starts:
        refuse_to_continue(RunFolder(hub.source(config)), config)


# ---- sweeps ----


def _check_sweep(base: DictConfig, plain: list[str], items: Sequence[Override]) -> Sweep:
    """Return a sweep whose first jobs are checked, all its jobs' folders known and different."""
    planned = base.hydra.sweeper._target_.endswith("BasicSweeper")  # Optuna chooses its jobs on the way
    jobs = _jobs(base.hydra.sweeper.params or {}, items) if planned else [plain]
    alike: dict[tuple[str, ...], DictConfig] = {}  # one composition for jobs with the same folder's parent
    folders: dict[str, list[str]] = {}
    for rank, (number, job) in enumerate(_new_values_first(jobs)):
        naming = tuple(o for o in job if re.match(r"\+*(name|task|experiment|hydra[./].*)=", o))
        if rank < CHECKED or naming not in alike:
            alike[naming] = base if job == plain else composed(job)
        config = _checked_of_sweep(alike[naming], job, jobs) if rank < CHECKED else None
        folder, own = _folder(alike[naming], number, job)
        if folder in folders:
            first, second = " ".join(folders[folder]), " ".join(own)
            raise UserError(f"two jobs of this sweep would write to {folder}: '{first}' and '{second}'")
        folders[folder] = own
        if config is not None:
            check_surroundings(config, folder)
    launcher: Any = OmegaConf.to_container(base.hydra.launcher)
    place = Path(next(iter(folders))).parent
    return Sweep(place, base.device, launcher, folders if planned else {}, base.jobs_per_gpu)


def _checked_of_sweep(cfg: DictConfig, job: list[str], jobs: Sequence[list[str]]) -> Config:
    """Return the configuration of one of several jobs; each of its problems names the job."""
    try:
        return _checked(cfg)
    except ConfigError as error:
        where = f" (in the job {' '.join(job)})" if len(jobs) > 1 else ""
        raise ConfigError("\n".join(line + where for line in str(error).splitlines())) from None


def _jobs(params: Mapping[str, str], items: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each job, in the order and spelling of Hydra's own sweeper."""
    values: dict[str, list[str]] = {}
    for item in [*(parsed(f"{key}={value}") for key, value in params.items()), *items]:
        key = item.get_key_element()
        if not item.is_sweep_override():
            values[key] = [f"{key}={item.get_value_element_as_str()}"]
        elif item.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in item.sweep_string_iterator()]
        else:
            raise ConfigError(f"{item.input_line}: only a search (hydra/sweeper=optuna) takes an interval")
    return [list(job) for job in itertools.product(*values.values())]


def _new_values_first(jobs: Sequence[list[str]]) -> list[tuple[int, list[str]]]:
    """Return each job with its number; first those with a value that no earlier one has, to find mistakes."""
    seen: set[str] = set()
    new: list[tuple[int, list[str]]] = []
    rest: list[tuple[int, list[str]]] = []
    for number, job in enumerate(jobs):
        (rest if seen.issuperset(job) else new).append((number, job))
        seen.update(job)
    return new + rest


def _folder(cfg: DictConfig, number: int, job: Sequence[str]) -> tuple[str, list[str]]:
    """Return where Hydra will put a job of a sweep, and its overrides without those of Hydra itself."""
    own = [override for override in job if not override.startswith("hydra")]
    cfg.hydra.job.num, cfg.hydra.job.id, cfg.hydra.overrides.task = number, str(number), own
    return os.path.join(cfg.hydra.sweep.dir, cfg.hydra.sweep.subdir), own  # noqa: PTH118
