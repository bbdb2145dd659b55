"""What several test files share: small configurations, made as the command line makes them.

torch and Hydra are imported by the fixtures: the process that hands the tests out needs neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cvae.config.schema import Config
    from tests.forked import Forks

# files that take longest, in falling order: workers that begin with them end together
LONGEST = ("test_processes", "test_resume", "test_config", "test_reviews", "test_gpu", "test_pretrained")
LONGEST += ("test_continue", "test_sweeps", "test_bad_input", "test_precheck", "test_cli", "test_golden")
QUICK = "import pytest, tests.quick; tests.quick.leave_out(pytest.MonkeyPatch())"


def pytest_configure(config: pytest.Config) -> None:
    """Run every test on the CPU, many of them compare bits, but those that `-m cuda` asks for.

    One thread each: small models gain nothing from more, and several workers would wait for each other.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("PYTHONUNBUFFERED", None)  # most users' output is buffered, and flushed at the end
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory) -> None:
    """Keep the numbers of large corpora out of the home folder."""
    os.environ["CVAE_CACHE"] = str(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session", autouse=True)
def folders_have_no_order() -> Iterator[None]:
    """List folders backwards: the order of a file system is nobody's promise."""

    def backwards(method: Callable[..., Iterator[Path]]) -> Callable[..., Iterator[Path]]:
        return lambda *arguments, **options: iter(sorted(method(*arguments, **options), reverse=True))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("iterdir", "glob", "rglob"):
            patch.setattr(Path, name, backwards(getattr(Path, name)))
        yield


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
    """`configured("task=toy", "seed=1")` is the typed configuration of that command line."""
    from tests.helpers import configured

    return configured


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Starts scripts in processes that have imported the trainer; their runs are as quick as those here."""
    from tests.forked import Forks

    made = Forks(tmp_path_factory.mktemp("forks"), "import cvae.cli.train, cvae.training.run", QUICK)
    yield made
    made.close()
