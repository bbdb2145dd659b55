"""Declared ranges: a dataclass field says what it allows, and is checked where the object is made."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Range:
    """An interval of numbers: `least` and `most` belong to it, `above` and `below` do not."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        return " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)


Count = typing.Annotated[int, Range(least=1)]


@functools.cache
def hints(cls: type) -> dict[str, typing.Any]:
    """The annotations of a dataclass's fields, with their `Annotated` parts."""
    known = typing.get_type_hints(cls, include_extras=True)
    return {field.name: known[field.name] for field in fields(cls)}


def limits(hint: typing.Any) -> Iterator[Range]:
    """The ranges in an annotation, also in that of an optional value."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from (part for part in hint.__metadata__ if isinstance(part, Range))
    else:
        for option in typing.get_args(hint):
            yield from limits(option)


def violations(cls: type, values: dict[str, typing.Any]) -> list[str]:
    """One sentence for each value outside the range its field declares."""
    found = []
    for name, hint in hints(cls).items():
        value = values.get(name)
        each = value if isinstance(value, list) else [value]
        for limit in limits(hint):
            # `not in` also refuses NaN, which compares false with every bound
            outside = [v for v in each if v is not None and v not in limit]
            found += [f"{name} must be {limit}, found {v!r}" for v in outside]
    return found


class Checked:
    """Base of dataclasses whose values are checked against their declared ranges when made."""

    def __post_init__(self) -> None:
        if found := violations(type(self), vars(self)):
            raise ValueError(f"{type(self).__name__}: {'; '.join(found)}")
