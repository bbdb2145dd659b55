"""The typed configuration: what Hydra composed, checked once, with every mistake named.

Torch-free, so that a wrong command is answered before torch is imported. `load` turns the composed
container into a frozen `Config` or raises `ConfigError`, whose sentences report together: unknown and
missing keys, wrong types, values out of range and combinations that contradict each other.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cvae import schedules
from cvae.ranges import Checked, Count, Range, hints, violations

Natural = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Dropout = Annotated[float, Range(least=0, below=1)]
Split = Literal["train", "val", "test"]


class UserError(CompactHydraException):
    """A mistake or a circumstance the user can act on: printed as one sentence, without a traceback."""


class ConfigError(UserError):
    """The configuration is wrong; the message holds one line for each problem found."""


@dataclass(frozen=True)
class Choice:
    """Marks a field that holds one of several classes, told apart by the key `name`."""

    options: dict[str, type]


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
    sampler: Literal["equal_length", "bucketed"]


@dataclass(frozen=True)
class TinyData(Checked):
    """A small generated corpus with something language-like in it, for tests and demos."""

    name: Literal["tiny"]
    sentences: Annotated[int, Range(least=10, most=1_000_000)]
    sampler: Literal["equal_length", "bucketed"]


@dataclass(frozen=True)
class TextData(Checked):
    """A folder with train.txt, valid.txt and test.txt: one sentence a line, words split at spaces."""

    name: Literal["ptb"]
    path: str
    max_words: Count
    sampler: Literal["equal_length", "bucketed"]

    def files(self) -> dict[str, Path]:
        """The file of each split."""
        names = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
        return {split: Path(self.path).expanduser() / name for split, name in names.items()}

    def refuse_missing(self) -> None:
        """Raises UserError, with the path looked at and what fetches it, where a file is not there."""
        for path in self.files().values():
            if not path.is_file():
                raise UserError(
                    f"no data at {path}: python scripts/get_data.py {self.name} fetches them;"
                    " CVAE_DATA or dataset.path says where they are"
                )


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


@dataclass(frozen=True)
class Objective(Checked):
    """What is added to, or changed in, nll + β KL."""

    free_bits: Annotated[float, Range(least=0)]


@dataclass(frozen=True, kw_only=True)
class Measured(Checked):
    """How much of a split the costlier measures look at; null is all of it."""

    path_sentences: Annotated[int, Range(least=2)] | None
    iw_samples: Natural
    iw_sentences: Count | None
    iw_chunk: Count


@dataclass(frozen=True)
class ToyTask(Measured):
    """The synthetic experiment: language modelling plus pictures and measures of the latent plane."""

    name: Literal["toy"]
    samples: Annotated[int, Range(least=10)]


@dataclass(frozen=True)
class LanguageTask(Measured):
    """Language modelling: the bound, the likelihood, and how much of it goes through z."""

    name: Literal["ptb"]
    mi_examples: Annotated[int, Range(least=2)] | None


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
DATASETS = {"toy": ToyData, "tiny": TinyData, "ptb": TextData}
MODELS = {"sentence": SentenceModel}
TASKS = {"toy": ToyTask, "ptb": LanguageTask}


@dataclass(frozen=True)
class Config(Checked):
    """A whole run. `container` is the plain nested dict it was made from."""

    name: str
    seed: Annotated[int, Range(least=0, below=2**63)]
    device: Literal["auto", "cpu", "cuda"]
    threads: Count | None
    overwrite: bool
    train: Train
    schedule: Annotated[Any, Choice(SCHEDULES)]
    lr: Annotated[Any, Choice(RATES)]
    dataset: Annotated[Any, Choice(DATASETS)]
    model: Annotated[Any, Choice(MODELS)]
    objective: Objective
    task: Annotated[Any, Choice(TASKS)]
    container: dict[str, Any] = dataclasses.field(repr=False, compare=False, default_factory=dict)

    @property
    def autoencoder(self) -> bool:
        """`schedule=none`: z is the posterior mean, and there is no ELBO."""
        return isinstance(self.schedule, schedules.Off)


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


def flatten(container: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}; lists stay whole."""
    flat = {}
    for key, value in container.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(container: dict[str, Any]) -> dict[str, Any]:
    """The flat keys and values by which a folder knows its run."""
    return {key: value for key, value in flatten(container).items() if key not in NOT_IDENTITY}


# the largest float; a whole number may be larger, and then cannot become one
FINITE = sys.float_info.max

# stands for a value that could not be read; NaN, since it compares false with everything
UNKNOWN = float("nan")


class _Reader:
    """Builds dataclasses from plain containers and collects every problem on the way."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.keys: list[str] = []

    def read(self, composed: DictConfig | dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The plain container with its interpolations resolved, and the Config made from it."""
        container = self.resolved(composed, "")
        self.keys = list(flatten(container))
        return container, self.section(Config, container, "")

    def resolved(self, node: DictConfig | dict[str, Any], path: str) -> dict[str, Any]:
        """The plain dict of a node, Hydra's own part left out; UNKNOWN for what does not resolve."""
        plain = {}
        for key in node:
            if f"{path}{key}" == "hydra":
                continue
            try:
                value = node[key]
                if isinstance(value, ListConfig):
                    value = OmegaConf.to_container(value, resolve=True)
            except OmegaConfBaseException as error:
                self.problems.append(unresolved(error, f"{path}{key}"))
                value = UNKNOWN
            is_group = isinstance(value, DictConfig | dict)
            plain[str(key)] = self.resolved(value, f"{path}{key}.") if is_group else value
        return plain

    def section(self, cls: type, found: Any, path: str, label: str = "") -> Any:
        """An instance of `cls`; where its values are out of range, a stand-in with the same names."""
        label = label or path.rstrip(".")
        if not isinstance(found, dict):
            self.problems.append(f"{label} must be a group of keys, found {shown(found)}")
            return UNKNOWN
        kinds = {name: hint for name, hint in hints(cls).items() if name != "container"}
        for key in found:
            if key not in kinds:
                allowed = [name for name in kinds if not (path and name == "name")]
                self.problems.append(unknown_key(f"{path}{key}", allowed, path, label, self.keys))
        values, complete = {}, True
        for name, hint in kinds.items():
            before = len(self.problems)
            if name in found:
                values[name] = self.value(hint, found[name], f"{path}{name}")
            else:
                self.problems.append(f"{path}{name} is missing")
                values[name] = UNKNOWN
            complete &= len(self.problems) == before and values[name] is not UNKNOWN
        outside = violations(cls, {name: value for name, value in values.items() if value is not UNKNOWN})
        self.problems += [f"{path}{sentence}" for sentence in outside]
        return cls(**values) if complete and not outside else types.SimpleNamespace(**values)

    def choice(self, options: dict[str, type], found: Any, path: str) -> Any:
        """The class that `found["name"]` stands for, built from the other keys."""
        name = found.get("name") if isinstance(found, dict) else None
        if name not in options:
            self.problems.append(f"{path}.name must be one of {listing(options)}, found {shown(name)}")
            return UNKNOWN
        cls = options[name]
        keys = found if "name" in hints(cls) else {k: v for k, v in found.items() if k != "name"}
        return self.section(cls, keys, f"{path}.", f"{path}={name}")

    def value(self, hint: Any, found: Any, path: str) -> Any:
        """`found` as `hint` says, or UNKNOWN with a problem recorded."""
        if found is UNKNOWN:
            return UNKNOWN
        for part in getattr(hint, "__metadata__", ()):
            if isinstance(part, Choice):
                return self.choice(part.options, found, path)
        if dataclasses.is_dataclass(hint):
            return self.section(hint, found, f"{path}.")
        if not fits(hint, found):
            self.problems.append(f"{path} must be {describe(hint)}, found {shown(found)}")
            return UNKNOWN
        return float(found) if bare(hint) is float else found


def bare(hint: Any) -> Any:
    """The annotation without `Annotated`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value has the annotated type; true and false, NaN and inf are not numbers."""
    hint = bare(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(option, value) for option in typing.get_args(hint))
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(typing.get_args(hint)[0], v) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FINITE
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def describe(hint: Any) -> str:
    """The annotation in words, with its range."""
    limit = "".join(f" {part}" for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range))
    hint = bare(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        options = typing.get_args(hint)
        return f"one of {listing(options)}" if len(options) > 1 else str(options[0])
    if origin is list:
        return f"a list, each {describe(typing.get_args(hint)[0])}"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return words.get(hint, "null") + limit


def shown(value: Any) -> str:
    """A value as the command line and YAML spell it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def unresolved(error: OmegaConfBaseException, path: str) -> str:
    """The sentence about a value that refers to what is not there."""
    reason = re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", str(error).splitlines()[0])
    return f"{path} has no value: {reason}"


def listing(names: typing.Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(sorted(names))


def unknown_key(
    key: str, allowed: list[str], where: str = "", label: str = "", elsewhere: typing.Iterable[str] = ()
) -> str:
    """The sentence about a key that nobody reads; `label` names the group that starts with `where`."""
    last = key.removeprefix(where)
    same = [other for other in elsewhere if other.endswith(f".{last}") and other != key]
    close = same or [f"{where}{name}" for name in difflib.get_close_matches(last, allowed, n=1)]
    hint = f", did you mean {close[0]}?" if close else ""
    if key in ("experiment", "remedy"):
        return f"unknown key {key}: a file in conf/{key} starts with the line '# @package _global_'"
    if not allowed:
        return f"unknown key {key}{hint} ({label or where} has no keys)"
    group = f"keys of {label or where.rstrip('.')}" if where else "keys"
    return f"unknown key {key}{hint} ({group}: {listing(allowed)})"


def contradictions(config: Any) -> typing.Iterator[str]:
    """One sentence for each combination of values that makes no sense; each alone is fine.

    `config` may hold UNKNOWN wherever a value could not be read.
    """
    train, latent = config.train, getattr(config.model, "latent", UNKNOWN)
    dataset = getattr(config.dataset, "name", UNKNOWN)
    free_bits = getattr(config.objective, "free_bits", UNKNOWN)
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
    if free_bits > 0 and (off or latent == 0):
        without = "schedule=none" if off else "model.latent=0"
        yield f"objective.free_bits bounds a KL term, and {without} has none: leave one of them out"
    if getattr(config.task, "name", None) == "toy":
        if isinstance(dataset, str) and dataset != "toy":
            yield f"task=toy measures the ten synthetic sequences and needs dataset=toy, found {dataset}"
        if latent == 0:
            yield "task=toy draws the latent space: model.latent must be > 0"
    if isinstance(config.name, str) and not re.fullmatch(f"{_PLAIN}(/{_PLAIN})*", config.name):
        yield (
            "name must be a relative path of letters, digits, '.', '_' and '-' (at most 100 in a part), since"
            f" it becomes a folder below outputs, found {config.name!r}"
        )


def load(composed: DictConfig | dict[str, Any]) -> Config:
    """The typed, frozen configuration.

    Raises ConfigError with one line for each unknown key, wrong type, value out of range and
    contradictory combination.
    """
    reader = _Reader()
    container, config = reader.read(composed)
    reader.problems += contradictions(config)
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return dataclasses.replace(config, container=container)
