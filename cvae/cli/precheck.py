"""The command line before Hydra acts on it: every job composed and checked, mistakes in one sentence.

Hydra composes, creates folders and then calls `main`; its own messages for typos run over several lines
and its folders stay behind. So `check` composes the same jobs first, without side effects.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hydra import compose, version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvae.cli.help import GROUPS, help_text
from cvae.config.load import load
from cvae.config.messages import listing, unknown_key, unresolved
from cvae.config.schema import Config, Files
from cvae.errors import ConfigError, UserError
from cvae.runs.compatibility import refuse_as_source, refuse_other_run
from cvae.runs.folder import RunFolder, refuse_impossible
from cvae.runs.sweeps import Sweep

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

CHECKED = 40  # jobs of a sweep composed before it starts, a tenth of a second each; main checks the others


def check(arguments: Sequence[str], conf: Path) -> Sweep | None:
    """Composes and loads every job of a command; prints what is wrong with it and exits with 1.

    Nothing is created, and a folder that holds another run is refused before Hydra touches it. Returns the
    sweep that the command asks for, if it does.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    args = parser.parse_args(list(arguments))
    if args.help:
        print(help_text(conf), end="")
        sys.exit(0)
    if args.hydra_help or args.shell_completion:
        return None
    try:
        _check_flags(args)
        with _composing(conf, args):
            try:
                return _check_jobs(args)
            except UserError:
                raise
            except (HydraException, OmegaConfBaseException, YAMLError) as error:
                raise UserError(sentence(error)) from None
    except UserError as error:
        sys.exit(str(error))


def _refuse_flag(message: str) -> NoReturn:
    """Ends the program with what argparse says, without its usage of ten lines."""
    sys.exit(
        f"{message}; keys are set as key=value, without dashes and all on one side of the flags,"
        " which --hydra-help lists"
    )


def _check_flags(args: Namespace) -> None:
    """Raises UserError for flags that do not go together, where Hydra would show a traceback."""
    modes = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    given = [flag for flag, value in modes.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} cannot be combined: give one of {', '.join(modes)}")
    if (args.resolve or args.package) and not (args.cfg or args.help):
        raise UserError(f"{'--resolve' if args.resolve else '--package'} goes with --cfg only")
    if args.experimental_rerun:
        raise UserError(
            "--experimental-rerun is not supported: a run's own command, given again, continues it"
        )


@contextlib.contextmanager
def _composing(conf: Path, args: Namespace) -> Iterator[None]:
    """Hydra set up for `compose` as its own main will be: the same folders in the same order."""
    if args.config_path:
        conf = conf.parent / args.config_path
    for flag, folder in {"--config-path": conf, "--config-dir": Path(args.config_dir or conf)}.items():
        if not folder.is_dir():
            raise UserError(f"{flag} must be a folder of configurations, found no folder {folder}")
    search_path = create_config_search_path(str(conf.resolve()))
    if args.config_dir:
        extra = f"file://{Path(args.config_dir).resolve()}"
        search_path.prepend("command-line", extra, SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    Hydra.create_main_hydra2("train", search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _check_jobs(args: Namespace) -> Sweep | None:
    """Raises what is wrong with the first wrong job: all its problems together."""
    name = args.config_name or "config"
    seen: dict[str, str] = {}
    parsed = [_parsed(override) for override in args.overrides]
    plain = [o.input_line for o in parsed if not o.is_sweep_override()]
    base = _compose(name, plain)
    base.hydra.job.num, base.hydra.job.id = 0, "0"
    jobs = _jobs(base.hydra, parsed, args.multirun)
    for number, job in enumerate(jobs[:CHECKED]):
        cfg = base if job == plain else _compose(name, job)
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        try:
            config = load(cfg)
            _refuse_nameless(cfg)
        except ConfigError as error:
            if len(jobs) == 1:
                raise
            where = f" (in the job {' '.join(job)})\n"
            raise ConfigError(where.join([*str(error).splitlines(), ""]).rstrip()) from None
        if not (args.cfg or args.info):
            _check_surroundings(config, _output_dir(cfg, args.multirun), seen, " ".join(job))
    if args.cfg or args.info or not (args.multirun or base.hydra.mode == RunMode.MULTIRUN):
        return None
    known = dict(_folders(name, jobs)) if _is_planned(base.hydra) else {}
    place, launcher = Path(_output_dir(base, True)).parent, OmegaConf.to_container(base.hydra.launcher)
    return Sweep(place, base.device, launcher, known, base.jobs_per_gpu)


def _folders(name: str, jobs: list[list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Each job of a sweep by its folder, composed once for all that differ in nothing that names a folder."""
    alike: dict[tuple[str, ...], DictConfig] = {}
    for number, job in enumerate(jobs):
        naming = tuple(o for o in job if re.match(r"\+*(name|task|experiment|hydra[./].*)=", o))
        if naming not in alike:
            alike[naming] = _compose(name, job)
        cfg = alike[naming]
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        cfg.hydra.overrides.task = overrides = [o for o in job if not o.startswith("hydra")]
        yield _output_dir(cfg, True), overrides


def _refuse_nameless(cfg: DictConfig) -> None:
    """An experiment without a name would write to the folder of the plain run."""
    choice = cfg.hydra.runtime.choices.get("experiment")
    if choice and OmegaConf.is_interpolation(cfg, "name"):
        raise ConfigError(f"experiment={choice} sets no name: give its file a line such as name: {choice}")


def _jobs(hydra: DictConfig, parsed: list[Override], multirun: bool) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper will spell them."""
    if not (multirun or hydra.mode == RunMode.MULTIRUN):
        _refuse_sweep(parsed)
        return [[o.input_line for o in parsed]]
    if not _is_planned(hydra):
        return [[o.input_line for o in parsed if not o.is_sweep_override()]]
    swept = [_parsed(f"{key}={value}") for key, value in (hydra.sweeper.params or {}).items()]
    return _new_values_first(BasicSweeper.split_arguments([*swept, *parsed], None)[0])


def _is_planned(hydra: DictConfig) -> bool:
    """Whether the sweeper knows all jobs at the start, as Hydra's own does; Optuna chooses on the way."""
    return hydra.sweeper._target_.endswith("BasicSweeper")


def _new_values_first(jobs: list[list[str]]) -> list[list[str]]:
    """Jobs in which a value appears for the first time come first: a wrong value is soon found."""
    seen: set[str] = set()
    new, rest = [], []
    for job in jobs:
        (rest if seen.issuperset(job) else new).append(job)
        seen.update(job)
    return new + rest


def _parsed(override: str) -> Override:
    """Hydra's reading of `key=value`."""
    try:
        parsed = OverridesParser.create(_loader()).parse_override(override)
    except HydraException:
        parsed = None
    if parsed is not None and parsed.key_or_group:
        return parsed
    if "=" not in override.strip("="):
        raise ConfigError(f"'{override}' sets nothing: write key=value, without spaces around the =")
    raise ConfigError(
        f"{override} cannot be read: write key=value, close brackets and quotes, and put a value with"
        " special characters in quotes inside quotes, as in name='\"a=b\"'"
    )


def _refuse_misuse(parsed: Override) -> None:
    """What Hydra would take, or refuse in words of its own, where a group has one choice per run."""
    group, value, line = parsed.key_or_group, parsed.value(), parsed.input_line
    parent, _, last = group.rpartition(".")
    if last == "name" and parent in GROUPS:
        raise ConfigError(f"{line}: {parent} is chosen with {parent}=…, one of {listing(_choices(parent))}")
    if group not in GROUPS or parsed.is_delete() or isinstance(value, dict):
        return
    allowed = f"{group} is one of {listing(_choices(group))}"
    if parsed.is_add() or parsed.is_force_add():
        raise ConfigError(f"{line}: {group} is chosen without a +; {allowed}")
    if isinstance(value, list) and group != "remedy":
        raise ConfigError(f"{line}: a run takes one choice, not a list; {allowed}")
    if not isinstance(value, list | str) and not parsed.is_sweep_override():
        raise ConfigError(f"{line}: no such choice, {allowed}")


def _refuse_sweep(parsed: Sequence[Override]) -> None:
    """Several values for one key are a sweep, and a sweep has to be asked for."""
    if swept := [o.input_line for o in parsed if o.is_sweep_override()]:
        raise ConfigError(
            f"{swept[0]} lists several values: add -m to run one job for each,"
            " or write the values in brackets for a list"
        )


def _compose(name: str, overrides: list[str]) -> DictConfig:
    """Hydra's composition; an unknown key is left for `load`, which knows the allowed ones."""
    for override in overrides:
        _refuse_misuse(_parsed(override))
    try:
        return compose(name, overrides, return_hydra_config=True)
    except MissingConfigException:
        raise
    except HydraException as error:
        try:
            forced = compose(name, [_forced(o) for o in overrides], return_hydra_config=True)
        except HydraException:
            raise error  # noqa: B904  its cause is part of the message
        load(forced)
        if found := re.match(r"Could not override '(hydra\.[^']+)'", str(error)):
            where, _, last = found[1].rpartition(".")
            allowed = [key for key in OmegaConf.select(forced, where) if key != last]
            raise ConfigError(unknown_key(found[1], allowed, f"{where}.")) from None
        raise
    except (AssertionError, TypeError, ValueError) as error:  # Hydra's own slips over odd overrides
        raise ConfigError(f"{' '.join(overrides)}: Hydra cannot compose this: {error}") from None


def _forced(override: str) -> str:
    """`key=value` as `++key=value`, which Hydra takes whether or not it knows the key."""
    parsed = _parsed(override)
    changes = not (parsed.is_add() or parsed.is_force_add() or parsed.is_delete())
    is_choice = _choices(parsed.key_or_group) and not isinstance(parsed.value(), dict)
    return f"++{override}" if changes and not is_choice else override


def _choices(group: str) -> list[str]:
    """What a config group offers, with what lies in folders below it."""
    loader = _loader()
    below = [f"{sub}/{choice}" for sub in loader.list_groups(group) for choice in _choices(f"{group}/{sub}")]
    return [*loader.get_group_options(group), *below]


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
    if not folder:
        raise UserError("hydra.run.dir must name the folder of the run, found nothing")
    if folder in seen:
        raise UserError(f"two jobs of this sweep would write to {folder}: '{seen[folder]}' and '{job}'")
    seen[folder] = job
    run = RunFolder(folder)
    refuse_other_run(run, config)
    refuse_impossible(run)
    if run.finished and not config.overwrite:  # says so without its data, too
        return
    if isinstance(config.dataset, Files):
        config.dataset.refuse_missing()
    if config.init_from is not None:
        refuse_as_source(RunFolder(config.source), config)


def sentence(error: Exception) -> str:
    """An error as the user should read it: what was found and what is allowed, without Hydra's advice."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = str(error.missing_cfg_file)
        group, _, choice = missing.partition("/")
        if group not in GROUPS:
            group, _, choice = missing.rpartition("/")
        if not group:
            names = [name for name in _loader().get_group_options("") if not name.startswith("_")]
            return f"--config-name {choice}: no such configuration, it is one of {listing(names)}"
        if options := _choices(group):
            return f"{group}={choice}: no such choice, {group} is one of {listing(options)}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return unresolved(error, error.full_key)
    cause = str(error.__cause__ or "").strip()
    text = f"{error}: {cause}" if cause else str(error)
    text = re.sub(r"\w+ raised while composing config:\s*", "", text)
    lines = [line.strip() for line in text.splitlines()]
    noise = ("See ", "To append ", "Config search", "provider=", "full_key", "object_type", "reference_type")
    told = " ".join(line for line in lines if line and not line.startswith(noise)).rstrip(".")
    told = told.replace("No match in the defaults list", "Nothing of that name is chosen")
    unmatched = "Nothing of that name" in told or "Could not find" in told
    return f"{told}; the groups are {listing(GROUPS)}" if unmatched else told
