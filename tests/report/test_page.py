"""The report page: what its parts show of runs."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from cvae.errors import RunsError
from cvae.report import page
from cvae.report.page import report_page, sentences, sentences_html
from cvae.runs.reader import Run, find_runs
from tests.helpers import ROOT


def test_samples_keep_lists_and_code_and_tags_links_and_images_are_text():
    text = "## A `b`\n\n- one <unk>\n  - two\n- three\n1. four **five**\n\n<b> ![a](http://b/c) [d](http://e)"
    assert sentences_html(text).replace("\n", "") == (
        "<h2>A <code>b</code></h2><ul><li>one &lt;unk&gt;<ul><li>two</li></ul></li><li>three</li>"
        "<li>four <strong>five</strong></li></ul><p>&lt;b&gt; ![a](http://b/c) [d](http://e)</p>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[a]: http://b",
        "[a]: http://b\n[a] ![a] [c][a] ![c][a]",
        "(http://b) http://b me@b.c",
        "[a](http://b)",
    ],
)
@pytest.mark.parametrize("before", ["", "- ", "## "])
def test_what_elsewhere_would_be_a_link_is_text(before, text):
    page = sentences_html(f"{before}{text}\n\n[a]\n")
    assert " ".join(re.sub(r"</?(p|ul|li|h2)>", " ", page).split()) == f"{' '.join(text.split())} [a]"


@pytest.mark.parametrize("text", ["<http://b>", "<me@b.c>"])
def test_a_link_between_angle_brackets_is_text(text):
    assert sentences_html(text) == f"<p>&lt;{text[1:-1]}&gt;</p>"


def test_a_block_of_html_is_text():
    text = "one\n\n<script>alert(1)</script>\n\n<div>two</div>\n"
    assert "<script" not in sentences_html(
        text
    ) and "&lt;script&gt;alert(1)&lt;/script&gt;" in sentences_html(text)
    assert "<div" not in sentences_html(text)


def test_sentences_are_titled_by_the_row_that_their_run_stands_in():
    titles = [title for title, _ in sentences(find_runs([ROOT / "outputs" / "published" / "remedies"]))]
    assert titles[:3] == [
        "monotonic, plain, seed 0",
        "monotonic, batch_norm=0.6, sampler=bucketed, seed 0",
        "monotonic, free_bits=0.1, seed 0",
    ]


def test_quarters_of_a_short_run_are_means_over_them(tmp_path):
    config = {"train": {}, "schedule": {"name": "constant"}, "task": {"name": "toy"}}
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    (tmp_path / "results.json").write_text(json.dumps({"finished": True, "updates": 40}))
    records = [{"step": step, "train/kl": float(step // 10)} for step in range(40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    caption, table = page.along_training(find_runs([tmp_path]))
    assert caption.startswith("Means over the 10 updates before each mark")
    assert [str(cell) for cell in table.body[-1]] == ["1", "train/kl", "0.10", "1.10", "2.10", "3.00"]


@pytest.mark.parametrize(("updates", "shown"), [(3, False), (4, True)])
def test_a_run_has_quarters_from_four_updates_on(updates, shown, tmp_path):
    config = {"train": {}, "schedule": {"name": "constant"}, "task": {"name": "toy"}}
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    (tmp_path / "results.json").write_text(json.dumps({"finished": True, "updates": updates}))
    records = [{"step": step, "train/kl": float(step)} for step in range(updates)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert (page.along_training(find_runs([tmp_path])) is not None) == shown


@pytest.mark.parametrize(("most", "left"), [(1, 2), (2, 1), (3, 0), (4, 0)])
def test_settings_beyond_those_that_are_drawn_are_counted(most, left, tmp_path, monkeypatch):
    captions = []
    for size in (8, 16, 32):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        config = {"train": {"batch_size": size}, "schedule": {"name": "constant"}, "task": {"name": "ptb"}}
        (folder / "run.json").write_text(json.dumps({"config": config}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "val/elbo": -1.0}) + "\n")
    monkeypatch.setattr(page, "MAX_FIGURES", most)
    monkeypatch.setattr(
        page, "picture", lambda caption, draw: captions.append(caption) or {"caption": caption}
    )
    said = f"{left} more settings: python scripts/figures.py draws them from their folders"
    assert (said in report_page(tmp_path)) == bool(left)
    assert sum(caption.startswith("Over updates: ") for caption in captions) == 3 - left


def test_a_picture_has_its_width_on_the_page_or_the_reason_why_it_is_none():
    drawn = page.picture("a", lambda: Figure(figsize=(2, 1)))
    assert (drawn["caption"], drawn["width"]) == ("a", 2 * 96)
    with Image.open(io.BytesIO(base64.b64decode(drawn["uri"].partition(",")[2]))) as png:
        assert png.size == (2 * 150, 150)

    def fails() -> Figure:
        raise RunsError("no run")

    assert page.picture("a", fails) == {"caption": "a: not drawn, no run"}


def run_of(size: int, task: str = "ptb", **more: Any) -> Run:
    """A run that has recorded one validation, with batches of a size."""
    config = {"train": {"batch_size": size}, "schedule": {"name": "constant"}, "task": {"name": task}}
    return Run(Path(f"{task}-{size}"), config, [{"step": 1, "val/rec": 1.0}], {}, **more)


def test_figures_are_those_that_there_are_records_for():
    def captions(*runs: Run) -> list[tuple[str, str]]:
        return [(caption, draw.func.__name__) for caption, draw in page.drawers(runs)]

    over, plane = ("Over updates", "curves_figure"), "The latent plane over training"
    assert captions(run_of(8)) == [over]
    classified = run_of(8, classifiers=[{"mode": "probe"}])
    assert captions(classified)[:2] == [
        ("Accuracy against labels", "accuracy_figure"),
        ("The test sentences' means by class", "map_figure"),
    ]
    toy = Run(Path("toy"), run_of(8, "toy").config, [{"step": 1, "train/loss": 1.0}], {1: None})
    assert captions(toy) == [("The paper's Figure 4", "curves_figure"), (plane, "latent_figure")]
    bare = replace(toy, latents={})  # what one run of several has is shown
    assert captions(bare, toy) == captions(toy, bare) == captions(toy)
    assert captions(replace(classified, classifiers=[]), classified) == captions(classified)
    begun = Run(Path("begun"), run_of(4).config, [], {})
    assert captions(run_of(8), begun) == [("Over updates: train.batch_size = 8", "curves_figure")]
    assert captions(run_of(8), run_of(16), begun) == [
        ("KL against rec", "rate_figure"),
        ("Over updates: train.batch_size = 8", "curves_figure"),
        ("Over updates: train.batch_size = 16", "curves_figure"),
    ]
    older = replace(run_of(8), config={**run_of(8).config, "train": {}})  # without this setting
    assert [caption for caption, _ in captions(run_of(8), older)][1:] == [
        "Over updates: train.batch_size = 8",
        "Over updates: train.batch_size = –",
    ]
    assert len(captions(*map(run_of, range(1, 10)))) == 1 + 8  # of nine settings one has no curves of its own
    (_, draw), *_ = page.drawers([run_of(8)])
    assert [key for key, _ in draw.args[1]] == ["val/rec"]  # a panel for what is recorded
    (panel, _) = draw().axes  # above β's
    assert panel.get_title("left") == "(a) rec, validation"


def test_a_setting_is_shared_where_every_run_has_it():
    one, other = run_of(8), run_of(16)
    first = replace(one, config=one.config | {"model": {"size": 3, "limit": None, "flow": None}})
    second = replace(other, config=other.config | {"model": {"size": 3, "flow": None}})
    # `limit` is newer than the second run, and what two of three share is not shared
    for runs in ((first, second), (second, first), (first, first, second), (first, second, first)):
        shared = {"schedule.name": "constant", "task.name": "ptb", "model.size": 3, "model.flow": None}
        assert page.shared_settings(runs) == shared


def test_a_page_says_how_to_repeat_its_runs(tmp_path):
    about = [
        {"command": "python train.py a=1", "git": "abc+", "versions": {"cvae": "1", "torch": "3"}},
        {"command": "", "versions": {"cvae": "1", "torch": "2"}, "data": {"train": "f00", "test": "ba4"}},
        {"command": "python train.py a=2", "git": None, "data": {"train": "f00"}},  # an installed program
    ]
    for seed, more in enumerate(about):
        config = {"seed": seed, "schedule": {"name": "constant"}, "task": {"name": ("toy", "ptb")[seed > 0]}}
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "run.json").write_text(json.dumps({"config": config} | more))
    (tmp_path / "0" / "results.json").write_text('{"finished": true, "test/elbo": -2.5}')
    text = report_page(tmp_path)
    assert "<pre>python train.py a=1\npython train.py a=2</pre>" in text
    assert "Commit abc+, unknown (+: with uncommitted changes); ; cvae 1, torch 2; cvae 1, torch 3." in text
    assert "<pre>test ba4\ntrain f00</pre>" in text
    assert "Of the checkpoint with the best validation or the last checkpoint; mean" in text
    assert "They differ in task.name and the seed." in text and "-2.50" in text
    assert f"<h1>{tmp_path.name}</h1>" in text


def test_long_runs_have_means_over_a_thousand_updates():
    for total, window in ((3996, "999"), (8000, "1,000")):
        run = Run(Path("a"), {"schedule": {"name": "none"}}, [{"step": 1}], {}, {"updates": total})
        assert page.along_training([run])[0].startswith(f"Means over the {window} updates before")
        assert page.along_training([replace(run, metrics=[])]) is None  # it has only begun


def test_only_the_first_run_of_a_row_that_has_sentences_shows_them(tmp_path):
    for name, seed, size, said in (
        ("a", 0, 8, b""),
        ("b", 1, 8, b"one \xff"),  # a byte that is no UTF-8
        ("c", 2, 8, b"two"),
        ("d", 0, 4, b"three"),
    ):
        (tmp_path / name).mkdir()
        config = {"seed": seed, "train": {"batch_size": size}, "schedule": {"name": "none"}}
        (tmp_path / name / "run.json").write_text(json.dumps({"config": config}))
        if said:
            (tmp_path / name / "samples.md").write_bytes(said)
    assert sorted(sentences(find_runs([tmp_path]))) == [
        ("train.batch_size 4, seed 0", "<p>three</p>"),
        ("train.batch_size 8, seed 1", "<p>one \ufffd</p>"),
    ]
