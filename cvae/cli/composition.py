"""Hydra's composition of one job, with every mistake in one sentence instead of Hydra's several lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvae.cli import overrides  # noqa: F401  registers the resolvers of conf/config.yaml
from cvae.cli.help import GROUPS
from cvae.config.load import load
from cvae.config.messages import listing, unknown_key, unresolved
from cvae.errors import ConfigError, UserError
from cvae.program import CONF

ADVICE = ("See ", "To append ", "Config search", "provider=", "full_key", "object_type", "reference_type")


class ConfigDir(SearchPathPlugin):
    """Where --config-dir stands in Hydra's search path: after conf/."""

    folder: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if there is one."""
        if self.folder is not None:
            search_path.append("command-line", f"file://{self.folder}")


@contextlib.contextmanager
def composing(config_dir: Path | None = None) -> Iterator[None]:
    """Set Hydra up for `composed`. Raises UserError for whatever Hydra or OmegaConf refuses."""
    Plugins.instance().register(ConfigDir)
    ConfigDir.folder = config_dir
    try:
        with initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
            try:
                yield
            except UserError:
                raise
            except (HydraException, OmegaConfBaseException, YAMLError) as error:
                raise UserError(sentence(error)) from None
    finally:
        ConfigDir.folder = None


def composed(job: list[str]) -> DictConfig:
    """Return what Hydra composes from the overrides of one job, its own node included.

    An unknown key is left for `load`, which knows the allowed ones.
    """
    for override in job:
        _refuse_misuse(parsed(override))
    try:
        return compose("config", job, return_hydra_config=True)
    except MissingConfigException:
        raise
    except HydraException as error:
        _refuse_unknown(job, str(error))
        raise
    except (AssertionError, AttributeError, RecursionError, TypeError, ValueError) as error:  # Hydra's slips
        raise ConfigError(f"{' '.join(job)}: Hydra cannot compose this: {error}") from None


def _refuse_unknown(job: list[str], message: str) -> None:
    """Raise ConfigError where overrides that Hydra refuses name unknown keys."""
    try:
        forced = compose("config", [_forced(override) for override in job], return_hydra_config=True)
    except HydraException:
        return
    load(forced)
    if refused := re.match(r"Could not override '((?!hydra\.)[^']+)'", message):
        group = refused[1].partition(".")[0]
        file = f"the file of the chosen {group} in conf/{group}" if group in GROUPS else "conf/config.yaml"
        raise ConfigError(f"{refused[1]} cannot be set: {file} has no line for it, with its default")
    if refused := re.match(r"Could not override '(hydra\.[^']+)'", message):
        group, _, last = refused[1].rpartition(".")
        allowed = [key for key in OmegaConf.select(forced, group) if key != last]
        raise ConfigError(unknown_key(refused[1], allowed, f"{group}."))


def _forced(override: str) -> str:
    """Return `key=value` as `++key=value`, which Hydra takes whether or not it knows the key."""
    item = parsed(override)
    sets_value = not (item.is_add() or item.is_force_add() or item.is_delete())
    is_choice = choices(item.key_or_group) and not isinstance(item.value(), dict)
    return f"++{override}" if sets_value and not is_choice else override


def parsed(override: str) -> Override:
    """Return Hydra's reading of `key=value`. Raises ConfigError where it has none."""
    item = None
    with contextlib.suppress(HydraException):
        item = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_override(override)
    if item is not None and item.key_or_group:
        return item
    if "=" not in override.strip("="):
        raise ConfigError(f"'{override}' sets nothing: write key=value, without spaces around the =")
    raise ConfigError(
        f"{override} cannot be read: write key=value, close brackets and quotes, and put a value with"
        " special characters in quotes inside quotes, as in name='\"a=b\"'"
    )


def _refuse_misuse(item: Override) -> None:
    """Raise ConfigError where a group, which has one choice per run, is given anything else."""
    group, value, line = item.key_or_group, item.value(), item.input_line
    parent, _, last = group.rpartition(".")
    if last == "name" and parent in GROUPS:
        raise ConfigError(f"{line}: {parent} is chosen with {parent}=…, one of {listing(choices(parent))}")
    if group not in GROUPS or item.is_delete() or isinstance(value, dict):
        return
    allowed = f"{group} is one of {listing(choices(group))}"
    if item.is_add() or item.is_force_add():
        raise ConfigError(f"{line}: {group} is chosen without a +; {allowed}")
    if isinstance(value, list) and group != "remedy":
        raise ConfigError(f"{line}: a run takes one choice, not a list; {allowed}")
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names) and not item.is_sweep_override():
        raise ConfigError(f"{line}: no such choice, {allowed}")


def choices(group: str) -> list[str]:
    """Return what a config group offers, including the files in folders below it."""
    loader = GlobalHydra.instance().config_loader()
    below = [f"{sub}/{choice}" for sub in loader.list_groups(group) for choice in choices(f"{group}/{sub}")]
    return [*loader.get_group_options(group), *below]


def sentence(error: Exception) -> str:
    """Return an error of Hydra or OmegaConf as the user should read it: what is wrong and what is allowed."""
    if isinstance(error, MissingConfigException):
        missing = str(error.missing_cfg_file)
        group, _, choice = missing.partition("/")
        if group not in GROUPS:
            group, _, choice = missing.rpartition("/")
        if group and (allowed := choices(group)):
            return f"{group}={choice}: no such choice, {group} is one of {listing(allowed)}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return unresolved(error, error.full_key)
    cause = str(error.__cause__ or "").strip()
    text = re.sub(r"\w+ raised while composing config:\s*", "", f"{error}: {cause}" if cause else str(error))
    lines = [line.strip() for line in text.splitlines()]
    kept = " ".join(line for line in lines if line and not line.startswith(ADVICE)).rstrip(".")
    kept = kept.replace("No match in the defaults list", "Nothing of that name is chosen")
    unmatched = "Nothing of that name" in kept or "Could not find" in kept
    return f"{kept}; the groups are {listing(GROUPS)}" if unmatched else kept
