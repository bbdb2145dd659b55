"""A table of texts and of means over seeds, and how it is printed: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import functools
import io
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HUGE = 1e9  # means from here on are printed with a power of ten
LATEX = {mark: rf"\{mark}" for mark in "%&#_${}"} | {
    **{"\\": r"\textbackslash{}", "^": r"\^{}", "†": r"\dag{}", "–": "--", "~": r"$\sim$", "β": r"$\beta$"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "∞": r"$\infty$", "≯": r"$\not>$", "≈": r"$\approx$"},
    **{"✓": r"$\checkmark$", "✗": r"$\times$"},
}


@dataclass(frozen=True)
class Cell:
    """The values of one measure over the seeds of a row, none where no run has it.

    `best` prints it in bold; `mark` refers to a note and is printed behind the value.
    """

    values: tuple[float, ...]
    best: bool = False
    mark: str = ""

    @property
    def mean(self) -> float:
        total = functools.reduce(operator.add, self.values)  # sum() rounds otherwise from Python 3.12 on
        return total / len(self.values)

    @property
    def std(self) -> float:
        """The sample standard deviation, 0 for one value, computed without squares that may overflow."""
        n = len(self.values)
        return math.dist(self.values, [self.mean] * n) / math.sqrt(n - 1) if n > 1 else 0.0

    @property
    def rounded(self) -> str:
        """The mean as it is printed, empty without values."""
        return self._rounded(self.mean) if self.values else ""

    def _rounded(self, number: float) -> str:
        """Return a number with as many digits as the mean."""
        if math.isinf(number):
            return "∞"
        if abs(self.mean) >= HUGE:
            return f"{number:.2e}"
        digits = 1 if abs(self.mean) >= 100 else 2
        return f"{round(number, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.0

    def __str__(self) -> str:
        spread = f" ± {self._rounded(self.std)}" if len(self.values) > 1 and math.isfinite(self.mean) else ""
        return f"{self.rounded}{spread}{self.mark}" if self.values else "–"


@dataclass(frozen=True)
class Table:
    """A head, rows of texts and cells, and notes beneath."""

    head: Sequence[str]
    body: Sequence[Sequence[str | Cell]]
    notes: Sequence[str] = ()

    def _rows(self, bold: str, escape: Callable[[str], str]) -> list[list[str]]:
        """Return head and body as texts, the best cells in bold."""
        return [
            [
                bold.format(escape(str(part))) if isinstance(part, Cell) and part.best else escape(str(part))
                for part in row
            ]
            for row in (self.head, *self.body)
        ]

    def markdown(self) -> str:
        """Return a Markdown table, the notes as a list."""
        head, *body = self._rows("**{}**", lambda text: text.replace("|", r"\|"))
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)])

    def csv(self) -> str:
        """Return comma-separated values: a cell is two columns, mean and sample std, both unrounded."""
        head: list[str] = []
        for key, part in zip(self.head, self.body[0], strict=True):
            head += [key, f"{key} std"] if isinstance(part, Cell) else [key]
        file = io.StringIO()
        rows = ([value for part in row for value in _numbers(part)] for row in self.body)
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
        return file.getvalue().rstrip("\n")

    def latex(self) -> str:
        """Return a tabular for the package booktabs, the notes as comments."""
        rows = self._rows("\\textbf{{{}}}", lambda text: text.translate({ord(c): LATEX[c] for c in LATEX}))
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        columns = "".join("r" if isinstance(part, Cell) else "l" for part in self.body[0])
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in self.notes)])


def _numbers(part: str | Cell) -> list[str | float]:
    """Return the columns of a part in CSV; no std for one value or beside an infinite mean."""
    if isinstance(part, str):
        return [part]
    several = len(part.values) > 1 and math.isfinite(part.std)
    return [part.mean, part.std if several else ""] if part.values else ["", ""]


FORMATS = {"markdown": Table.markdown, "csv": Table.csv, "latex": Table.latex}
