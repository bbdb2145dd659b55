"""What a run prints."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cvae.training.console import progress_bar


@pytest.mark.parametrize(("asked", "terminal"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_bar_is_for_terminals_where_it_is_asked_for(asked, terminal, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    bar = progress_bar(SimpleNamespace(progress=asked), 0, 10)
    assert bar.disable == (not (asked and terminal))
    bar.close()
