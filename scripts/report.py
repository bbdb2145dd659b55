"""Writes a self-contained HTML page about a sweep: tables, figures, sentences, commands, and what failed."""

from __future__ import annotations

import argparse
import base64
import html
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the cvae beside this, whichever is installed

from cvae.config.load import flatten
from cvae.config.schema import reported
from cvae.errors import RunsError, UserError
from cvae.io import read_json
from cvae.report import figures, tables
from cvae.runs.reader import Run, differing_keys, find_runs
from cvae.runs.sweeps import Job, counted, find_jobs

CHECKPOINTS = {"best": "the checkpoint with the best validation", "last": "the last checkpoint"}
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
FIGURES = 8  # settings, other than schedule and learning rate, that are drawn
EXAMPLES = """examples:
  python scripts/report.py outputs/toy                      outputs/toy/report.html
  python scripts/report.py outputs/published/toy --to toy.html"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder with runs in or below it")
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the folder")
    options = parser.parse_args(arguments)
    options.to = options.to or options.folder / "report.html"
    return options


class Picture(NamedTuple):
    """A figure as a data URI that holds a PNG, and its width on the page; or why there is none."""

    caption: str
    uri: str = ""
    width: int = 0
    why: str = ""

    @classmethod
    def of(cls, caption: str, figure: Figure) -> Picture:
        """At 96 pixels an inch, with enough of them for sharp screens."""
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, facecolor="white")
        data = base64.b64encode(file.getvalue()).decode()
        return cls(caption, f"data:image/png;base64,{data}", round(96 * figure.get_figwidth()))


def comparable(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that can share a figure, by the settings that they have in common and others do not."""
    keys = [key for key in differing_keys(runs) if key not in ("schedule.name", "lr.name")]
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.last:
            name = ", ".join(f"{key} = {run.setting.get(key, '–')}" for key in keys)
            found.setdefault(name, []).append(run)
    return found


def drawers(runs: Sequence[Run]) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Captions of the figures that these runs may allow, and what draws them."""
    if any(run.classifiers for run in runs):
        yield "Accuracy against labels", partial(figures.accuracy_figure, runs)
        yield "The test sentences' means by sentiment", partial(figures.map_figure, runs)
    parts = comparable(runs)
    if len(parts) > 1:
        yield "KL against rec", partial(figures.rate_figure, runs)
    for name, members in list(parts.items())[:FIGURES]:
        recorded = {key for run in members for record in run.metrics for key in record}
        where = f": {name}" if name else ""
        if overview := [panel for panel in figures.OVERVIEW if panel[0] in recorded]:
            yield f"Over updates{where}", partial(figures.curves_figure, members, overview)
        if any(run.task == "toy" for run in members):
            yield f"The paper's Figure 4{where}", partial(figures.curves_figure, members)
        if any(run.latents for run in members):
            yield f"The latent plane over training{where}", partial(figures.latent_figure, members)


def drawn(runs: Sequence[Run]) -> Iterator[Picture]:
    """All figures."""
    for caption, draw in drawers(runs):
        try:
            yield Picture.of(caption, draw())
        except RunsError as error:
            yield Picture(caption, why=str(error))
    if (left := len(comparable(runs)) - FIGURES) > 0:
        yield Picture(f"{left} more settings", why="scripts/figures.py draws them from their folders")


def along_training(runs: Sequence[Run]) -> tuple[str, tables.Table] | None:
    """Caption and table of loss, rec and KL at the quarters of training; None where nothing is recorded."""
    total = max((run.total or run.last for run in runs), default=0)
    if total < 4 or not any(run.last for run in runs):
        return None
    window = min(1000, total // 4)
    steps = [total * quarter // 4 for quarter in (1, 2, 3, 4)]
    caption = f"Means over the {window:,} updates before each mark, nats per sequence"
    return caption, tables.steps_table(runs, figures.ORDER, steps, window, ())


def markdown(text: str) -> str:
    """HTML for the Markdown that samples.md uses: headings, lists in lists, bold, code and paragraphs."""
    out: list[str] = []
    depth = 0
    for line in text.splitlines():
        item = re.match(r"( *)(?:-|\d+\.) (.*)", line)
        level = 1 + len(item[1]) // 2 if item else 0
        out += ["<ul>"] * (level - depth) + ["</ul>"] * (depth - level)
        depth = level
        said = CODE.sub(_code, html.escape(item[2] if item else line.strip()))
        said = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", said)
        if item:
            out.append(f"<li>{said}</li>")
        elif heading := re.match(r"#+ (.*)", said):
            out.append(f"<h4>{heading[1]}</h4>")
        elif said:
            out.append(f"<p>{said}</p>")
    return "\n".join(out + ["</ul>"] * depth)


def _code(span: re.Match[str]) -> str:
    """A code span, in which nothing is markup."""
    return f"<code>{span[2].strip().replace('*', '&#42;').replace('`', '&#96;')}</code>"


def about(run: Run) -> dict[str, Any]:
    """The whole run.json."""
    return read_json(run.folder / "run.json") or {}


def settings(runs: Sequence[Run]) -> dict[str, Any]:
    """The settings all runs share, nested as in their configurations."""
    flat = [flatten(dict(run.config)) for run in runs]
    shared: dict[str, Any] = {}
    for key, value in flat[0].items():
        if all(key in other and other[key] == value for other in flat):
            *groups, last = key.split(".")
            place = shared
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
    return shared


def named(key: str, value: str) -> str:
    """A setting in words: the name of a choice alone."""
    return value if key.endswith(".name") else f"{key} {value}"


def said(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(run, HTML) of samples.md, of the first run of each row that has one."""
    found = []
    for names, members in tables.rows(runs, figures.ORDER).items():
        pages = [(run.seed, path) for run in members if (path := run.folder / "samples.md").exists()]
        for seed, path in pages[:1]:
            title = ", ".join([*map(named, differing_keys(runs), names), f"seed {seed}"])
            found.append((title, markdown(path.read_text(encoding="utf-8", errors="replace"))))
    return found


def failures(jobs: Sequence[Job]) -> list[tuple[Job, str]]:
    """The jobs that are not done, with what error.txt says of those that failed."""
    return [(job, job.folder.error_text) for job in jobs if job.state != "done"]


def page(folder: Path) -> str:
    """The whole page. Raises UserError where there is nothing to report."""
    runs, jobs = find_runs([folder]), find_jobs([folder])
    stories = [about(run) for run in runs]
    try:
        results = tables.results_table(runs, figures.ORDER)
    except RunsError:
        results = None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["text"] = lambda part: str(part).replace("_", "_\u200b").replace("/", "/\u200b")
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    return template.render(
        name=folder.resolve().name,
        runs=runs,
        jobs=jobs,
        counts=counted(jobs),
        differing=differing_keys(runs),
        now=f"{datetime.now():%d %B %Y, %H:%M}",
        results=results,
        checkpoints=sorted({CHECKPOINTS[reported(dict(run.config))] for run in runs}),
        along=along_training(runs),
        figures=list(drawn(runs)),
        samples=said(runs),
        shared=yaml.safe_dump(settings(runs), sort_keys=False, allow_unicode=True),
        commands=[story["command"] for story in stories if story.get("command")],
        versions=sorted({", ".join(f"{k} {v}" for k, v in s.get("versions", {}).items()) for s in stories}),
        commits=sorted({story.get("git") or "unknown" for story in stories}),
        data=sorted({f"{k} {v}" for s in stories for k, v in s.get("data", {}).items()}),
        unfinished=failures(jobs),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; the exit status is 1 where it cannot."""
    options = parse(arguments)
    try:
        text = page(options.folder)
        options.to.parent.mkdir(parents=True, exist_ok=True)
        options.to.write_text(text, encoding="utf-8")
        print(options.to)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
