"""From what Hydra composed to a checked `Config`; every mistake gets a sentence of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from cvae.config.messages import describe, listing, number, shown, unknown_key, unresolved
from cvae.config.rules import contradictions
from cvae.config.schema import NOT_IDENTITY, Config, options
from cvae.errors import ConfigError
from cvae.ranges import fields

OUT_OF_RANGE = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")  # pydantic's names


@cache
def _adapter() -> TypeAdapter[Config]:
    """Return pydantic's validator of a whole run; building it takes time."""
    return TypeAdapter(Config)


def load(composed: DictConfig | dict[str, Any]) -> Config:
    """Return the typed, frozen configuration.

    Raises ConfigError with one line for each unknown key, wrong type, value out of range and
    contradictory combination.
    """
    unresolved_keys: dict[str, str] = {}
    container = resolve(composed, unresolved_keys)
    problems, config = dict(unresolved_keys), None
    try:
        # as JSON, since pydantic's strict mode makes dataclasses from nothing else
        config = _adapter().validate_json(json.dumps(container, default=str))
    except ValidationError as error:
        for key, sentence in _sentences(error, container):
            problems.setdefault(key, sentence)
    unreadable = tuple(f"{key}." for key in problems)
    readable = {key: v for key, v in flatten(container).items() if not f"{key}.".startswith(unreadable)}
    sentences = [*problems.values(), *contradictions(readable)]
    if sentences or config is None:
        raise ConfigError("\n".join(sentences))
    return config


def resolve(node: Mapping[Any, Any], problems: dict[str, str], path: str = "") -> dict[str, Any]:
    """Return a node as nested dicts, without Hydra's own part.

    A key that does not resolve becomes null, and `problems` gets a sentence about it.
    """
    plain = {}
    for key in node:
        where = f"{path}{key}"
        if where == "hydra":
            continue
        try:
            value = node[key]
            if isinstance(value, ListConfig):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            problems[where] = unresolved(error, where)
            value = None
        is_group = isinstance(value, DictConfig | dict)
        plain[str(key)] = resolve(value, problems, f"{where}.") if is_group else value
    return plain


def flatten(container: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}; lists stay whole."""
    flat = {}
    for key, value in container.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def completed(section: dict[str, Any], cls: Any = Config) -> dict[str, Any]:
    """Return a recorded configuration, or its section `cls`, with the defaults of keys newer than its run."""
    filled = dict(section)
    for field in dataclasses.fields(cls):
        default = field.default
        if field.name not in filled and default is not dataclasses.MISSING:
            filled[field.name] = dict(vars(default)) if dataclasses.is_dataclass(default) else default
        value, hint = filled.get(field.name), fields(cls)[field.name]
        if isinstance(value, dict):
            kind = options(hint).get(str(value.get("name")), hint)  # whatever a damaged record has there
            filled[field.name] = completed(value, kind) if dataclasses.is_dataclass(kind) else value
    return filled


def identity(container: dict[str, Any]) -> dict[str, Any]:
    """Return the flat keys and values that make a run what it is."""
    return {key: value for key, value in flatten(completed(container)).items() if key not in NOT_IDENTITY}


def _sentences(error: ValidationError, container: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (flat key, sentence) for each problem, group by group: unknown keys first, ranges last."""
    order = [field.name for field in dataclasses.fields(Config)]
    keys = list(flatten(container))

    def rank(details: Any) -> tuple[int, int]:
        unknown = details["type"] == "unexpected_keyword_argument"
        kind = 0 if unknown else 1 + (details["type"] in OUT_OF_RANGE)
        top = details["loc"][0] if details["loc"] else ""
        place = order.index(top) if top in order else -1
        return place, kind

    for details in sorted(error.errors(), key=rank):
        yield _sentence(details, container, keys)


def _sentence(details: Any, container: dict[str, Any], keys: list[str]) -> tuple[str, str]:
    """Return the flat key and the sentence of one of pydantic's errors."""
    cls: Any = Config
    hint: Any = Config
    value: Any = container
    path, label, siblings = "", "", {}
    for part in details["loc"]:
        if part in (choices := options(hint)):  # the name by which pydantic chose a group's class
            hint = cls = choices[part]
            label, siblings = f"{path}={part}", choices
        elif isinstance(part, str) and part in fields(cls):
            path, hint = f"{path}.{part}".lstrip("."), fields(cls)[part]
            value = value.get(part) if isinstance(value, dict) else None
            if dataclasses.is_dataclass(hint):
                cls, label, siblings = hint, path, {}
        elif isinstance(part, str):
            key = f"{path}.{part}".lstrip(".")
            return key, _unknown(key, cls, path, label, siblings, keys)
    if details["type"] == "missing":
        return path, f"{path} is missing"
    if details["type"] in OUT_OF_RANGE:
        kind, limits = number(hint)
        return path, f"{path} must be {limits}, found {kind(details['input'])!r}"
    if choices := options(hint):
        name = value.get("name") if isinstance(value, dict) else None
        return path, f"{path}.name must be one of {listing(choices)}, found {shown(name)}"
    return path, f"{path} must be {describe(hint)}, found {shown(value)}"


def _unknown(key: str, cls: type, path: str, label: str, siblings: dict[str, type], keys: list[str]) -> str:
    """Return the sentence about a key that a group lacks, with the siblings that have it."""
    prefix = f"{path}." if path else ""
    allowed = [name for name in fields(cls) if not (path and name == "name")]
    sentence = unknown_key(key, allowed, prefix, label, keys)
    last = key.removeprefix(prefix)
    if owners := [name for name, option in siblings.items() if last in fields(option)]:
        sentence += f"; {path}={' or '.join(owners)} has it, and a run takes one {path}"
    return sentence
