"""What a run prints."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cvae.training.console import progress_bar, show_means


@pytest.mark.parametrize(("asked", "terminal"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_bar_is_for_terminals_where_it_is_asked_for(asked, terminal, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    bar = progress_bar(SimpleNamespace(progress=asked), 0, 10)
    assert bar.disable == (not (asked and terminal))
    bar.close()


def test_the_latest_means_stand_beside_the_bar():
    shown = {}
    bar = SimpleNamespace(set_postfix=lambda values, refresh: shown.update(values))
    show_means(bar, {"rec": 101.234, "nll": 3.0}, 0.125, 12345.6)
    assert shown == {"β": "0.12", "rec": "101.23", "tok/s": "12,346"}  # an autoencoder has no KL
    show_means(bar, {"rec": 101.234, "kl": 2.5}, 1.0, 12345.6)
    assert shown == {"β": "1.00", "rec": "101.23", "tok/s": "12,346", "KL": "2.50"}
