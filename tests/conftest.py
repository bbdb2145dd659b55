"""What several test files share: small configurations, made as the command line makes them.

torch and Hydra are imported by the fixtures: the process that hands the tests out needs neither.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cvae.config.schema import Config
    from tests.forked import Forks

QUICK = "import pytest, tests.quick; tests.quick.leave_out(pytest.MonkeyPatch())"


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
    """A run draws its pictures only in `with pictures():`; its samples are short."""
    from tests import quick

    with pytest.MonkeyPatch.context() as patch:
        quick.leave_out(patch)

        @contextmanager
        def drawn() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as inner:
                quick.draw(inner)
                yield

        yield drawn


@pytest.fixture(scope="session")
def configured() -> Callable[..., Config]:
    """`configured("task=toy", "seed=1")` is the typed configuration of that command line.

    Choices of groups are composed once, and values set in a copy, as Hydra itself sets them in the end.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig, OmegaConf

    from cvae.cli.help import GROUPS
    from cvae.cli.overrides import quoted
    from cvae.config.load import load
    from cvae.program import CONF

    @functools.cache
    def chosen(environment: tuple[str | None, ...], choices: tuple[str, ...]) -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", list(choices))

    def make(*overrides: str) -> Config:
        items = OverridesParser.create().parse_overrides(list(map(quoted, overrides)))
        choices = tuple(str(item.input_line) for item in items if item.key_or_group in GROUPS)
        named = tuple(os.environ.get(name) for name in ("CVAE_DATA", "HOME"))  # which conf/ may refer to
        composed = copy.deepcopy(chosen(named, choices))
        for item in items:
            if item.key_or_group not in GROUPS:
                OmegaConf.update(composed, item.key_or_group, item.value(), merge=True)
        return load(composed)

    return make


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Starts scripts in processes that have imported the trainer; their runs are as quick as those here."""
    from tests.forked import Forks

    made = Forks(tmp_path_factory.mktemp("forks"), "import cvae.cli.train, cvae.training.run", QUICK)
    yield made
    made.close()
