"""The model card of an exported run: what it is, how it was trained, what was measured, how it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2

from cvae import __version__
from cvae.config.load import flatten
from cvae.config.schema import Config
from cvae.report.formats import Cell
from cvae.report.tables import MEASURES

SETTINGS = ("schedule", "lr", "model", "objective", "update")  # groups that the card shows
SPLITS = ("train", "val", "test")


def card(config: Config, results: dict[str, Any], checkpoint: str, data: dict[str, str]) -> str:
    """Return README.md: front matter as the hub reads it, then the page (templates/card.md).

    `results` are those of the run, `checkpoint` is the one whose weights are exported, and `data` has the
    sha256 of the corpus's files.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("cvae.report"), keep_trailing_newline=True)
    settings = {key: v for key, v in flatten(config.container).items() if key.partition(".")[0] in SETTINGS}
    return environment.get_template("card.md").render(
        config=config,
        results=results,
        checkpoint=checkpoint,
        measured=results.get("checkpoint", "best"),
        version=__version__,
        network=(type(config.model).__doc__ or "").partition(":")[0].rstrip("."),
        tokens=getattr(config.dataset, "tokens", "words"),
        vocabulary=results.get("data/vocabulary", 0),
        splits=list(_splits(results, data)),
        settings={key: value for key, value in settings.items() if value is not None},
        measures=list(_measures(results)),
    )


def _splits(results: dict[str, Any], data: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the sizes of each split that the results have."""
    for split in SPLITS:
        sizes = {
            name: results.get(f"data/{split}/{key}", 0)
            for name, key in (("sentences", "sentences"), ("tokens", "tokens"), ("unknown", "unknown_share"))
        }
        digests = [digest for name, digest in data.items() if name.partition("/")[0] == split]
        digest = f"`{digests[0][:16]}…`" if len(digests) == 1 else f"{len(digests)} files"
        if sizes["sentences"]:
            yield {"name": split, **sizes, "digest": digest}


def _measures(results: dict[str, Any]) -> Iterator[tuple[str, Cell, Cell]]:
    """Yield each measure with its values on val and test."""
    for name in MEASURES:
        val, test = (results.get(f"{split}/{name}") for split in ("val", "test"))
        if (val, test) != (None, None):
            yield name, _cell(val), _cell(test)


def _cell(value: float | None) -> Cell:
    return Cell(() if value is None else (value,))
