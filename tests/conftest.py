"""What several test files share: small configurations, made as the command line makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir

from cvae.cli.overrides import quoted
from cvae.config.load import load
from cvae.config.schema import Config
from tests.helpers import ROOT


@pytest.fixture(scope="session")
def configured() -> Callable[..., Config]:
    """`configured("task=toy", "seed=1")` is the typed configuration of that command line."""

    def make(*overrides: str) -> Config:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return load(compose("config", list(map(quoted, overrides))))

    return make
