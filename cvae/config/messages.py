"""Words of error messages: what a key allows, what was found, and what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from omegaconf.errors import OmegaConfBaseException

from cvae.ranges import interval

TYPE_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}


def bare(hint: Any) -> Any:
    """Return the annotation without `Annotated`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the parts of a union, or the annotation alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def number(hint: Any) -> tuple[type, str]:
    """Return the type and the range of the numbers in an annotation, as in (float, "> 0")."""
    hint = _alternatives(hint)[0]
    if typing.get_origin(bare(hint)) is list:
        hint = typing.get_args(bare(hint))[0]
    return bare(hint), interval(hint)


def describe(hint: Any) -> str:
    """Return an annotation in words, with its range."""
    if len(parts := _alternatives(hint)) > 1:
        return " or ".join(describe(part) for part in parts)
    limits, hint = "" if typing.get_origin(bare(hint)) is list else interval(hint), bare(hint)
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        return f"one of {listing(allowed)}" if len(allowed) > 1 else str(allowed[0])
    if typing.get_origin(hint) is list:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint):
        return "a group of keys"
    return f"{TYPE_WORDS.get(hint, 'null')} {limits}".rstrip()


def shown(value: Any) -> str:
    """Return a value as the command line and YAML spell it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def listing(names: Iterable[str]) -> str:
    """Return names as part of a sentence, sorted."""
    return ", ".join(sorted(names))


def unresolved(error: OmegaConfBaseException, key: str) -> str:
    """Return the sentence about a value whose interpolation does not resolve."""
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", str(error).splitlines()[0])
    return f"{key} has no value: {reason}"


def unknown_key(
    key: str, allowed: list[str], where: str = "", label: str = "", elsewhere: Iterable[str] = ()
) -> str:
    """Return the sentence about an unknown key; `label` names the group whose keys start with `where`."""
    last = key.removeprefix(where)
    same = [other for other in elsewhere if other.endswith(f".{last}") and other != key]
    close = same or [f"{where}{name}" for name in difflib.get_close_matches(last, allowed, n=1)]
    hint = f", did you mean {close[0]}?" if close else ""
    if key in ("experiment", "remedy"):
        return f"unknown key {key}: a file in conf/{key} starts with the line '# @package _global_'"
    if not allowed:
        return f"unknown key {key}{hint} ({label or where.rstrip('.')} has no keys)"
    group = f"keys of {label or where.rstrip('.')}" if where else "keys"
    return f"unknown key {key}{hint} ({group}: {listing(allowed)})"
