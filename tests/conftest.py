"""What several test files share: small configurations, made as the command line makes them.

torch and Hydra are imported by the fixtures: the process that hands the tests out needs neither.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cvae.config.schema import Config
    from tests.forked import Forks


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
    import torch

    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, allowed in zip(switches, before, strict=True):
        switch.allow_tf32 = allowed


@pytest.fixture(scope="session", autouse=True)
def pictures() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A run draws its pictures, which takes longer than a small run, only in `with pictures():`.

    Elsewhere the picture of each validation, which TensorBoard shows, is one black dot.
    """
    import numpy as np

    from cvae.report import figures
    from cvae.training import logger

    def dot(*_: Any) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    run_pictures, plane_picture = figures.run_pictures, logger.plane_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "run_pictures", lambda folder: [])
        patch.setattr(logger, "plane_picture", dot)

        @contextmanager
        def drawn() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(figures, "run_pictures", run_pictures)
                inner.setattr(logger, "plane_picture", plane_picture)
                yield

        yield drawn


@pytest.fixture(scope="session")
def configured() -> Callable[..., Config]:
    """`configured("task=toy", "seed=1")` is the typed configuration of that command line."""
    from hydra import compose, initialize_config_dir

    from cvae.cli.overrides import quoted
    from cvae.config.load import load
    from cvae.program import CONF

    @functools.cache
    def composed(environment: tuple[str | None, ...], overrides: tuple[str, ...]) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load(compose("config", list(map(quoted, overrides))))

    def make(*overrides: str) -> Config:
        named = tuple(os.environ.get(name) for name in ("CVAE_DATA", "HOME"))  # which conf/ may refer to
        return composed(named, overrides)

    return make


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Starts scripts in processes that have imported torch and the trainer."""
    from tests.forked import Forks

    made = Forks(tmp_path_factory.mktemp("forks"), "cvae.cli.train", "cvae.training.run")
    yield made
    made.close()
