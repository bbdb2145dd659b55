"""Reading a composed configuration into typed dataclasses, with every mistake named. Torch-free."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae.ranges import Range, hints, violations


class UserError(CompactHydraException):
    """A mistake or a circumstance the user can act on: printed as one sentence, without a traceback."""


class ConfigError(UserError):
    """The configuration is wrong; the message holds one line for each problem found."""


@dataclass(frozen=True)
class Choice:
    """Marks a field that holds one of several classes, told apart by the key `name`."""

    options: dict[str, type]


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError, with what is wrong with it, for everything that is none."""
    try:
        found = json.loads(text)
        if b"\\ud" in (text.encode() if isinstance(text, str) else text).lower():
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("lists or objects nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text has half a character in it, a surrogate without its other half") from None
    return found


def count(text: str) -> int:
    """A whole number from 1 to a million, for argparse."""
    if not 1 <= (number := int(text)) <= 1_000_000:
        raise ValueError
    return number


def flatten(container: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}; lists stay whole."""
    flat = {}
    for key, value in container.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# the largest float; a whole number may be larger, and then cannot become one
FINITE = sys.float_info.max

# stands for a value that could not be read; NaN, since it compares false with everything
UNKNOWN = float("nan")


class Reader:
    """Builds dataclasses from plain containers and collects every problem on the way."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.keys: list[str] = []

    def read(self, cls: type, composed: DictConfig | dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The plain container with its interpolations resolved, and the `cls` made from it."""
        container = self.resolved(composed, "")
        self.keys = list(flatten(container))
        return container, self.section(cls, container, "")

    def resolved(self, node: DictConfig | dict[str, Any], path: str) -> dict[str, Any]:
        """The plain dict of a node, Hydra's own part left out; UNKNOWN for what does not resolve."""
        plain = {}
        for key in node:
            if f"{path}{key}" == "hydra":
                continue
            try:
                value = node[key]
                if isinstance(value, ListConfig):
                    value = OmegaConf.to_container(value, resolve=True)
            except OmegaConfBaseException as error:
                self.problems.append(unresolved(error, f"{path}{key}"))
                value = UNKNOWN
            is_group = isinstance(value, DictConfig | dict)
            plain[str(key)] = self.resolved(value, f"{path}{key}.") if is_group else value
        return plain

    def section(
        self, cls: type, found: Any, path: str, label: str = "", options: dict[str, type] | None = None
    ) -> Any:
        """An instance of `cls`; where its values are out of range, a stand-in with the same names.

        `options` are the classes that it was chosen from.
        """
        label = label or path.rstrip(".")
        if not isinstance(found, dict):
            self.problems.append(f"{label} must be a group of keys, found {shown(found)}")
            return UNKNOWN
        kinds = {name: hint for name, hint in hints(cls).items() if name != "container"}
        for key in found:
            if key not in kinds:
                allowed = [name for name in kinds if not (path and name == "name")]
                sentence = unknown_key(f"{path}{key}", allowed, path, label, self.keys)
                if owners := [name for name, option in (options or {}).items() if key in hints(option)]:
                    group = path.rstrip(".")
                    sentence += f"; {group}={' or '.join(owners)} has it, and a run takes one {group}"
                self.problems.append(sentence)
        values, complete = {}, True
        for name, hint in kinds.items():
            before = len(self.problems)
            if name in found:
                values[name] = self.value(hint, found[name], f"{path}{name}")
            else:
                self.problems.append(f"{path}{name} is missing")
                values[name] = UNKNOWN
            complete &= len(self.problems) == before and values[name] is not UNKNOWN
        outside = violations(cls, {name: value for name, value in values.items() if value is not UNKNOWN})
        self.problems += [f"{path}{sentence}" for sentence in outside]
        return cls(**values) if complete and not outside else types.SimpleNamespace(**values)

    def choice(self, options: dict[str, type], found: Any, path: str) -> Any:
        """The class that `found["name"]` stands for, built from the other keys."""
        name = found.get("name") if isinstance(found, dict) else None
        if not isinstance(name, str) or name not in options:
            self.problems.append(f"{path}.name must be one of {listing(options)}, found {shown(name)}")
            return UNKNOWN
        cls = options[name]
        keys = found if "name" in hints(cls) else {k: v for k, v in found.items() if k != "name"}
        return self.section(cls, keys, f"{path}.", f"{path}={name}", options)

    def value(self, hint: Any, found: Any, path: str) -> Any:
        """`found` as `hint` says, or UNKNOWN with a problem recorded."""
        if found is UNKNOWN:
            return UNKNOWN
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, Choice):
                return self.choice(part.options, found, path)
        if dataclasses.is_dataclass(hint):
            return self.section(hint, found, f"{path}.")
        if not fits(hint, found):
            self.problems.append(f"{path} must be {describe(hint)}, found {shown(found)}")
            return UNKNOWN
        return float(found) if bare(hint) is float else found


def bare(hint: Any) -> Any:
    """The annotation without `Annotated`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value has the annotated type; true and false, NaN and inf are not numbers."""
    hint = bare(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(option, value) for option in typing.get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(typing.get_args(hint)[0], v) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FINITE
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """The annotation in words, with its range."""
    limit = "".join(f" {part}" for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range))
    hint = bare(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        options = typing.get_args(hint)
        return f"one of {listing(options)}" if len(options) > 1 else str(options[0])
    if origin is list:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return words.get(hint, "null") + limit


def shown(value: Any) -> str:
    """A value as the command line and YAML spell it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def unresolved(error: OmegaConfBaseException, path: str) -> str:
    """The sentence about a value that refers to what is not there."""
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", str(error).splitlines()[0])
    return f"{path} has no value: {reason}"


def listing(names: typing.Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(sorted(names))


def unknown_key(
    key: str, allowed: list[str], where: str = "", label: str = "", elsewhere: typing.Iterable[str] = ()
) -> str:
    """The sentence about a key that nobody reads; `label` names the group that starts with `where`."""
    last = key.removeprefix(where)
    same = [other for other in elsewhere if other.endswith(f".{last}") and other != key]
    close = same or [f"{where}{name}" for name in difflib.get_close_matches(last, allowed, n=1)]
    hint = f", did you mean {close[0]}?" if close else ""
    if key in ("experiment", "remedy"):
        return f"unknown key {key}: a file in conf/{key} starts with the line '# @package _global_'"
    if not allowed:
        return f"unknown key {key}{hint} ({label or where} has no keys)"
    group = f"keys of {label or where.rstrip('.')}" if where else "keys"
    return f"unknown key {key}{hint} ({group}: {listing(allowed)})"
