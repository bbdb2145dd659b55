"""What tests of several rooms share: small models, batches, configurations and paths."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from torch import Tensor

from cvae import data, tasks
from cvae.cli.help import GROUPS
from cvae.cli.overrides import quoted
from cvae.config.load import load
from cvae.config.schema import Config, LanguageTaskConfig, Objective, SentenceModel, TinyData, Train
from cvae.data.text import Batch, Splits
from cvae.data.vocabulary import PAD
from cvae.models.decode import SamplingOptions, beam_search, generate
from cvae.models.sentence import SentenceVAE
from cvae.models.text import TextVAE
from cvae.runs.folder import RunFolder
from cvae.schedules import Constant, ConstantRate
from cvae.tasks.language_model import LanguageTask
from cvae.training import run

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
REMEDIES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONF / "remedy").glob("*.yaml"))}
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


def codes(model: TextVAE, *shape: int) -> Tensor:
    """Codes drawn from the prior, [*shape, Z]."""
    return torch.randn(*shape, model.config.latent, generator=torch.Generator().manual_seed(1))


def logits_of(model: TextVAE, batch: Batch, z: Tensor) -> Tensor:
    """Logits with teacher forcing, [B, T, V]."""
    return model.decoder.output(model.decoder.states(batch.inputs, z))


def moved_logits(model: TextVAE, sentence: list[int], word: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each place and how far `word` there moves the logits of every place, [T]."""
    batch, z = batch_of(sentence), codes(model, 1)
    before = logits_of(model, batch, z)
    for place in range(1, batch.inputs.size(1)):
        other = batch.tokens.clone()
        other[0, place] = word
        yield place, (logits_of(model, Batch(other, batch.lengths), z) - before).abs().amax((0, 2))


def moved_means(model: TextVAE, sentence: list[int], word: int) -> list[float]:
    """How far the posterior's mean moves for `word` at each place and, last, for two words swapped."""
    others = [[*sentence[:place], word, *sentence[place + 1 :]] for place in range(1, len(sentence) - 1)]
    others.append([sentence[0], sentence[2], sentence[1], *sentence[3:]])
    mean = model.posterior(batch_of(sentence)).mean
    return [(model.posterior(batch_of(other)).mean - mean).abs().max().item() for other in others]


def check_words_one_by_one(model: TextVAE, batch: Batch, atol: float) -> None:
    """Assert that the cache gives the logits of the whole sentences."""
    z = codes(model, len(batch.tokens))
    whole, state = logits_of(model, batch, z), model.begin(None, z)
    for place, words in enumerate(batch.inputs.T):
        assert all(part.size(-2) == len(z) for part in state)
        logits, state = model.step(words, state)
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-4, atol=atol)


def check_greedy(model: TextVAE, z: Tensor) -> None:
    """Assert that the most likely words are those of each code alone and those of a beam of one."""
    greedy = generate(model, None, z, 8, SamplingOptions())
    assert beam_search(model, None, z, 8, SamplingOptions(beam=1)) == greedy
    for own, row in zip(z, greedy, strict=True):
        assert generate(model, None, own[None], 8, SamplingOptions()) == [row]


@functools.cache
def _chosen(environment: tuple[str | None, ...], choices: tuple[str, ...]) -> DictConfig:
    """What Hydra composes from choices of groups; conf/ may refer to the environment."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(choices))


def configured(*overrides: str) -> Config:
    """The typed configuration of a command line.

    Choices of groups are composed once, and values set in a copy, as Hydra itself sets them in the end.
    """
    items = OverridesParser.create().parse_overrides(list(map(quoted, overrides)))
    choices = tuple(str(item.input_line) for item in items if item.key_or_group in GROUPS)
    composed = copy.deepcopy(_chosen((os.environ.get("CVAE_DATA"), os.environ.get("HOME")), choices))
    for item in items:
        if item.key_or_group not in GROUPS:
            OmegaConf.update(composed, item.key_or_group, item.value(), merge=True)
    return load(composed)


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


def unloadable(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Make `import library` fail as where it is installed and a part of it cannot be loaded."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == library:
                raise ImportError(f"lib{library}.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, library)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


def choices(group: str) -> list[str]:
    """Return what conf/ offers for a group."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return [file.relative_to(CONF / group).with_suffix("").as_posix() for file in files]


def board(folder: Path) -> dict[str, list[int]]:
    """The steps of every scalar and picture, and of the sample texts, as TensorBoard reads the folder."""
    shown = dict.fromkeys(("scalars", "images", "text"), 0)
    events = EventAccumulator(str(folder), size_guidance={}, tensor_size_guidance=shown)
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith(("_hparams_", "custom_scalars"))]
    return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}
