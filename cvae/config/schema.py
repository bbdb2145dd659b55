"""What a run may say: one frozen dataclass for each group, one field for each key, with its type and range.

Torch-free, so that a wrong command is answered before torch is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Discriminator

from cvae import schedules
from cvae.config import layout
from cvae.errors import UserError
from cvae.io import located
from cvae.program import command_line
from cvae.ranges import Count, Share, fields

ARCHITECTURE = "pretrained.json"  # of model=pretrained: what a run's networks are rebuilt from
SENTIMENTS = ("negative", "positive")  # classes 0 and 1 of reviews
BY_NAME = Discriminator("name")
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Dropout = Annotated[float, Ge(0), Lt(1)]
Split = Literal["train", "val", "test"]
SamplerName = Literal["equal_length", "bucketed"]
Mode = Literal["probe", "finetune", "scratch"]
Tokens = Literal["words", "chars", "bpe"]


@dataclass(frozen=True)
class Train:
    """How to train, for how long, and how often to measure and save; in optimizer steps or epochs."""

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
    keep: Natural | None = 0
    accumulate: Count = 1

    def total(self, epoch: int) -> int:
        """Return T, the number of steps of the whole run, given those of an epoch."""
        return self.steps or (self.epochs or 0) * epoch


@dataclass(frozen=True)
class ToyData:
    """The ten synthetic sequences of the paper's Figures 2 to 4, generated."""

    name: Literal["toy"]
    sequences: Annotated[int, Ge(2), Le(1000)]
    draws: Count
    sampler: SamplerName
    copies: Count = 1


@dataclass(frozen=True)
class TinyData:
    """A small generated corpus of a phrase-structure grammar, for tests and demos."""

    name: Literal["tiny"]
    sentences: Annotated[int, Ge(10), Le(1_000_000)]
    sampler: SamplerName


@dataclass(frozen=True, kw_only=True)
class Files:
    """A data set in files below `path`; `layout` names the file of each split, or split and class."""

    layout: ClassVar[dict[str, str]]

    name: str
    path: str

    def files(self) -> dict[str, Path]:
        """Return the path of each file of the layout."""
        return {key: located(self.path) / name for key, name in self.layout.items()}

    def refuse_missing(self) -> None:
        """Raise UserError for a missing file: where it was looked for, and what fetches it."""
        for path in self.files().values():
            if not path.is_file():
                fetch = command_line("data", self.name)
                raise UserError(
                    f"no data at {path}: {fetch} fetches them; CVAE_DATA or dataset.path says where they are"
                )


@dataclass(frozen=True, kw_only=True)
class SentenceFiles(Files):
    """Sentences in files: how long they may be, what their tokens are, and how they are cut into batches."""

    max_words: Count
    sampler: SamplerName
    tokens: Tokens = "words"
    tokenizer: str | None = None
    min_count: Count = 1
    vocabulary: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TextFiles(SentenceFiles):
    """A folder with train.txt, valid.txt and test.txt: one sentence a line."""

    layout: ClassVar[dict[str, str]] = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}

    longest: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TextData(TextFiles):
    """The Penn Treebank (protocol A1)."""

    name: Literal["ptb"]


@dataclass(frozen=True, kw_only=True)
class NamedFiles(TextFiles):
    """A corpus of the literature: <name>.train.txt, <name>.valid.txt and <name>.test.txt."""

    name: Literal["snli", "yahoo", "yelp15"]

    def files(self) -> dict[str, Path]:
        return {split: located(self.path) / f"{self.name}.{file}" for split, file in self.layout.items()}


@dataclass(frozen=True, kw_only=True)
class OwnFiles(Files):
    """A file, or a folder with files for each split; a split without any is held out of train.

    The files end in one of `extensions`; `content` and `advice` say what `path` must be.
    """

    extensions: ClassVar[tuple[str, ...]]
    content: ClassVar[str]
    advice: ClassVar[str]

    def parts(self) -> dict[str, list[Path]]:
        """Return the files of each split that has any."""
        return layout.parts(located(self.path), self.extensions)

    def files(self) -> dict[str, Path]:
        parts = self.parts()
        train = parts.get("train", [located(self.path) / f"train{self.extensions[0]}"])
        return layout.named({split: parts.get(split, train) for split in layout.SPLIT_NAMES})

    def refuse_missing(self) -> None:
        for path in self.files().values():
            if not path.is_file():
                raise UserError(f"no {self.content} at {path}: dataset.path must be {self.advice}")


@dataclass(frozen=True, kw_only=True)
class OwnText(SentenceFiles, OwnFiles):
    """Any corpus: a file of texts, a folder of splits, or a folder that `datasets` saved.

    val and test each get the share `held_out` of the sentences where they have no file.
    """

    extensions: ClassVar[tuple[str, ...]] = layout.TEXTS
    content: ClassVar[str] = "text"
    advice: ClassVar[str] = (
        "a file with a sentence on each line or row, or a folder with train.txt and, if you have them,"
        " valid.txt and test.txt, or the same as .jsonl, .csv, .tsv or .parquet"
    )

    name: Literal["text"]
    held_out: Annotated[float, Gt(0), Lt(0.5)]
    column: str | None = None
    longest: Count | None = None


@dataclass(frozen=True, kw_only=True)
class HubText(OwnText):
    """A dataset of the Hugging Face hub, whose files are known once it is fetched."""

    name: Literal["hub"]  # type: ignore[assignment]
    subset: str | None = None
    revision: str | None = None

    def files(self) -> dict[str, Path]:
        return {}

    def refuse_missing(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class DialogFiles(Files):
    """A corpus of dialogs: its vocabulary, what a response sees, and how batches are cut."""

    vocabulary: Annotated[int, Ge(3)]
    lower: bool = True
    max_tokens: Annotated[int, Ge(3)]
    window: Annotated[int, Ge(2)]
    consecutive: Count
    whole_passages: bool = True


@dataclass(frozen=True, kw_only=True)
class DialogData(DialogFiles):
    """A folder with train.jsonl, valid.jsonl and test.jsonl: one dialog a line (protocol B1)."""

    layout: ClassVar[dict[str, str]] = {"train": "train.jsonl", "val": "valid.jsonl", "test": "test.jsonl"}

    name: Literal["switchboard"]
    held_out: Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class OwnDialogs(DialogFiles, OwnFiles):
    """Any dialogs, one a line: a file, or a folder with train.jsonl, valid.jsonl and test.jsonl.

    val and test each get the share `held_out` of the dialogs where they have no file.
    """

    extensions: ClassVar[tuple[str, ...]] = (".jsonl",)
    content: ClassVar[str] = "dialogs"
    advice: ClassVar[str] = (
        "a file with a dialog in JSON on each line, or a folder with train.jsonl and, if you have them,"
        " valid.jsonl and test.jsonl, also as .jsonl.gz"
    )

    name: Literal["dialogs"]
    held_out: Annotated[float, Gt(0), Lt(0.5)]


@dataclass(frozen=True)
class Shares:
    """The share of each class's file that a split takes, from its beginning."""

    train: Share
    val: Share
    test: Share


@dataclass(frozen=True, kw_only=True)
class LabelledData(SentenceFiles):
    """Sentences that have a class each."""

    share: Shares


@dataclass(frozen=True, kw_only=True)
class ShenFiles(LabelledData):
    """A folder with sentiment.{train,dev,test}.{0,1}: one sentence a line, a file for each class."""

    layout: ClassVar[dict[str, str]] = {
        f"{split}/{label}": f"sentiment.{part}.{label}"
        for split, part in (("train", "train"), ("val", "dev"), ("test", "test"))
        for label in (0, 1)
    }
    classes: ClassVar[tuple[str, ...]] = SENTIMENTS

    name: Literal["yelp"]

    def refuse_missing(self) -> None:
        super().refuse_missing()
        read = set(self.files().values())
        for path in sorted(located(self.path).glob("sentiment.*.*")):
            if path not in read and re.fullmatch(r"sentiment\.(train|dev|test)\.\w+", path.name):
                raise UserError(f"{path} is a class of its own: dataset=yelp tells two apart, .0 and .1")


@dataclass(frozen=True, kw_only=True)
class ShortYelp(LabelledData):
    """Short reviews (Shen et al. 2020): a line is 0 or 1, a tab and a sentence."""

    layout: ClassVar[dict[str, str]] = {
        "train": "short_yelp.train.txt",
        "val": "short_yelp.valid.txt",
        "test": "short_yelp.test.txt",
    }
    classes: ClassVar[tuple[str, ...]] = SENTIMENTS

    name: Literal["short_yelp"]


@dataclass(frozen=True, kw_only=True)
class OwnLabels(LabelledData):
    """Any labelled sentences: a table, a folder of these for splits, or folders with one for each class.

    val and test each get the share `held_out` of each class where they have no file.
    """

    name: Literal["labelled"]
    held_out: Annotated[float, Gt(0), Lt(0.5)]
    column: str | None
    label: str | None
    longest: Count | None

    def parts(self) -> dict[str, list[Path]]:
        """Return the tables, or the folders of classes, of each split that has any."""
        return layout.labelled_parts(located(self.path))

    def files(self) -> dict[str, Path]:
        return layout.named(self.parts())

    def refuse_missing(self) -> None:
        parts = self.parts()
        if not parts.get("train") or not all(path.exists() for path in parts["train"]):
            raise UserError(
                f"no labelled sentences at {located(self.path)}: dataset.path must be a .csv, .tsv, .jsonl or"
                " .parquet file, a folder with train and, if you have them, valid and test of these, or a"
                " folder with a folder of .txt files for each class"
            )


@dataclass(frozen=True)
class SentenceModel:
    """LSTM encoder, diagonal Gaussian z, LSTM decoder: protocol A2 of the paper's PTB experiment."""

    name: Literal["sentence"]
    embed: Count
    hidden: Count
    layers: Count
    latent: Natural
    dropout: Dropout
    word_dropout: Annotated[float, Ge(0), Le(1)]
    init: Positive
    inject: Literal["inputs", "start"] = "inputs"
    batch_norm: Annotated[float, Ge(0)] = 0.0
    skip: bool = False


@dataclass(frozen=True)
class ReviewModel:
    """CNN encoder, diagonal Gaussian z, LSTM decoder: protocol C2 of the paper's Yelp experiment."""

    name: Literal["review"]
    embed: Count
    filters: Count
    latent: Count
    hidden: Count
    layers: Count
    dropout: Dropout
    word_dropout: Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class TransformerModel:
    """Bidirectional encoder, diagonal Gaussian z, causal decoder: Optimus (Li et al. 2020) from scratch."""

    name: Literal["transformer"]
    hidden: Count
    layers: Count
    heads: Count
    latent: Natural
    dropout: Dropout
    word_dropout: Annotated[float, Ge(0), Le(1)]
    init: Positive
    inject: Literal["memory", "embedding", "both"]
    batch_norm: Annotated[float, Ge(0)] = 0.0
    skip: bool = False
    tied: bool = False


@dataclass(frozen=True)
class PretrainedModel:
    """Pretrained GPT-2 or T5 as encoder and decoder, with a diagonal Gaussian z between them."""

    name: Literal["pretrained"]
    decoder: str
    encoder: str | None
    latent: Natural
    dropout: Dropout
    word_dropout: Annotated[float, Ge(0), Le(1)]
    inject: Literal["memory", "prefix"]
    prefix: Count
    freeze: list[Literal["encoder", "decoder", "embeddings"]]
    batch_norm: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True)
class DialogModel:
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
    word_dropout: Annotated[float, Ge(0), Le(1)]
    init: Positive
    vectors: str | None


@dataclass(frozen=True)
class Objective:
    """What is added to or changed in nll + β KL: the arguments of `cvae.models.objective.loss`."""

    free_bits: Annotated[float, Ge(0)]
    free_bits_total: Annotated[float, Ge(0)] = 0.0
    kl_target: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How much of a split the costlier measures use; null is all of it.

    `reported`: the checkpoint whose numbers and sentences are a run's results, best by validation or last.
    """

    reported: ClassVar[str] = "best"

    path_sentences: Annotated[int, Ge(2)] | None
    iw_samples: Natural
    iw_sentences: Count | None
    iw_chunk: Count


@dataclass(frozen=True)
class ToyTaskConfig(TaskConfig):
    """The synthetic experiment: language modelling plus pictures and measures of the latent plane.

    All its optima have the same bound, so the best val/elbo would select a checkpoint by its noise.
    """

    reported: ClassVar[str] = "last"

    name: Literal["toy"]
    samples: Annotated[int, Ge(10)]


@dataclass(frozen=True)
class LanguageTaskConfig(TaskConfig):
    """Language modelling: the ELBO, the likelihood, and the use of z."""

    name: Literal["ptb"]
    mi_examples: Annotated[int, Ge(2)] | None


@dataclass(frozen=True)
class Finetune:
    """The second stage of task=yelp: classifiers on growing shares of the labels."""

    modes: list[Mode]
    shares: list[Share]
    seeds: Count
    val_ratio: Positive
    val_least: Count
    penalties: list[Positive]
    dropped: Annotated[float, Ge(0), Lt(1)]
    batch_size: Count
    lr: Positive
    encoder_lr: Positive
    epochs: Count
    least_updates: Count
    checks: Count
    patience: Count
    map_sentences: Natural


@dataclass(frozen=True, kw_only=True)
class ReviewTaskConfig(TaskConfig):
    """Language modelling of reviews, then the classification of their sentiment from z."""

    name: Literal["yelp"]
    mi_examples: Annotated[int, Ge(2)] | None
    finetune: Finetune


@dataclass(frozen=True, kw_only=True)
class DialogTaskConfig(TaskConfig):
    """Dialog responses: the ELBO, the use of z, and the quality and diversity of answers."""

    name: Literal["switchboard"]
    mi_examples: Annotated[int, Ge(2)] | None
    patience: Count | None
    contexts: Annotated[int, Ge(2)] | None
    samples: Count
    temperature: Annotated[float, Ge(0)]
    top_p: Share
    forbid_unknown: bool
    references: str | None
    vectors: str | None
    examples: Natural


@dataclass(frozen=True)
class Plain:
    """One Adam step on all parameters."""

    name: Literal["plain"] = "plain"


@dataclass(frozen=True)
class Aggressive:
    """The encoder catches up before every step of the decoder: `cvae.training.steps.aggressive`."""

    name: Literal["aggressive"]
    window: Count
    most: Count


@dataclass(frozen=True)
class SemiAmortized:
    """Gradient steps on each sentence's posterior: `cvae.training.steps.semi_amortized`."""

    name: Literal["semi_amortized"]
    steps: Count
    lr: Positive
    momentum: Annotated[float, Ge(0), Lt(1)]
    clip: Positive


Sentences = ToyData | TinyData | TextData | NamedFiles | OwnText | HubText
Dataset = Sentences | ShenFiles | ShortYelp | OwnLabels | DialogData | OwnDialogs
ModelConfig = SentenceModel | DialogModel | ReviewModel | TransformerModel | PretrainedModel
AnyTask = ToyTaskConfig | LanguageTaskConfig | DialogTaskConfig | ReviewTaskConfig


@dataclass(frozen=True)
class Config:
    """A whole run. A default stands for what was done before the key existed."""

    # a float is no whole number, true is no number, and unknown keys are refused
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    name: str
    seed: Annotated[int, Ge(0), Lt(2**63)]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Ge(1), Le(4096)] | None
    overwrite: bool
    train: Train
    schedule: Annotated[schedules.Schedule, BY_NAME]
    lr: Annotated[schedules.LearningRate, BY_NAME]
    dataset: Annotated[Dataset, BY_NAME]
    model: Annotated[ModelConfig, BY_NAME]
    objective: Objective
    task: Annotated[AnyTask, BY_NAME]
    update: Annotated[Plain | Aggressive | SemiAmortized, BY_NAME] = Plain()
    init_from: str | None = None
    reset_decoder: bool = False
    continue_from: str | None = None
    continue_beta: Literal["hold", "cycles"] | None = None
    continue_lr: Literal["hold", "restarts"] | None = None
    tracker: Literal["trackio"] | None = None
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    jobs_per_gpu: Annotated[int, Ge(1), Le(64)] = 1

    @property
    def container(self) -> dict[str, Any]:
        """The configuration as a nested dict, as run.json keeps it."""
        return dataclasses.asdict(self)

    @property
    def autoencoder(self) -> bool:
        """Whether z is the posterior mean, so that there is no ELBO: `schedule=none`."""
        return isinstance(self.schedule, schedules.Autoencoder)

    @property
    def source(self) -> Path:
        """The folder of the run that `init_from` or `continue_from` names."""
        return located(self.init_from or self.continue_from or "")

    def beside_data(self, name: str) -> Path:
        """Return the path of a file in the data set's folder, or of an absolute `name`."""
        folder = self.dataset.path if isinstance(self.dataset, Files) else ""
        return located(folder) / Path(name).expanduser()

    @property
    def pretrains(self) -> bool:
        """Whether a language model is trained: always, except where task=yelp only classifies."""
        if not isinstance(self.task, ReviewTaskConfig):
            return True
        return (self.init_from is None or self.reset_decoder) and self.task.finetune.modes != ["scratch"]


# keys that may differ between two starts of the same run; all others are its identity
NOT_IDENTITY = {"name", "overwrite", "device", "threads", "jobs_per_gpu", "dataset.path", "tracker"}
NOT_IDENTITY |= {"train.stop_after", "train.progress", "train.keep"}


@functools.cache
def options(hint: Any) -> dict[str, type]:
    """Return the classes of a group by `name`, from its annotation; none for another annotation."""
    if not any(isinstance(part, Discriminator) for part in getattr(hint, "__metadata__", ())):
        return {}
    union = typing.get_args(hint)[0]
    return {name: cls for cls in typing.get_args(union) for name in typing.get_args(fields(cls)["name"])}


def reported(container: dict[str, Any]) -> str:
    """Return the checkpoint that the task of a recorded configuration reports (`TaskConfig`)."""
    task = container.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    return getattr(options(fields(Config)["task"]).get(str(name)), "reported", TaskConfig.reported)
