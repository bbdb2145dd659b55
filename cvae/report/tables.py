"""Tables from run folders: a row for each way of running, seeds folded into mean ± std with n."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cvae.errors import RunsError
from cvae.runs.reader import APART, Run, changes, differing_keys, measured, refuse_mixture

BOUND = ("elbo", "rec", "kl", "ppl", "iw_nll", "iw_ppl")
LATENT = ("mi", "au", "accuracy", "prior_gap", "path_a", "path_a_prior", "path_b")
MEASURES = (*BOUND, *LATENT, *(f"refined_{name}" for name in BOUND))
FEW = 3  # keys that have a column each
HUGE = 1e9  # numbers from here on are printed with a power of ten
CHANGED = "changed"  # the column of all, where there are more
RELATIVE = "time/relative"
# keys of a dataset, and a fingerprint, that leave the measured text and the words known in it as they are
SAME_TEXT = ("dataset.sampler", "dataset.consecutive", "dataset.max_words", "the file of init_from")
# what a table shows of a task unless columns are chosen; other tasks: every measure of val and test
COLUMNS = {
    "toy": ("test/elbo", "test/rec", "test/kl", "test/mi", "test/accuracy", "test/prior_gap", "test/path_a"),
    "ptb": (
        *("test/ppl", "test/iw_ppl", "test/elbo", "test/rec", "test/kl"),
        *("test/mi", "test/au", "test/path_a"),
    ),
    "switchboard": (
        *("test/elbo", "test/rec", "test/kl", "test/rec_ppl", "test/path_a"),
        *(
            f"test/{name}_minus_permuted"
            for name in ("act_hit", "bleu4_f1", "sacrebleu_f1", "a_bow_f1", "e_bow_f1", "greedy_f1")
        ),
        *("test/act_hit", "test/acts", "test/distinct2", "test/distinct2_context"),
    ),
    "yelp": (
        *("test/elbo", "test/rec", "test/kl", "test/mi"),
        *(
            f"test/accuracy/{mode}/{share}"
            for mode in ("probe", "finetune")
            for share in (0.001, 0.01, 0.1, 1)
        ),
    ),
}
# which way is better, by how a measure's name begins. The others have none: more KL, I(x; z), active units or
# path A is more use of z, more distinct words or acts more diversity, and whether that is good only the bound
# and the likelihood beside it can say. Scores of answers are better by JUDGED, what they have of their own
# context: answers that know no context win some of the bare ones
BETTER = {"elbo": 1, "rec": -1, "ppl": -1, "iw_elbo": 1, "iw_nll": -1, "iw_ppl": -1, "accuracy/": 1}
JUDGED = "_minus_permuted"

# what results.json has beside the model's own, as test/random/act_hit, and how tables call it
BESIDE = {"random": "random", "constant": "constant", "authors": "authors' unit"}

LATEX = {mark: rf"\{mark}" for mark in "%&#_${}"} | {
    **{"\\": r"\textbackslash{}", "^": r"\^{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--", "~": r"$\sim$", "β": r"$\beta$"},
    **{"∞": r"$\infty$", "≯": r"$\not>$", "≈": r"$\approx$", "✓": r"$\checkmark$", "✗": r"$\times$"},
    "†": r"\dag{}",
}


@dataclass(frozen=True)
class Cell:
    """The values of one measure over the seeds of a row; empty where no run has it.

    `mark` is printed behind it, of a value that a note explains.
    """

    values: tuple[float, ...]
    best: bool = False
    mark: str = ""

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float:
        """The sample standard deviation, 0 for one value; without the squares that may overflow."""
        n = len(self.values)
        return math.dist(self.values, [self.mean] * n) / math.sqrt(n - 1) if n > 1 else 0.0

    @property
    def shown(self) -> str:
        """The mean as it is printed, empty for no values."""
        return self._printed(self.mean) if self.values else ""

    def _printed(self, number: float) -> str:
        """A number with as many digits as the mean; ∞ for infinity."""
        if math.isinf(number):
            return "∞"
        if abs(self.mean) >= HUGE:
            return f"{number:.2e}"
        digits = 1 if abs(self.mean) >= 100 else 2
        return f"{round(number, digits) + 0.0:.{digits}f}"  # no -0.0

    def __str__(self) -> str:
        spread = f" ± {self._printed(self.std)}" if len(self.values) > 1 and math.isfinite(self.mean) else ""
        return f"{self.shown}{spread}{self.mark}" if self.values else "–"


@dataclass(frozen=True)
class Table:
    """A head, rows of texts and cells, and remarks beneath."""

    head: Sequence[str]
    body: Sequence[Sequence[str | Cell]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """A Markdown table, the best of a column in bold, and the notes as a list."""
        head, *body = ([_marked(part, "**{}**", _cell) for part in row] for row in (self.head, *self.body))
        lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
        return "\n".join([*lines, *([""] if self.notes else []), *(f"- {note}" for note in self.notes)])

    def csv(self) -> str:
        """Comma-separated: a cell is two columns, mean and sample standard deviation, both unrounded."""
        head: list[str] = []
        for key, part in zip(self.head, self.body[0], strict=True):
            head += [key, f"{key} std"] if isinstance(part, Cell) else [key]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for row in self.body:
            writer.writerow([value for part in row for value in _numbers(part)])
        return out.getvalue().rstrip("\n")

    def latex(self) -> str:
        """A tabular for the package booktabs, the notes as comments."""
        rows = [[_marked(part, "\\textbf{{{}}}", _latex) for part in row] for row in (self.head, *self.body)]
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        columns = "".join("r" if isinstance(part, Cell) else "l" for part in self.body[0])
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {note}" for note in self.notes)])


FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": Table.markdown,
    "csv": Table.csv,
    "latex": Table.latex,
}


def _marked(part: str | Cell, mark: str, escaped: Callable[[str], str]) -> str:
    said = escaped(str(part))
    return mark.format(said) if isinstance(part, Cell) and part.best else said


def _cell(text: str) -> str:
    """Text in which a bar does not end the cell of a Markdown table."""
    return text.replace("|", r"\|")


def _numbers(part: str | Cell) -> list[str | float]:
    if isinstance(part, str):
        return [part]
    several = len(part.values) > 1 and math.isfinite(part.std)
    return [part.mean, part.std if several else ""] if part.values else ["", ""]


def _latex(text: str) -> str:
    """Text with what LaTeX would misread replaced."""
    return text.translate(str.maketrans(LATEX))


def direction(key: str) -> int:
    """1 where more of a measure is better, -1 where less is, 0 where neither is by itself: see BETTER."""
    name = (key.partition("/")[2] or key).removeprefix("refined_")
    if name.endswith(JUDGED):
        return 1
    return next((sign for start, sign in BETTER.items() if name.startswith(start)), 0)


def with_best(rows: Sequence[Sequence[Cell]], keys: Sequence[str]) -> list[list[Cell]]:
    """The rows with the best of each column marked, and what prints as the same; none where all do."""
    marked = [list(row) for row in rows]
    for place, key in enumerate(keys):
        sign, column = direction(key), [row[place] for row in rows if row[place].values]
        if sign and len({cell.shown for cell in column}) > 1:
            best = max(column, key=lambda cell: sign * cell.mean).shown
            for row in marked:
                row[place] = replace(row[place], best=row[place].shown == best)
    return marked


def differing_text(runs: Sequence[Run]) -> list[str]:
    """Return in what the vocabularies and corpora differ that runs were measured on.

    Scores do not rank across these. Decided by run.json alone, which every run has.
    """
    texts = [
        {key: value for key, value in run.setting.items() if key.startswith("dataset.")}
        | {f"the file of {split}": fingerprint for split, fingerprint in run.data.items()}
        for run in runs
    ]
    keys = sorted({key for text in texts for key in text} - set(SAME_TEXT))
    return [key for key in keys if len({repr(text.get(key)) for text in texts}) > 1]


def naming(runs: Sequence[Run], fold: bool = False) -> list[str]:
    """What the first columns show: the differing keys.

    More than FEW of them beside schedule and learning rate, or any where `fold`, share the column "changed".
    """
    keys = differing_keys(runs)
    if not fold and len(set(keys) - set(APART)) <= FEW:
        return keys
    return [*(key for key in keys if key in APART), CHANGED]


def rows(runs: Sequence[Run], order: Sequence[str], fold: bool = False) -> dict[tuple[str, ...], list[Run]]:
    """Runs by what `naming` says of them; schedules in the given order.

    Raises RunsError where a row would average the same seed twice.
    """
    keys = naming(runs, fold)
    found: dict[tuple[str, ...], list[Run]] = {}
    for run, change in zip(runs, changes(runs), strict=True):
        values = run.setting | {CHANGED: change}
        found.setdefault(tuple(str(values.get(key, "–")) for key in keys), []).append(run)
    for members in found.values():
        refuse_mixture(members)
    place = {name: number for number, name in enumerate((*order, "plain"))}
    return dict(sorted(found.items(), key=lambda item: [(place.get(part, 99), part) for part in item[0]]))


def final(runs: Sequence[Run], key: str) -> Cell:
    """A value of results.json (`reader.measured`) of the finished runs. Raises RunsError for no number."""
    finished = [run for run in runs if run.results.get("finished")]
    if text := [run.results[key] for run in finished if isinstance(run.results.get(key), str)]:
        raise RunsError(f"{key} is no number: {text[0]}")
    found = [measured(run.results, key) for run in finished]
    return Cell(tuple(value for value in found if value is not None))


def times(found: dict[tuple[str, ...], list[Run]]) -> list[Cell]:
    """Each row's training time as a multiple of that of the plain row with its schedule and learning rate."""
    seconds = {names: final(members, "time/training_seconds") for names, members in found.items()}
    plain = [seconds.get((*names[:-1], "plain"), Cell(())) for names in found]
    return [
        Cell(tuple(value / base.mean for value in cell.values) if base.values else ())
        for cell, base in zip(seconds.values(), plain, strict=True)
    ]


def around(runs: Sequence[Run], key: str, step: int, window: int) -> Cell:
    """A scalar at a step, of each run that has come so far.

    train/* is the mean over the `window` updates before the step, any other key its value there.
    """
    values = []
    for run in runs:
        steps, found = run.series(key)
        first = step - window if key.startswith("train/") else step - 1
        inside = found[(steps > first) & (steps <= step)]
        if run.last >= step - 1 and len(inside):
            values.append(float(inside.mean()))
    return Cell(tuple(values))


def default_columns(runs: Sequence[Run], every: bool = False) -> list[str]:
    """The task's, as far as results.json have them; all measures for several tasks, or where `every`."""
    measures = [f"{split}/{name}" for split in ("val", "test") for name in MEASURES]
    tasks = {run.task for run in runs}
    wished = COLUMNS.get(tasks.pop(), measures) if len(tasks) == 1 and not every else measures
    found = [key for key in wished if any(key in run.results for run in runs)]
    if not found:
        raise RunsError("none of these runs has results yet")
    return found


Line = tuple[Sequence[str], str, str, Sequence[Cell]]  # names, whose it is, n, cells


def beside(found: Mapping[tuple[str, ...], Sequence[Run]], columns: Sequence[str], whose: str) -> list[Line]:
    """What results have of somebody else than the model, as test/random/act_hit for test/act_hit.

    A line for each row of `found`, but one for all rows with the same values, "–" where their names differ.
    """
    same: dict[tuple[Cell, ...], list[tuple[str, ...]]] = {}
    for names, members in found.items():
        cells = tuple(final(members, key.replace("/", f"/{whose}/", 1)) for key in columns)
        if any(cell.values for cell in cells):
            same.setdefault(cells, []).append(names)
    lines = []
    for cells, names in same.items():
        shared = [part[0] if len(set(part)) == 1 else "–" for part in zip(*names, strict=True)]
        lines.append((shared, BESIDE[whose], str(max(len(cell.values) for cell in cells)), cells))
    return lines


def results_table(runs: Sequence[Run], order: Sequence[str], columns: Sequence[str] = ()) -> Table:
    """Rows by what differs, columns of results.json; none are those of the task, ["all"] every measure.

    time/relative is the training time over that of the plain run. Rows of BESIDE follow where there are any;
    another unit has a best of its own. Nothing is in bold, and a note says why, where the runs were measured
    on different vocabularies or corpora.
    """
    if not columns or columns == ["all"]:
        columns = default_columns(runs, bool(columns))
    fold = RELATIVE in columns
    found = rows(runs, order, fold)
    drawn = [times(found) if key == RELATIVE else [final(m, key) for m in found.values()] for key in columns]
    lines = [
        (names, "model", _count(found[names]), cells)
        for names, cells in zip(found, zip(*drawn, strict=True), strict=True)
    ]
    same_unit = [*lines, *beside(found, columns, "random"), *beside(found, columns, "constant")]
    other_unit = beside(found, columns, "authors")
    labelled = len(same_unit) + len(other_unit) > len(lines)
    compared = [run for run in runs if run.results.get("finished") and run.results.keys() & set(columns)]
    differing = differing_text(compared)
    body = []
    for part in filter(None, (same_unit, other_unit)):
        rated = [cells for *_, cells in part]
        marked = rated if differing else with_best(rated, columns)
        for (names, label, n, _), cells in zip(part, marked, strict=True):
            body.append([*names, *([label] if labelled else []), n, *cells])
    notes = list(dict.fromkeys(run.note for run in runs if run.note))
    if differing and any(map(direction, columns)):
        notes.append(f"nothing is in bold: the runs differ in {', '.join(differing)}")
    return Table([*naming(runs, fold), *(["of"] if labelled else []), "n", *columns], body, notes)


def steps_table(
    runs: Sequence[Run], order: Sequence[str], steps: Sequence[int], window: int, keys: Sequence[str]
) -> Table:
    """Scalars at chosen steps: a row for each way of running and key, by default train/{loss,rec,kl}."""
    body = [
        [*names, _count(members), key, *(around(members, key, step, window) for step in steps)]
        for names, members in rows(runs, order).items()
        for key in keys or ("train/loss", "train/rec", "train/kl")
    ]
    return Table([*naming(runs), "n", "", *(f"{step:,}" for step in steps)], body)


def _count(runs: Sequence[Run]) -> str:
    """How many runs a row folds, and how many of them are not finished."""
    done = sum(bool(run.results.get("finished")) for run in runs)
    return str(len(runs)) if done == len(runs) else f"{done} of {len(runs)}"
