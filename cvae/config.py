"""The typed configuration: what Hydra composed, checked once, with every mistake named.

Torch-free, so that a wrong command is answered before torch is imported. `load` turns the composed
container into a frozen `Config` or raises `ConfigError`, whose sentences report together: unknown and
missing keys, wrong types, values out of range and combinations that contradict each other.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from omegaconf import DictConfig

from cvae import schedules
from cvae.ranges import Checked, Count, Range, hints
from cvae.reading import UNKNOWN, Choice, ConfigError, Reader, UserError, flatten

Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Dropout = Annotated[float, Range(least=0, below=1)]
Split = Literal["train", "val", "test"]
Sampler = Literal["equal_length", "bucketed"]
Mode = Literal["probe", "finetune", "scratch"]
Share = Annotated[float, Range(above=0, most=1)]


@dataclass(frozen=True)
class Train(Checked):
    """How long and how to train, and how often to look. Units: updates, unless a key says epochs."""

    steps: Count | None
    epochs: Count | None
    batch_size: Count
    clip: Positive | None
    log_every: Count
    validate_every: Count | None
    validate_on: list[Split]
    save_every: Count | None
    stop_after: Count | None
    progress: bool


@dataclass(frozen=True)
class ToyData(Checked):
    """The ten synthetic sequences of the paper's Figures 2 to 4, generated."""

    name: Literal["toy"]
    sequences: Annotated[int, Range(least=2, most=1000)]
    draws: Count
    sampler: Sampler


@dataclass(frozen=True)
class TinyData(Checked):
    """A small generated corpus with something language-like in it, for tests and demos."""

    name: Literal["tiny"]
    sentences: Annotated[int, Range(least=10, most=1_000_000)]
    sampler: Sampler


@dataclass(frozen=True, kw_only=True)
class Files(Checked):
    """A data set that lies below `path`; `files` says in which files."""

    name: str
    path: str

    def files(self) -> dict[str, Path]:
        """Every file that is read, by the split (and class) it holds."""
        raise NotImplementedError

    def refuse_missing(self) -> None:
        """Raises UserError, with the path looked at and what fetches it, where a file is not there."""
        for path in self.files().values():
            if not path.is_file():
                raise UserError(
                    f"no data at {path}: python scripts/get_data.py {self.name} fetches them;"
                    " CVAE_DATA or dataset.path says where they are"
                )


@dataclass(frozen=True, kw_only=True)
class TextData(Files):
    """A folder with train.txt, valid.txt and test.txt: one sentence a line, words split at spaces."""

    name: Literal["ptb"]
    max_words: Count
    sampler: Sampler
    longest: Count | None = None
    vocabulary: Count | None = None

    def files(self) -> dict[str, Path]:
        names = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
        return {split: Path(self.path).expanduser() / name for split, name in names.items()}


@dataclass(frozen=True, kw_only=True)
class OwnText(Files):
    """Anybody's corpus, one sentence a line: a file, or a folder with train.txt, valid.txt and test.txt.

    `held_out` is the share of the sentences that val, and as many that test, get where they have no file.
    """

    name: Literal["text"]
    max_words: Count
    min_count: Count
    vocabulary: Count | None
    held_out: Annotated[float, Range(above=0, below=0.5)]
    sampler: Sampler

    def files(self) -> dict[str, Path]:
        path = Path(self.path).expanduser()
        if not path.is_dir():
            return {"train": path}
        others = {"val": path / "valid.txt", "test": path / "test.txt"}
        return {"train": path / "train.txt"} | {
            split: file for split, file in others.items() if file.exists()
        }

    def refuse_missing(self) -> None:
        for path in self.files().values():
            if not path.is_file():
                raise UserError(
                    f"no text at {path}: dataset.path must be a file with a sentence on each line,"
                    " or a folder with train.txt and, if you have them, valid.txt and test.txt"
                )


@dataclass(frozen=True, kw_only=True)
class DialogData(Files):
    """A folder with train.jsonl, valid.jsonl and test.jsonl: one dialog a line (protocol B1)."""

    name: Literal["switchboard"]
    vocabulary: Annotated[int, Range(least=3)]
    max_tokens: Annotated[int, Range(least=3)]
    window: Annotated[int, Range(least=2)]
    held_out: Annotated[float, Range(least=0, below=1)]
    consecutive: Count

    def files(self) -> dict[str, Path]:
        names = {"train": "train.jsonl", "val": "valid.jsonl", "test": "test.jsonl"}
        return {split: Path(self.path).expanduser() / name for split, name in names.items()}


@dataclass(frozen=True)
class Shares(Checked):
    """How much of each class's file a split takes: its first sentences."""

    train: Share
    val: Share
    test: Share


@dataclass(frozen=True, kw_only=True)
class LabelledData(Files):
    """A folder with sentiment.{train,dev,test}.{0,1}: one sentence a line, a file for each class."""

    name: Literal["yelp"]
    share: Shares
    min_count: Count
    max_words: Count
    sampler: Sampler

    def files(self) -> dict[str, Path]:
        names = {"train": "train", "val": "dev", "test": "test"}
        folder = Path(self.path).expanduser()
        return {
            f"{split}/{label}": folder / f"sentiment.{name}.{label}"
            for split, name in names.items()
            for label in (0, 1)
        }


@dataclass(frozen=True)
class SentenceModel(Checked):
    """LSTM encoder, diagonal Gaussian z, LSTM decoder: protocol A2 of the paper's PTB experiment."""

    name: Literal["sentence"]
    embed: Count
    hidden: Count
    layers: Count
    latent: Natural
    dropout: Dropout
    word_dropout: Annotated[float, Range(least=0, most=1)]
    init: Positive
    batch_norm: Annotated[float, Range(least=0)] = 0.0
    skip: bool = False


@dataclass(frozen=True)
class ReviewModel(Checked):
    """CNN encoder, diagonal Gaussian z, LSTM decoder: protocol C2 of the paper's Yelp experiment."""

    name: Literal["review"]
    embed: Count
    filters: Count
    latent: Count
    hidden: Count
    layers: Count
    dropout: Dropout
    word_dropout: Annotated[float, Range(least=0, most=1)]


@dataclass(frozen=True)
class DialogModel(Checked):
    """The conditional VAE of the paper's dialog experiment: protocol B2."""

    name: Literal["dialog"]
    embed: Count
    utterance: Count
    context: Count
    topic: Count
    latent: Count
    prior: Count
    decoder: Count
    bow: bool
    bow_hidden: Count
    dropout: Dropout
    word_dropout: Annotated[float, Range(least=0, most=1)]
    init: Positive
    vectors: str | None


@dataclass(frozen=True)
class Objective(Checked):
    """What is added to, or changed in, nll + β KL: the keys are those of `cvae.objective.loss`."""

    free_bits: Annotated[float, Range(least=0)]
    free_bits_total: Annotated[float, Range(least=0)] = 0.0
    kl_target: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Checked):
    """How much of a split the costlier measures look at; null is all of it.

    `reported`: the checkpoint, best by validation or last, whose numbers and sentences a run's results are.
    """

    reported: ClassVar[str] = "best"

    path_sentences: Annotated[int, Range(least=2)] | None
    iw_samples: Natural
    iw_sentences: Count | None
    iw_chunk: Count


@dataclass(frozen=True)
class ToyTask(Measured):
    """The synthetic experiment: language modelling plus pictures and measures of the latent plane.

    All its optima have the same bound, so the best val/elbo would choose a checkpoint by its noise.
    """

    reported: ClassVar[str] = "last"

    name: Literal["toy"]
    samples: Annotated[int, Range(least=10)]


@dataclass(frozen=True)
class LanguageTask(Measured):
    """Language modelling: the bound, the likelihood, and how much of it goes through z."""

    name: Literal["ptb"]
    mi_examples: Annotated[int, Range(least=2)] | None


@dataclass(frozen=True)
class Finetune(Checked):
    """The second stage of task=yelp: classifiers on growing shares of the labels."""

    modes: list[Mode]
    shares: list[Share]
    seeds: Count
    val_ratio: Positive
    val_least: Count
    penalties: list[Positive]
    dropped: Annotated[float, Range(least=0, below=1)]
    batch_size: Count
    lr: Positive
    encoder_lr: Positive
    epochs: Count
    least_updates: Count
    checks: Count
    patience: Count
    map_sentences: Natural


@dataclass(frozen=True, kw_only=True)
class ReviewTask(Measured):
    """Language modelling of reviews, then how well z tells their sentiment."""

    name: Literal["yelp"]
    mi_examples: Annotated[int, Range(least=2)] | None
    finetune: Finetune


@dataclass(frozen=True)
class DialogTask(LanguageTask):
    """Answering in a dialog: the bound, the use of z, and how good and how diverse answers are."""

    name: Literal["switchboard"]
    patience: Count | None
    contexts: Annotated[int, Range(least=2)] | None
    samples: Count
    temperature: Annotated[float, Range(least=0)]
    top_p: Annotated[float, Range(above=0, most=1)]
    forbid_unknown: bool
    references: str | None
    vectors: str | None
    examples: Natural


@dataclass(frozen=True)
class Plain(Checked):
    """One Adam step on all parameters."""

    name: Literal["plain"] = "plain"


@dataclass(frozen=True)
class Aggressive(Checked):
    """The encoder catches up before every step of the decoder: `cvae.update.aggressive`."""

    name: Literal["aggressive"]
    window: Count
    most: Count


@dataclass(frozen=True)
class SemiAmortized(Checked):
    """Gradient steps on each sentence's posterior: `cvae.update.semi_amortized`."""

    name: Literal["semi_amortized"]
    steps: Count
    lr: Positive
    momentum: Annotated[float, Range(least=0, below=1)]
    clip: Positive


SCHEDULES = {
    "constant": schedules.Constant,
    "monotonic": schedules.Monotonic,
    "cyclical": schedules.Cyclical,
    "none": schedules.Off,
}
RATES = {
    "constant": schedules.ConstantRate,
    "cosine_restarts": schedules.CosineRestarts,
    "exponential": schedules.Exponential,
}
DATASETS = {
    "toy": ToyData,
    "tiny": TinyData,
    "ptb": TextData,
    "text": OwnText,
    "switchboard": DialogData,
    "yelp": LabelledData,
}
MODELS = {"sentence": SentenceModel, "dialog": DialogModel, "review": ReviewModel}
UPDATES = {"plain": Plain, "aggressive": Aggressive, "semi_amortized": SemiAmortized}
TASKS = {"toy": ToyTask, "ptb": LanguageTask, "switchboard": DialogTask, "yelp": ReviewTask}


def reported(container: dict[str, Any]) -> str:
    """The checkpoint that the task of a recorded configuration reports: see `Measured`."""
    task = container.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    return TASKS.get(str(name), Measured).reported


@dataclass(frozen=True)
class Config(Checked):
    """A whole run. `container` is the plain nested dict it was made from."""

    name: str
    seed: Annotated[int, Range(least=0, below=2**63)]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Range(least=1, most=4096)] | None
    overwrite: bool
    train: Train
    schedule: Annotated[Any, Choice(SCHEDULES)]
    lr: Annotated[Any, Choice(RATES)]
    dataset: Annotated[Any, Choice(DATASETS)]
    model: Annotated[Any, Choice(MODELS)]
    objective: Objective
    task: Annotated[Any, Choice(TASKS)]
    update: Annotated[Any, Choice(UPDATES)] = Plain()
    init_from: str | None = None
    reset_decoder: bool = False
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    container: dict[str, Any] = dataclasses.field(repr=False, compare=False, default_factory=dict)

    @property
    def autoencoder(self) -> bool:
        """`schedule=none`: z is the posterior mean, and there is no ELBO."""
        return isinstance(self.schedule, schedules.Off)

    @property
    def pretrains(self) -> bool:
        """Whether there is anything to train before the classifiers of task=yelp."""
        if not isinstance(self.task, ReviewTask):
            return True
        return (self.init_from is None or self.reset_decoder) and self.task.finetune.modes != ["scratch"]


_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"

# what may change between two starts of the same run; everything else is the run's identity
NOT_IDENTITY = {
    "name",
    "overwrite",
    "device",
    "threads",
    "train.stop_after",
    "train.progress",
    "dataset.path",
}


# keys that came after the first published runs, with the value that says what was done before
CAME_LATER: dict[str, Any] = {
    "init_from": None,
    "reset_decoder": False,
    "precision": "float32",
    "dataset.longest": None,
    "dataset.vocabulary": None,
    "model.batch_norm": 0.0,
    "model.skip": False,
    "objective.free_bits_total": 0.0,
    "objective.kl_target": None,
    "update.name": "plain",
}


def identity(container: dict[str, Any]) -> dict[str, Any]:
    """The flat keys and values by which a folder knows its run, as they were before keys came later."""
    absent = object()
    return {
        key: value
        for key, value in flatten(container).items()
        if key not in NOT_IDENTITY and CAME_LATER.get(key, absent) != value
    }


def completed(container: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the keys that came later than its run."""
    container = copy.deepcopy(container)
    for key, value in CAME_LATER.items():
        *groups, last = key.split(".")
        section = container
        for group in groups:
            section = section.setdefault(group, {})
        if _has(key, container):
            section.setdefault(last, value)
    return container


def _has(key: str, container: dict[str, Any]) -> bool:
    """Whether a configuration may hold a key: of a group, only if the class that its name chooses has it."""
    group, _, last = key.rpartition(".")
    kinds = [
        part for part in getattr(hints(Config).get(group), "__metadata__", ()) if isinstance(part, Choice)
    ]
    named = container[group].get("name") if kinds and last != "name" else None
    chosen = kinds[0].options.get(named) if named else None
    return chosen is None or last in hints(chosen)


def contradictions(config: Any) -> typing.Iterator[str]:
    """One sentence for each combination of values that makes no sense; each alone is fine.

    `config` may hold UNKNOWN wherever a value could not be read.
    """
    train, latent = config.train, getattr(config.model, "latent", UNKNOWN)
    dataset = getattr(config.dataset, "name", UNKNOWN)
    off = isinstance(config.schedule, schedules.Off)
    if getattr(train, "steps", UNKNOWN) is None and getattr(train, "epochs", UNKNOWN) is None:
        yield "train.steps and train.epochs are both null: one of them must say how long to train"
    watched = getattr(train, "validate_on", UNKNOWN)
    if isinstance(watched, list) and "val" not in watched:
        yield "train.validate_on must contain val, which selects the best checkpoint"
    if isinstance(watched, list) and len(set(watched)) < len(watched):
        yield "train.validate_on names a split twice"
    updates = getattr(train, "steps", None) or UNKNOWN
    if 1 <= updates < getattr(config.schedule, "cycles", 1):
        yield f"schedule.cycles is more than the {updates} updates of train.steps: a cycle needs at least one"
    if 1 <= updates < getattr(config.lr, "warmup", 0):
        yield f"lr.warmup is more than the {updates} updates of train.steps"
    if off and latent == 0:
        yield "schedule=none is an autoencoder and needs a code: model.latent must be > 0"
    yield from _contradictory_remedies(config, off, latent)
    if getattr(config.task, "name", None) == "toy":
        if isinstance(dataset, str) and dataset != "toy":
            yield f"task=toy measures the ten synthetic sequences and needs dataset=toy, found {dataset}"
        if latent == 0:
            yield "task=toy draws the latent space: model.latent must be > 0"
    if getattr(config.task, "name", None) == "yelp":
        if isinstance(dataset, str) and dataset != "yelp":
            yield f"task=yelp classifies labelled sentences and needs dataset=yelp, found {dataset}"
        if latent == 0:
            yield "task=yelp classifies z: model.latent must be > 0"
        yield from _finetune_contradictions(config)
    names = [getattr(part, "name", UNKNOWN) for part in (config.task, config.dataset, config.model)]
    dialog = [name == of for name, of in zip(names, ("switchboard", "switchboard", "dialog"), strict=True)]
    if any(dialog) and not all(dialog) and UNKNOWN not in names:
        task, dataset, model = names
        yield (
            "task=switchboard, dataset=switchboard and model=dialog go together, found"
            f" task={task}, dataset={dataset} and model={model}"
        )
    if isinstance(config.name, str) and not re.fullmatch(f"{_PLAIN}(/{_PLAIN})*", config.name):
        yield (
            "name must be a relative path of letters, digits, '.', '_' and '-' (at most 100 in a part), since"
            f" it becomes a folder below outputs, found {config.name!r}"
        )


def _contradictory_remedies(config: Any, off: bool, latent: int) -> typing.Iterator[str]:
    """The same for remedies, alone and together."""

    def chosen(section: Any, *keys: str) -> list[str]:
        return [key for key in keys if (getattr(section, key, None) or 0) > 0]

    without = "schedule=none" if off else "model.latent=0"
    rates = [
        f"objective.{key}" for key in chosen(config.objective, "free_bits", "free_bits_total", "kl_target")
    ]
    if len(rates) > 1:
        yield f"{' and '.join(rates)} each say how much KL there should be: leave all but one out"
    for key in rates if off or latent == 0 else ():
        yield f"{key} bounds a KL term, and {without} has none: leave one of them out"
    if isinstance(config.update, Aggressive | SemiAmortized) and (off or latent == 0):
        yield f"update={config.update.name} is about the posterior, and {without} has none: leave one out"
    for key in chosen(config.model, "batch_norm", "skip") if latent == 0 else ():
        yield f"model.{key} acts on z, and model.latent=0 has none: leave one of them out"
    if config.reset_decoder is True and config.init_from is None:
        yield "reset_decoder takes the encoder from a finished run: init_from must be its folder"
    if config.reset_decoder is True and latent == 0:
        yield "reset_decoder keeps the encoder, and model.latent=0 has none: leave one of them out"
    if chosen(config.model, "batch_norm"):
        if getattr(config.dataset, "sampler", None) == "equal_length":
            yield (
                "model.batch_norm needs several sentences in a batch, and dataset.sampler=equal_length makes"
                " batches of one: dataset.sampler=bucketed does not"
            )
        if getattr(config.train, "batch_size", None) == 1:
            yield "model.batch_norm needs several sentences in a batch: train.batch_size must be > 1"


def _finetune_contradictions(config: Any) -> typing.Iterator[str]:
    """The same of the classifiers."""
    finetune = config.task.finetune
    lists = {name: getattr(finetune, name, UNKNOWN) for name in ("modes", "shares", "penalties")}
    for name, values in lists.items():
        if isinstance(values, list) and len(set(values)) < len(values):
            yield f"task.finetune.{name} names a value twice"
        if values == [] and name != "modes" and lists["modes"]:
            yield f"task.finetune.{name} is empty: give one value at least, or leave out all modes"
    if config.init_from is not None and not config.reset_decoder and lists["modes"] in ([], ["scratch"]):
        yield "init_from restores an encoder: task.finetune.modes must have probe or finetune"


def load(composed: DictConfig | dict[str, Any]) -> Config:
    """The typed, frozen configuration.

    Raises ConfigError with one line for each unknown key, wrong type, value out of range and
    contradictory combination.
    """
    reader = Reader()
    container, config = reader.read(Config, composed)
    reader.problems += contradictions(config)
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return dataclasses.replace(config, container=container)
