"""Tables of runs: a row for each way of running, seeds folded into mean ± sample std."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cvae.errors import RunsError
from cvae.report.formats import Cell, Table
from cvae.runs.reader import APART, Run, changes, differing_keys, measured, refuse_mixture

BOUND = ("elbo", "rec", "kl", "ppl", "word_ppl", "iw_nll", "iw_ppl", "iw_word_ppl")
LATENT = ("mi", "au", "accuracy", "prior_gap", "path_a", "path_a_prior", "path_b")
MEASURES = (*BOUND, *LATENT, *(f"refined_{name}" for name in BOUND))
MAX_KEYS = 3  # differing keys that get a column each
CHANGED = "changed"  # the column that more of them share
RELATIVE = "time/relative"
# in what else than text and vocabulary the keys of a dataset, and the fingerprints, may differ
SAME_TEXT = (
    *("dataset.sampler", "dataset.consecutive", "dataset.max_words"),
    *("the file of init_from", "the file of continue_from"),
)
# in what else runs on the same text may differ; of these, no perplexity of a token ranks
VOCABULARY = (
    *("dataset.tokens", "dataset.tokenizer", "dataset.vocabulary", "dataset.min_count"),
    "the file of dataset.tokenizer",
)
PER_TOKEN = ("ppl", "iw_ppl", "refined_ppl", "refined_iw_ppl")
ANSWERS = ("act_hit", "bleu4_f1", "sacrebleu_f1", "a_bow_f1", "e_bow_f1", "greedy_f1")
# default columns of test/* by task; other tasks show every measure of val and test
COLUMNS = {
    "toy": ("elbo", "rec", "kl", "mi", "accuracy", "prior_gap", "path_a"),
    "ptb": ("ppl", "iw_ppl", "elbo", "rec", "kl", "mi", "au", "path_a"),
    "switchboard": (
        *("elbo", "rec", "kl", "rec_ppl", "path_a", *(f"{name}_minus_permuted" for name in ANSWERS)),
        *("act_hit", "acts", "distinct2", "distinct2_context"),
    ),
    "yelp": (
        *("elbo", "rec", "kl", "mi"),
        *(f"accuracy/{mode}/{share}" for mode in ("probe", "finetune") for share in (0.001, 0.01, 0.1, 1)),
    ),
}
# Which way a measure is better, by how its name begins. The others have no better side by themselves: bound
# and likelihood decide whether more use of z (KL, I(x; z), active units, path A) or more diversity is good.
BETTER = {"elbo": 1, "rec": -1, "ppl": -1, "iw_elbo": 1, "iw_nll": -1, "iw_ppl": -1, "accuracy/": 1}
BETTER |= {"word_ppl": -1, "iw_word_ppl": -1}
# Scores of answers are better by what they gain from their own context: some reward answers that ignore it.
JUDGED = "_minus_permuted"
# what is measured beside the model, as test/random/act_hit beside test/act_hit, and its name in a table
BASELINES = {"random": "random", "constant": "constant", "authors": "authors' unit"}

Names = tuple[str, ...]


def direction(key: str) -> int:
    """Return 1 where more of a measure is better, -1 where less is, 0 where neither is by itself."""
    name = (key.partition("/")[2] or key).removeprefix("refined_")
    if name.endswith(JUDGED):
        return 1
    return next((sign for start, sign in BETTER.items() if name.startswith(start)), 0)


def with_best(rows: Sequence[Sequence[Cell]], keys: Sequence[str]) -> list[list[Cell]]:
    """Return the rows with the best of each column marked, ties included; none where all print the same."""
    marked = [list(row) for row in rows]
    for place, key in enumerate(keys):
        sign, column = direction(key), [row[place] for row in rows if row[place].values]
        if sign and len({cell.rounded for cell in column}) > 1:
            best = max(column, key=lambda cell: sign * cell.mean).rounded
            for row in marked:
                row[place] = replace(row[place], best=row[place].rounded == best)
    return marked


def differing_text(runs: Sequence[Run]) -> list[str]:
    """Return in what the vocabularies and corpora differ that runs were measured on, as run.json has them.

    Scores do not rank across these.
    """
    texts = [
        {key: value for key, value in run.setting.items() if key.startswith("dataset.")}
        | {f"the file of {split}": fingerprint for split, fingerprint in run.data.items()}
        for run in runs
    ]
    keys = sorted({key for text in texts for key in text} - set(SAME_TEXT))
    return [key for key in keys if len({repr(text.get(key)) for text in texts}) > 1]


def ranked(runs: Sequence[Run], columns: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the columns with a best, columns to show beside them, and notes on why others have none.

    Runs with other tokens on the same text rank by sentence and by word where no token is unknown; elsewhere
    the shares of unknown tokens are shown. Runs on other corpora do not rank.
    """
    judged = [key for key in columns if direction(key)]
    if not (differing := differing_text(runs)) or not judged:
        return judged, [], []
    because = f"the runs differ in {', '.join(differing)}"
    splits = dict.fromkeys(key.partition("/")[0] for key in judged)
    shares = [f"data/{split}/unknown_share" for split in splits]
    if not set(differing) <= set(VOCABULARY):
        return [], [], [f"nothing is in bold: {because}"]
    if any(run.results.get(share) != 0 for run in runs for share in shares):
        return [], [key for key in shares if key not in columns], [f"nothing is in bold: {because}"]
    return (
        [key for key in judged if key.rpartition("/")[2] not in PER_TOKEN],
        [],
        [f"ppl and iw_ppl are of tokens and not in bold: {because}"],
    )


def naming(runs: Sequence[Run], fold: bool = False) -> list[str]:
    """Return what the first columns show: schedule, learning rate and other keys, as far as they differ.

    More than MAX_KEYS other keys, or any where `fold`, share the column "changed".
    """
    keys = differing_keys(runs)
    if not fold and len(set(keys) - set(APART)) <= MAX_KEYS:
        return keys
    return [*(key for key in keys if key in APART), CHANGED]


def rows(runs: Sequence[Run], order: Sequence[str], fold: bool = False) -> dict[Names, list[Run]]:
    """Return the runs of each row by what `naming` says of them, schedules in the given order.

    Raises RunsError where a row would average the same seed twice.
    """
    keys = naming(runs, fold)
    groups: dict[Names, list[Run]] = {}
    for run, change in zip(runs, changes(runs), strict=True):
        values = run.setting | {CHANGED: change}
        groups.setdefault(tuple(str(values.get(key, "–")) for key in keys), []).append(run)
    for members in groups.values():
        refuse_mixture(members)
    place = {name: number for number, name in enumerate((*order, "plain"))}
    return dict(sorted(groups.items(), key=lambda item: [(place.get(part, 99), part) for part in item[0]]))


def result_cell(runs: Sequence[Run], key: str) -> Cell:
    """Return a value of results.json over the finished runs. Raises RunsError where it is no number."""
    results = [run.results for run in runs if run.results.get("finished")]
    if text := [values[key] for values in results if isinstance(values.get(key), str)]:
        raise RunsError(f"{key} is no number: {text[0]}")
    return Cell(tuple(value for values in results if (value := measured(values, key)) is not None))


def scalar_cell(runs: Sequence[Run], key: str, step: int, window: int) -> Cell:
    """Return a scalar at a step, over the runs that have come so far.

    train/* is the mean over the `window` steps before it, any other key its value there.
    """
    values = []
    for run in runs:
        steps, series = run.series(key)
        first = step - window if key.startswith("train/") else step - 1
        inside = series[(steps > first) & (steps <= step)]
        if run.last >= step - 1 and len(inside):
            values.append(float(inside.mean()))
    return Cell(tuple(values))


def relative_time(groups: Mapping[Names, Sequence[Run]], names: Names) -> Cell:
    """Return a row's training time as a multiple of that of the plain row with its schedule and rate."""
    plain = result_cell(groups.get((*names[:-1], "plain"), ()), "time/training_seconds")
    seconds = result_cell(groups[names], "time/training_seconds")
    return Cell(tuple(value / plain.mean for value in seconds.values) if plain.values else ())


def default_columns(runs: Sequence[Run], every: bool) -> list[str]:
    """Return the columns of the runs' task that any of them has; every measure for several tasks or `every`.

    Raises RunsError where there are none.
    """
    columns = [f"{split}/{name}" for split in ("val", "test") for name in MEASURES]
    tasks = {run.task for run in runs}
    if len(tasks) == 1 and not every and (task := tasks.pop()) in COLUMNS:
        columns = [f"test/{name}" for name in COLUMNS[task]]
        if len({run.setting.get("dataset.tokens") for run in runs}) > 1:
            columns = [re.sub(r"\b(iw_)?ppl$", r"\1word_ppl", key) for key in columns]
    columns = [key for key in columns if any(key in run.results for run in runs)]
    if not columns:
        raise RunsError("none of these runs has results yet")
    return columns


Line = tuple[Sequence[str], str, str, Sequence[Cell]]  # names, whose values, n, cells


def baseline_lines(groups: Mapping[Names, Sequence[Run]], columns: Sequence[str], whose: str) -> list[Line]:
    """Return the rows of a baseline; rows with the same values are one, "–" where their names differ."""
    same: dict[tuple[Cell, ...], list[Names]] = {}
    for names, members in groups.items():
        cells = tuple(result_cell(members, key.replace("/", f"/{whose}/", 1)) for key in columns)
        if any(cell.values for cell in cells):
            same.setdefault(cells, []).append(names)
    lines: list[Line] = []
    for cells, rows_of in same.items():
        shared = [part[0] if len(set(part)) == 1 else "–" for part in zip(*rows_of, strict=True)]
        lines.append((shared, BASELINES[whose], str(max(len(cell.values) for cell in cells)), cells))
    return lines


def results_table(runs: Sequence[Run], order: Sequence[str], columns: Sequence[str] = ()) -> Table:
    """Return columns of results.json, by default those of the task; ["all"] is every measure.

    time/relative is the training time over that of the plain run. Rows of baselines follow where there are
    any; another unit has a best of its own. Runs measured on different vocabularies or corpora have no best,
    and a note says so.
    """
    if not columns or columns == ["all"]:
        columns = default_columns(runs, bool(columns))
    compared = [run for run in runs if run.results.get("finished") and run.results.keys() & set(columns)]
    best, beside, why = ranked(compared, columns)
    columns = [*columns, *beside]
    fold = RELATIVE in columns
    groups = rows(runs, order, fold)

    def cell(names: Names, key: str) -> Cell:
        return relative_time(groups, names) if key == RELATIVE else result_cell(groups[names], key)

    model = [(n, "model", _count(m), [cell(n, key) for key in columns]) for n, m in groups.items()]
    same_unit = [line for whose in ("random", "constant") for line in baseline_lines(groups, columns, whose)]
    parts = [[*model, *same_unit], baseline_lines(groups, columns, "authors")]
    labelled = sum(map(len, parts)) > len(model)
    body: list[list[str | Cell]] = []
    for part in filter(None, parts):
        cells = [line[-1] for line in part]
        keys = [key if key in best else "" for key in columns]
        for line, row in zip(part, with_best(cells, keys), strict=True):
            names, label, count, _ = line
            body.append([*names, *([label] if labelled else []), count, *row])
    notes = [*dict.fromkeys(run.note for run in runs if run.note), *why]
    return Table([*naming(runs, fold), *(["of"] if labelled else []), "n", *columns], body, notes)


def steps_table(
    runs: Sequence[Run], order: Sequence[str], steps: Sequence[int], window: int, keys: Sequence[str]
) -> Table:
    """Return scalars at chosen steps: a row for each way of running and key, default train/{loss,rec,kl}."""
    body: list[list[str | Cell]] = [
        [*names, _count(members), key, *(scalar_cell(members, key, step, window) for step in steps)]
        for names, members in rows(runs, order).items()
        for key in keys or ("train/loss", "train/rec", "train/kl")
    ]
    return Table([*naming(runs), "n", "", *(f"{step:,}" for step in steps)], body)


def _count(runs: Sequence[Run]) -> str:
    """Return how many runs a row folds, and how many of them are finished where not all are."""
    done = sum(bool(run.results.get("finished")) for run in runs)
    return str(len(runs)) if done == len(runs) else f"{done} of {len(runs)}"
