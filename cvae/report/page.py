"""One self-contained HTML page about a sweep: tables, figures, sentences, commands, and what failed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markdown import Markdown
from matplotlib.figure import Figure

from cvae.config.load import flatten
from cvae.config.schema import reported
from cvae.errors import RunsError
from cvae.io import read_json
from cvae.program import command_line
from cvae.report import figures, tables
from cvae.report.formats import Table
from cvae.runs.reader import APART, Run, differing_keys, find_runs
from cvae.runs.sweeps import counted, find_jobs

CHECKPOINTS = {"best": "the checkpoint with the best validation", "last": "the last checkpoint"}
MAX_FIGURES = 8  # settings, schedule and learning rate aside, that get curves of their own
# markup that would load or run something: on the page it stays text
REFUSED = ("html", "autolink", "automail", "link", "image_link")


def sentences_html(text: str) -> str:
    """Return the HTML of a samples.md; tags, links and images in it stay text."""
    parser = Markdown(tab_length=2)
    parser.preprocessors.deregister("html_block")
    parser.parser.blockprocessors.deregister("reference")  # without definitions, [a] and [a][b] are no links
    for name in REFUSED:
        parser.inlinePatterns.deregister(name)
    return parser.convert(text)


def picture(caption: str, draw: Callable[[], Figure]) -> dict[str, Any]:
    """Return a figure as a data URI with its width on the page, or the reason why it cannot be drawn."""
    try:
        figure = draw()
    except RunsError as error:
        return {"caption": f"{caption}: not drawn, {error}"}
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")  # shown at 96 pixels an inch
    data = base64.b64encode(file.getvalue()).decode()
    width = round(96 * figure.get_figwidth())
    return {"caption": caption, "uri": f"data:image/png;base64,{data}", "width": width}


def comparable(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs that can share a figure, by the settings they share and others do not."""
    keys = [key for key in differing_keys(runs) if key not in APART]
    parts: dict[str, list[Run]] = {}
    for run in runs:
        if run.last:
            name = ", ".join(f"{key} = {run.setting.get(key, '–')}" for key in keys)
            parts.setdefault(name, []).append(run)
    return parts


def drawers(runs: Sequence[Run]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the caption of each figure that these runs have records for, and the function that draws it."""
    if any(run.classifiers for run in runs):
        yield "Accuracy against labels", partial(figures.accuracy_figure, runs)
        yield "The test sentences' means by class", partial(figures.map_figure, runs)
    parts = comparable(runs)
    if len(parts) > 1:
        yield "KL against rec", partial(figures.rate_figure, runs)
    for name, members in list(parts.items())[:MAX_FIGURES]:
        recorded = {key for run in members for record in run.metrics for key in record}
        where = f": {name}" if name else ""
        if overview := [panel for panel in figures.OVERVIEW if panel[0] in recorded]:
            yield f"Over updates{where}", partial(figures.curves_figure, members, overview)
        if any(run.task == "toy" for run in members):
            yield f"The paper's Figure 4{where}", partial(figures.curves_figure, members)
        if any(run.latents for run in members):
            yield f"The latent plane over training{where}", partial(figures.latent_figure, members)


def along_training(runs: Sequence[Run]) -> tuple[str, Table] | None:
    """Return caption and table of loss, rec and KL at the quarters of training, None without records."""
    total = max((run.total or run.last for run in runs), default=0)
    if total < 4 or not any(run.last for run in runs):
        return None
    window = min(1000, total // 4)
    steps = [total * quarter // 4 for quarter in (1, 2, 3, 4)]
    caption = f"Means over the {window:,} updates before each mark, nats per sequence"
    return caption, tables.steps_table(runs, figures.ORDER, steps, window, ())


def shared_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings that all runs share, by dotted key."""
    first, *others = (flatten(dict(run.config)) for run in runs)
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}


def sentences(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Yield a title and the HTML of samples.md for the first run of each row that has one."""
    keys = tables.naming(runs)
    choices = {tables.CHANGED, *(key for key in keys if key.endswith(".name"))}  # named by their value alone
    for names, members in tables.rows(runs, figures.ORDER).items():
        settings = [n if k in choices else f"{k} {n}" for k, n in zip(keys, names, strict=True)]
        pages = ((run, run.folder / "samples.md") for run in members)
        for run, path in [page for page in pages if page[1].exists()][:1]:
            text = path.read_text(encoding="utf-8", errors="replace")
            yield ", ".join([*settings, f"seed {run.seed}"]), sentences_html(text)


def report_page(folder: Path) -> str:
    """Return the page about the runs below a folder. Raises UserError where there are none."""
    runs, jobs = find_runs([folder]), find_jobs([folder])
    about = [read_json(run.folder / "run.json") or {} for run in runs]
    try:
        results = tables.results_table(runs, figures.ORDER)
    except RunsError:
        results = None
    pictures = [picture(*drawer) for drawer in drawers(runs)]
    if (left := len(comparable(runs)) - MAX_FIGURES) > 0:
        caption = f"{left} more settings: {command_line('figures')} draws them from their folders"
        pictures.append({"caption": caption})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvae.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = lambda part: str(part).replace("_", "_\u200b").replace("/", "/\u200b")
    return environment.get_template("page.html").render(
        name=folder.resolve().name,
        runs=runs,
        jobs=jobs,
        counts=counted(jobs),
        differing=differing_keys(runs),
        now=f"{datetime.now():%d %B %Y, %H:%M}",
        results=results,
        checkpoints=sorted({CHECKPOINTS[reported(dict(run.config))] for run in runs}),
        along=along_training(runs),
        figures=pictures,
        samples=list(sentences(runs)),
        shared=yaml.safe_dump(shared_settings(runs), sort_keys=False, allow_unicode=True),
        commands=[run["command"] for run in about if run.get("command")],
        versions=sorted({", ".join(f"{k} {v}" for k, v in run.get("versions", {}).items()) for run in about}),
        commits=sorted({run.get("git") or "unknown" for run in about}),
        data=sorted({f"{k} {v}" for run in about for k, v in run.get("data", {}).items()}),
    )
