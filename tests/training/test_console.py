"""What a run prints."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cvae.training.console import progress_bar, show_means, validation_line


@pytest.mark.parametrize(("asked", "terminal"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_bar_is_for_terminals_where_it_is_asked_for(asked, terminal, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    bar = progress_bar(SimpleNamespace(progress=asked), 3, 10)
    assert bar.disable == (not (asked and terminal)) and (bar.n, bar.total) == (3, 10)
    bar.close()


def test_the_latest_means_stand_beside_the_bar():
    shown = {}
    bar = SimpleNamespace(set_postfix=lambda values, refresh: refresh or shown.update(values))
    show_means(bar, {"rec": 101.234, "nll": 3.0}, 0.125, 12345.6)
    assert shown == {"β": "0.12", "rec": "101.23", "tok/s": "12,346"}  # an autoencoder has no KL
    show_means(bar, {"rec": 101.234, "kl": 2.5}, 1.0, 12345.6)
    assert shown == {"β": "1.00", "rec": "101.23", "tok/s": "12,346", "KL": "2.50"}


def test_a_validation_is_a_line_of_what_was_measured_of_each_split():
    values = {f"val/{name}": n + 0.25 for n, name in enumerate(("au", "kl", "mi", "path_a", "ppl", "rec"))}
    values |= {"epoch/rec": 7.0, "epoch/kl": 8.0, "epoch/ppl": 12345.6, "test/rec": 9.0, "other/rec": 10.0}
    line = validation_line(values, ["val", "test"], "4/9", 0.125, 3723.9).format_map(values)
    assert line == (
        "4/9  β 0.12 | train rec 7 kl 8 ppl 1.235e+04"
        " | val rec 5.25 kl 1.25 ppl 4.25 mi 2.25 path_a 3.25 | test rec 9 | 1:02:03 left"
    )
