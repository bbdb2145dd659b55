"""Ranges that annotations declare, as in `Annotated[float, Gt(0), Le(1)]`: read, written out and checked."""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
SIGNS = {Ge: (">=", operator.ge), Gt: (">", operator.gt), Le: ("<=", operator.le), Lt: ("<", operator.lt)}


@functools.cache
def fields(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, with their `Annotated` parts."""
    known = typing.get_type_hints(cls, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(cls)}


def bounds(hint: Any) -> list[tuple[str, float]]:
    """Return the bounds of an annotation, or of the one of its alternatives that has some: [(">=", 0)]."""
    found = [part for part in getattr(hint, "__metadata__", ()) if type(part) in SIGNS]
    if not found and typing.get_origin(hint) is not Annotated:
        return next((inner for part in typing.get_args(hint) if (inner := bounds(part))), [])
    return [(SIGNS[type(part)][0], dataclasses.astuple(part)[0]) for part in found]


def interval(hint: Any) -> str:
    """Return the range of an annotation as text, as in ">= 0 and < 1"; empty where there is none."""
    return " and ".join(f"{sign} {limit}" for sign, limit in bounds(hint))


class Checked:
    """Base of dataclasses whose numbers are checked against their ranges when made; raises ValueError."""

    def __post_init__(self) -> None:
        compare = dict(SIGNS.values())
        wrong = [
            f"{name} must be {interval(hint)}, found {value!r}"
            for name, hint in fields(type(self)).items()
            if (value := getattr(self, name)) is not None
            and not all(compare[sign](value, limit) for sign, limit in bounds(hint))  # NaN fails all
        ]
        if wrong:
            raise ValueError(f"{type(self).__name__}: {'; '.join(wrong)}")
