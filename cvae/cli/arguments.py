"""What the command-line parsers share."""

from __future__ import annotations


def count(text: str) -> int:
    """Return a whole number from 1 to a million, for argparse."""
    if not 1 <= (number := int(text)) <= 1_000_000:
        raise ValueError
    return number
