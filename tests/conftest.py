"""What several test files share: small configurations, made as the command line makes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from hydra import compose, initialize_config_dir

from cvae.cli.overrides import quoted
from cvae.config.load import load
from cvae.config.schema import Config
from cvae.report import figures
from tests.helpers import ROOT


def pytest_configure(config: pytest.Config) -> None:
    """Run every test on the CPU, many of them compare bits, but those that `-m cuda` asks for."""
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory) -> None:
    """Keep the numbers of large corpora out of the home folder."""
    os.environ["CVAE_CACHE"] = str(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """Form a GPU's products in full float32: its RNNs and convolutions use TF32 unless told otherwise."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


@pytest.fixture(scope="session", autouse=True)
def pictures() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A run draws its pictures, which takes longer than a small run, only in `with pictures():`."""
    draw = figures.run_pictures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "run_pictures", lambda folder: [])

        @contextmanager
        def drawn() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(figures, "run_pictures", draw)
                yield

        yield drawn


@pytest.fixture(scope="session")
def configured() -> Callable[..., Config]:
    """`configured("task=toy", "seed=1")` is the typed configuration of that command line."""

    def make(*overrides: str) -> Config:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return load(compose("config", list(map(quoted, overrides))))

    return make
