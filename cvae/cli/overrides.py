"""What is typed as `key=value`: quoted where Hydra needs it, and as the name of the run's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cvae.config.schema import NOT_IDENTITY
from cvae.errors import UserError, in_a_line
from cvae.io import located

LONGEST_SLUG = 120
# keys whose values are paths, in which brackets, quotes and equal signs are ordinary characters
PATHS = {"dataset.path", "dataset.tokenizer", "init_from", "continue_from"}
PATHS |= {"model.decoder", "model.encoder", "model.vectors", "task.vectors", "task.references"}
# what a run does not hand on to the one that continues it, and how long either is to be
LEFT_BEHIND = {"continue_from", "continue_beta", "continue_lr", "init_from", "reset_decoder"}
LEFT_BEHIND |= {"overwrite", "train.stop_after"}
LENGTH = {"train.steps", "train.epochs"}
FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


def slug(overrides: Sequence[str]) -> str:
    """Return the name of a run's folder: its overrides in [A-Za-z0-9._-], or `default` where there are none.

    They are sorted, with groups and the seed before dotted keys, since viewers cut long names at the end.
    What is no part of a run's identity is left out, and `experiment` unless `name` is given.
    """
    values: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        is_list = value.startswith("[") and value.endswith("]")
        value = (value[1:-1] or "none") if is_list else value
        values[key.lstrip("+~")] = ",".join(map(_as_swept, value.split(",")))
    left_out = set(NOT_IDENTITY) | (set() if "name" in values else {"experiment"})
    ranked = sorted(values.items(), key=lambda item: ("." in item[0], item))
    parts = [f"{key}-{value}" for key, value in ranked if key not in left_out]
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts)).strip("-.") or "default"
    if len(text) <= LONGEST_SLUG:
        return text
    import hashlib

    return f"{text[:LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _as_swept(value: str) -> str:
    """Return 2e-3 as 0.002, which it is in a sweep: a run has one folder, however its number is typed."""
    return repr(float(value)) if FLOAT.fullmatch(value) else value


def continued(arguments: Sequence[str]) -> list[str]:
    """Return a command line with `continue_from` behind the overrides of the run that it names.

    Left out are those that the command gives itself, and where and for how long that run went.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if not argument.startswith("-"))
    path = located(given.get("continue_from", "").strip("'\"")) / ".hydra" / "overrides.yaml"
    if "continue_from" not in given or not path.is_file():
        return list(arguments)
    try:
        earlier = [str(override) for override in OmegaConf.load(path)]
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise UserError(f"{path} is no list of overrides: {in_a_line(error)}") from None
    keys = {override: override.partition("=")[0].lstrip("+~") for override in earlier}
    own = {key.lstrip("+~") for key in given}
    own |= LEFT_BEHIND | (LENGTH if LENGTH & own else set())
    kept = [override for override, key in keys.items() if key not in own and not key.startswith("hydra")]
    if "init_from" in keys.values():  # remedy=[pretrained] sets it
        kept.append("reset_decoder=false")
    return [*kept, *arguments]


def quoted(argument: str) -> str:
    """Return `key=~/Räume` as `key="~/Räume"`: Hydra's grammar takes many characters in quotes only.

    What Hydra can read stays as it is. Otherwise the parts of the value between commas and brackets that it
    cannot read are quoted; of a path, the parts between commas. An argument that stays unreadable is returned
    as typed, to be refused.
    """
    key, sign, value = argument.partition("=")
    if not sign or argument.startswith("-") or _readable(argument):
        return argument
    for marks in (r"[,\[\]{}()]", ",") if key.lstrip("+") in PATHS else (r"[,\[\]{}()]",):
        parts = re.split(f"({QUOTED}|{marks})", value)
        parts[::2] = [_part(key.lstrip("+"), part) for part in parts[::2]]
        if _readable(candidate := f"{key}={''.join(parts)}"):
            return candidate
    return argument


def _part(key: str, part: str) -> str:
    """Return a part of a value, in quotes where Hydra needs them.

    Paths of Hydra's own keys are not expanded later, so `~` is replaced here.
    """
    text = part.strip()
    if not text or _readable(f"key={text}") or (key not in PATHS and re.search(r"""['"\\=$]""", text)):
        return part
    text = str(Path(text).expanduser()) if key.startswith("hydra.") else text
    return QuotedString(text, Quote.double).with_quotes()


def _readable(argument: str) -> bool:
    """Return whether Hydra's grammar has such an override."""
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


OmegaConf.register_new_resolver("cvae.data", lambda: os.environ.get("CVAE_DATA") or "data", replace=True)
OmegaConf.register_new_resolver("cvae.slug", lambda overrides: slug(list(overrides)), replace=True)
