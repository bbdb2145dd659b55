"""The report page: what its parts show of runs."""

from __future__ import annotations

import json

import pytest

from cvae.report import page
from cvae.report.page import report_page, sentences, sentences_html
from cvae.runs.reader import find_runs
from tests.helpers import ROOT


def test_samples_keep_lists_and_code_and_tags_links_and_images_are_text():
    text = "## A `b`\n\n- one <unk>\n  - two\n- three\n1. four **five**\n\n<b> ![a](http://b/c) [d](http://e)"
    assert sentences_html(text).replace("\n", "") == (
        "<h2>A <code>b</code></h2><ul><li>one &lt;unk&gt;<ul><li>two</li></ul></li><li>three</li>"
        "<li>four <strong>five</strong></li></ul><p>&lt;b&gt; ![a](http://b/c) [d](http://e)</p>"
    )


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
    assert (f"{left} more settings" in report_page(tmp_path)) == bool(left)
    assert sum(caption.startswith("Over updates: ") for caption in captions) == 3 - left
