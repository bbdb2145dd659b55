"""What tests of several rooms share: small models, batches, configurations and paths."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import datasets
import pytest
import torch

from cvae import data, tasks
from cvae.config.schema import Config, LanguageTaskConfig, Objective, SentenceModel, TinyData, Train
from cvae.data.text import Batch, Splits
from cvae.data.vocabulary import PAD
from cvae.models.sentence import SentenceVAE
from cvae.runs.folder import RunFolder
from cvae.schedules import Constant, ConstantRate
from cvae.tasks.language_model import LanguageTask
from cvae.training import run

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
DIALOGS = ROOT / "tests" / "dialogs"
CPU = torch.device("cpu")
# words of Hydra and Python that no sentence to a user has
JARGON = re.compile(
    r"Traceback|HYDRA_FULL_ERROR|struct|defaults list|[a-z](Error|Exception)\b|full_key|object_type"
    r"|reference_type|EOF|viable|None\b|True\b|\bNaN\b|Warning"
)
SMALL = {
    "embed": 8,
    "hidden": 12,
    "layers": 1,
    "latent": 3,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "init": 0.1,
}
WORDS = 11
SENTENCES = [[2, 7, 4, 9, 10, 3], [2, 5, 3], [2, 3], [2, 6, 6, 8, 3], [2, 1, 10, 4, 3]]
DEBUG = (  # a small language model, for the command line
    "experiment=ptb_debug",
    "dataset.sentences=60",
    "model.embed=6",
    "model.hidden=8",
    "model.latent=2",
    "train.batch_size=8",
    "train.epochs=3",
    "train.log_every=4",
    "train.save_every=5",
)
REVIEWS = (  # a small task=yelp
    "task=yelp",
    "model.embed=6",
    "model.filters=4",
    "model.latent=3",
    "model.hidden=8",
    "train.epochs=2",
    "train.batch_size=8",
    "train.log_every=4",
    "train.save_every=5",
    "dataset.share={train:1.0,val:1.0,test:1.0}",
    "dataset.min_count=1",
    "task.mi_examples=10",
    "task.path_sentences=4",
    "task.iw_samples=2",
    "task.iw_sentences=4",
    "task.finetune.modes=[]",
    "task.finetune.shares=[0.1,0.5,1.0]",
    "task.finetune.seeds=2",
    "task.finetune.val_least=6",
    "task.finetune.penalties=[0.1,10.0]",
    "task.finetune.batch_size=8",
    "task.finetune.epochs=1",
    "task.finetune.least_updates=4",
    "task.finetune.checks=2",
    "task.finetune.map_sentences=12",
)
MEASURED = {"path_sentences": 4, "iw_samples": 3, "iw_sentences": 2, "iw_chunk": 4}
TEXTS = [
    f"{who} {adjective} {animal} saw it"
    for who in ("the", "a", "my", "no")
    for adjective in ("old", "red", "wild")
    for animal in ("cat", "dog", "fox", "hen")
]
layers = pytest.mark.parametrize("layers", [1, 2])


def make(words: int = WORDS, seed: int = 0, **values) -> SentenceVAE:
    """A small model with weights large enough for every path to matter."""
    torch.manual_seed(seed)
    return SentenceVAE(SentenceModel(name="sentence", **(SMALL | {"init": 0.6} | values)), words)


def batch_of(*sentences: list[int]) -> Batch:
    """A padded batch."""
    width = max(map(len, sentences))
    rows = [[*sentence, *[PAD] * (width - len(sentence))] for sentence in sentences]
    return Batch(torch.tensor(rows), torch.tensor([len(sentence) for sentence in sentences]))


def config_of(clip: float | None = 5.0, free_bits: float = 0.0, latent: int = 3, **values) -> Config:
    """A small run on the tiny corpus."""
    defaults = {
        "name": "test",
        "seed": 0,
        "device": "cpu",
        "overwrite": False,
        "threads": None,
        "train": Train(
            steps=10,
            epochs=None,
            batch_size=8,
            clip=clip,
            log_every=1,
            validate_every=None,
            validate_on=["val"],
            save_every=None,
            stop_after=None,
            progress=False,
        ),
        "schedule": Constant(),
        "lr": ConstantRate(),
        "dataset": TinyData("tiny", sentences=60, sampler="bucketed"),
        "model": SentenceModel("sentence", 8, 12, 1, latent, dropout=0.5, word_dropout=0.5, init=0.5),
        "objective": Objective(free_bits),
        "task": LanguageTaskConfig("ptb", mi_examples=None, **MEASURED),
    }
    return Config(**(defaults | values))


def parts(config: Config) -> tuple[SentenceVAE, Splits, LanguageTask]:
    """Model, data and task of a run."""
    torch.manual_seed(config.seed)
    splits = data.build(config.dataset, CPU)
    model = SentenceVAE(config.model, len(splits.vocabulary))
    return model, splits, tasks.build(config, model, splits)


def text_run(configured: Callable[..., Config], folder: Path, *overrides: str) -> RunFolder:
    """A finished run of a few steps on TEXTS, which are folder/corpus."""
    (folder / "corpus").mkdir(parents=True)
    for name in ("train", "valid", "test"):
        (folder / "corpus" / f"{name}.txt").write_text("\n".join(TEXTS) + "\n")
    sizes = ("embed=4", "hidden=6", "latent=3")
    config = configured(
        *(
            "task=ptb",
            "dataset=text",
            f"dataset.path={folder / 'corpus'}",
            *(f"model.{size}" for size in sizes),
        ),
        *("task.iw_samples=3", "task.iw_sentences=5", "train.batch_size=8", "train.epochs=null", "threads=1"),
        *("train.steps=8", "train.validate_every=4", "train.save_every=3", *overrides),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        run.run(config, RunFolder(folder / "run"))
    return RunFolder(folder / "run")


def script(name: str) -> ModuleType:
    """Return a script of `scripts/` as a module."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def choices(group: str) -> list[str]:
    """Return what conf/ offers for a group."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return [file.relative_to(CONF / group).with_suffix("").as_posix() for file in files]
