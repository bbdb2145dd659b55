"""What the command-line parsers share."""

from __future__ import annotations


def count(text: str) -> int:
    """Return a whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number
