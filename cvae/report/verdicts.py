"""The rules that judge a check: a score from numbers, and a verdict from the scores of a claim's checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from cvae.report.formats import Cell

RULES = """\
> and <: the difference of the two means, divided by the larger of two pooled standard deviations over seeds
and the margin, where one is stated: from 1 on the check holds, from 1/2 on partly. With one seed a side and
no margin only the direction is known, and the check holds partly at best. ≯: the opposite of >. ≈: the means
differ by at most the margin; partly, by at most twice the margin. Below a number: the mean plus one standard
deviation is; partly, the mean alone. In settings: the check holds in every setting that has both sides, and
in at least 5; partly, in more than half; with a margin, a setting where it holds partly does not count. A
claim does not hold here if a main check fails; it holds if every check holds, with at least 3 seeds a side;
otherwise it holds partly. d is the difference in pooled standard deviations."""
SYMBOLS = {"more": ">", "less": "<", "not more": "≯", "same": "≈", "below": "<"}
MARKS = {1.0: "✓", 0.5: "~", 0.0: "✗", None: "missing"}
WORDS = {1.0: "holds", 0.5: "holds partly", 0.0: "does not hold here", None: "missing"}
MIN_SETTINGS = 5  # fewer agree by chance more often than once in 2^5
MIN_SEEDS = 3  # a side, for a claim to hold


class Outcome(NamedTuple):
    """Numbers and effect of a check, its score (1 holds, 1/2 partly, 0 fails, None: no runs), its seeds."""

    found: str
    effect: str
    score: float | None
    seeds: int = 0


def pooled_std(left: Cell, right: Cell) -> float | None:
    """Return the pooled sample standard deviation, None for one seed a side."""
    freedom = len(left.values) + len(right.values) - 2
    squares = sum((len(cell.values) - 1) * cell.std * cell.std for cell in (left, right))
    return math.sqrt(squares / freedom) if freedom else None


def compare(rule: str, difference: float, spread: float | None, margin: float | None) -> float:
    """Return the score of a difference of means, given their pooled standard deviation: see RULES."""
    if rule == "same":
        limit = margin or 0.0
        return 1.0 if abs(difference) <= limit else 0.5 if abs(difference) <= 2 * limit else 0.0
    gain = -difference if rule == "less" else difference
    if spread is None and margin is None:
        return 0.5 if (gain > 0) == (rule != "not more") else 0.0
    if rule == "not more":
        return 1.0 - compare("more", difference, spread, margin)
    unit = max(2 * (spread or 0.0), margin or 0.0)
    if unit == 0:
        return float(gain > 0)
    return 1.0 if gain >= unit else 0.5 if gain >= unit / 2 else 0.0


def below(cell: Cell, bound: float) -> float:
    """Return 1 where the mean plus one standard deviation is below a bound, 1/2 where the mean is, else 0."""
    return 1.0 if cell.mean + cell.std < bound else 0.5 if cell.mean < bound else 0.0


def agrees(score: float, margin: float | None) -> bool:
    """Return whether a check holds where the direction is enough: with a margin it must hold entirely."""
    return score >= (0.5 if margin is None else 1.0)


def across_settings(scores: Sequence[float], margin: float | None) -> tuple[int, float | None]:
    """Return in how many settings a check holds, and its score over all of them."""
    holding = sum(agrees(score, margin) for score in scores)
    if not scores:
        return 0, None
    if holding == len(scores) >= MIN_SETTINGS:
        return holding, 1.0
    return holding, 0.5 if 2 * holding > len(scores) else 0.0


def verdict(outcomes: Sequence[Outcome], main: Sequence[bool]) -> str:
    """Return the verdict on a claim, from its checks and which of them are main ones: see RULES."""
    measured = [outcome for outcome in outcomes if outcome.score is not None]
    if not measured:
        return WORDS[None]
    seeds = min(outcome.seeds for outcome in measured)
    if any(outcome.score == 0 and is_main for outcome, is_main in zip(outcomes, main, strict=True)):
        score = 0.0
    else:
        score = 1.0 if all(outcome.score == 1 for outcome in outcomes) and seeds >= MIN_SEEDS else 0.5
    remarks = ["one seed" if seeds == 1 else f"{seeds} seeds"] if seeds < MIN_SEEDS else []
    remarks += [f"{len(measured)} of {len(outcomes)} measured"] if len(measured) < len(outcomes) else []
    return f"{WORDS[score]} ({', '.join(remarks)})" if remarks else WORDS[score]
