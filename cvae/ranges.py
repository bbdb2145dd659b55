"""Ranges declared by annotations, as in `Annotated[float, Gt(0), Le(1)]`: read, written out, checked."""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from typing import Annotated, Any, cast

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]
SIGNS = {Ge: (">=", operator.ge), Gt: (">", operator.gt), Le: ("<=", operator.le), Lt: ("<", operator.lt)}


@functools.cache
def fields(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, with their `Annotated` parts."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def bounds(hint: Any) -> list[tuple[str, float]]:
    """Return the bounds of an annotation, as in [(">=", 0)], or of its first alternative that has some."""
    if typing.get_origin(hint) is not Annotated:
        return next((inner for part in typing.get_args(hint) if (inner := bounds(part))), [])
    limits = [part for part in hint.__metadata__ if type(part) in SIGNS]
    return [(SIGNS[type(limit)][0], dataclasses.astuple(limit)[0]) for limit in limits]


def interval(hint: Any) -> str:
    """Return the range of an annotation as text, as in ">= 0 and < 1"; empty where there is none."""
    return " and ".join(f"{sign} {limit}" for sign, limit in bounds(hint))


class Checked:
    """Base of dataclasses that check their numbers against the declared ranges; raises ValueError."""

    def __post_init__(self) -> None:
        compare, cls = dict(SIGNS.values()), cast(type, type(self))
        wrong = [
            f"{name} must be {interval(hint)}, found {value!r}"
            for name, hint in fields(cls).items()
            if (value := getattr(self, name)) is not None
            and not all(compare[sign](value, limit) for sign, limit in bounds(hint))  # NaN fails all
        ]
        if wrong:
            raise ValueError(f"{cls.__name__}: {'; '.join(wrong)}")
