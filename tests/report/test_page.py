"""The report page: what its parts show of runs."""

from __future__ import annotations

from cvae.report.page import sentences, sentences_html
from cvae.runs.reader import find_runs
from tests.helpers import ROOT


def test_samples_keep_lists_and_code_and_tags_links_and_images_are_text():
    text = "## A `b`\n\n- one <unk>\n  - two\n- three\n1. four **five**\n\n<b> ![a](http://b/c) [d](http://e)"
    assert sentences_html(text).replace("\n", "") == (
        "<h2>A <code>b</code></h2><ul><li>one &lt;unk&gt;<ul><li>two</li></ul></li><li>three</li>"
        "<li>four <strong>five</strong></li></ul><p>&lt;b&gt; ![a](http://b/c) [d](http://e)</p>"
    )


def test_sentences_are_titled_by_the_row_that_their_run_stands_in():
    titles = [title for title, _ in sentences(find_runs([ROOT / "outputs" / "published" / "remedies"]))]
    assert titles[:3] == [
        "monotonic, plain, seed 0",
        "monotonic, batch_norm=0.6, sampler=bucketed, seed 0",
        "monotonic, free_bits=0.1, seed 0",
    ]
