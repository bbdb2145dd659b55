"""Contradictory combinations of values that are fine alone: one sentence for each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

BYTES = 256
_PATH_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"


class Known(dict[str, Any]):
    """The flat keys with readable values; an absent key matches no rule."""

    def number(self, key: str) -> float:
        """Return the number under a key, else NaN, with which every comparison is false."""
        value = self.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan

    def is_null(self, key: str) -> bool:
        """Return whether the value is known to be null."""
        return self.get(key, ...) is None

    def values_of(self, key: str) -> list[Any] | None:
        """Return the list under a key, None where there is no list."""
        value = self.get(key)
        return value if isinstance(value, list) else None

    def positive(self, group: str, *names: str) -> list[str]:
        """Return the keys of a group that are switched on: true, or a number above 0."""
        return [f"{group}.{name}" for name in names if (self.get(f"{group}.{name}") or 0) > 0]

    def remedies_of_the_loss(self) -> list[str]:
        """Return the keys of `objective` that are switched on."""
        return [key for key, value in self.items() if key.startswith("objective.") and (value or 0) > 0]


def contradictions(values: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each contradiction in the flat keys with readable values."""
    known = Known(values)
    yield from _training(known)
    yield from _parts(known)
    yield from _continuing(known)
    yield from _remedies(known)
    yield from _transformers(known)
    yield from _tasks(known)
    yield from _tokens(known)
    name = known.get("name")
    if isinstance(name, str) and not re.fullmatch(f"{_PATH_PART}(/{_PATH_PART})*", name):
        yield (
            "name must be a relative path of letters, digits, '.', '_' and '-' (at most 100 in a part), since"
            f" it becomes a folder below outputs, found {name!r}"
        )


def _training(known: Known) -> Iterator[str]:
    """Yield what is wrong between train, schedule and lr."""
    if known.is_null("train.steps") and known.is_null("train.epochs"):
        yield "train.steps and train.epochs are both null: one of them must say how long to train"
    splits = known.values_of("train.validate_on")
    if splits is not None and "val" not in splits:
        yield "train.validate_on must contain val, which selects the best checkpoint"
    if splits is not None and len(set(splits)) < len(splits):
        yield "train.validate_on names a split twice"
    steps = known.number("train.steps")
    if 1 <= steps < known.number("schedule.cycles"):
        yield f"schedule.cycles is more than the {steps} updates of train.steps: a cycle needs at least one"
    if 1 <= steps < known.number("lr.warmup"):
        yield f"lr.warmup is more than the {steps} updates of train.steps"
    if known.get("schedule.name") == "none" and known.get("model.latent") == 0:
        yield "schedule=none is an autoencoder and needs a code: model.latent must be > 0"


def _parts(known: Known) -> Iterator[str]:
    """Yield what train.accumulate cannot cut into parts."""
    if not known.number("train.accumulate") > 1:
        return
    for key in known.remedies_of_the_loss() + known.positive("model", "batch_norm"):
        yield f"{key} is about the whole batch, and train.accumulate reads parts of it: leave one of them out"
    if (step := known.get("update.name")) in ("aggressive", "semi_amortized"):
        yield f"train.accumulate is for update=plain, found update={step}"


def _continuing(known: Known) -> Iterator[str]:
    """Yield what is wrong between `continue_from` and what is to follow the end of the run it names."""
    schedule, lr = known.get("schedule.name"), known.get("lr.name")
    if known.is_null("continue_from"):
        for key in ("continue_beta", "continue_lr"):
            if known.get(key) is not None:
                yield f"{key} says what follows the end of another run: continue_from must be its folder"
        return
    if known.get("continue_from") is None:
        return
    if known.get("init_from") is not None:
        yield "init_from and continue_from each name the run that this one starts from: leave one out"
    if known.get("continue_beta") == "cycles" and schedule not in (None, "cyclical"):
        yield f"continue_beta=cycles needs cycles to go on, and schedule={schedule} has none: leave it out"
    if known.get("continue_lr") == "restarts" and lr not in (None, "cosine_restarts"):
        yield f"continue_lr=restarts needs restarts to go on, and lr={lr} has none: leave it out"
    if known.is_null("continue_beta") and schedule == "cyclical":
        yield (
            "continue_from with schedule=cyclical must say what β does after the old end:"
            " continue_beta=cycles (cycles of the same length go on) or hold (its last value)"
        )
    if known.is_null("continue_lr") and lr == "cosine_restarts":
        yield (
            "continue_from with lr=cosine_restarts must say what the learning rate does after the old end:"
            " continue_lr=restarts (they go on) or hold (its last value, which is almost 0)"
        )


def _remedies(known: Known) -> Iterator[str]:
    """Yield what is wrong with remedies, alone and together."""
    off, no_latent = known.get("schedule.name") == "none", known.get("model.latent") == 0
    without = "schedule=none" if off else "model.latent=0"
    rates = known.positive("objective", "free_bits", "free_bits_total", "kl_target")
    if len(rates) > 1:
        yield f"{' and '.join(rates)} each say how much KL there should be: leave all but one out"
    if off or no_latent:
        for key in known.remedies_of_the_loss():
            yield f"{key} acts on the KL or the posterior, and {without} has none: leave one of them out"
    step = known.get("update.name")
    if step in ("aggressive", "semi_amortized") and (off or no_latent):
        yield f"update={step} is about the posterior, and {without} has none: leave one out"
    start = ["model.inject=start"] if known.get("model.inject") == "start" else []
    for key in [*known.positive("model", "batch_norm", "skip"), *start]:
        if no_latent:
            yield f"{key} acts on z, and model.latent=0 has none: leave one of them out"
    if known.get("reset_decoder") is True and known.is_null("init_from"):
        yield "reset_decoder takes the encoder from a finished run: init_from must be its folder"
    if known.get("reset_decoder") is True and no_latent:
        yield "reset_decoder keeps the encoder, and model.latent=0 has none: leave one of them out"
    if known.positive("model", "batch_norm"):
        if known.get("dataset.sampler") == "equal_length":
            yield (
                "model.batch_norm needs several sentences in a batch, and dataset.sampler=equal_length makes"
                " batches of one: dataset.sampler=bucketed does not"
            )
        if known.get("train.batch_size") == 1:
            yield "model.batch_norm needs several sentences in a batch: train.batch_size must be > 1"


def _transformers(known: Known) -> Iterator[str]:
    """Yield what is wrong between the keys of model=transformer."""
    hidden, heads = known.number("model.hidden"), known.number("model.heads")
    if hidden >= 1 and heads >= 1 and hidden % heads:
        yield f"model.hidden={hidden} is shared out among model.heads={heads}: it must be a multiple of them"
    if known.get("model.tied") is True and known.get("model.skip") is True:
        yield (
            "model.skip gives the output layer weights for z, which word vectors have not: model.tied must be"
            " false, or leave skip out"
        )


def _tokens(known: Known) -> Iterator[str]:
    """Yield what is wrong with the tokens of a dataset."""
    tokens, pieces = known.get("dataset.tokens"), known.number("dataset.vocabulary")
    given = known.get("dataset.tokenizer") is not None
    if given and tokens is not None and tokens != "bpe":
        yield f"dataset.tokenizer is for dataset.tokens=bpe, found {tokens}"
    if given and pieces >= 0:
        yield "dataset.tokenizer has its pieces: leave out dataset.vocabulary"
    if known.get("model.name") == "pretrained":
        if tokens != "bpe":
            yield "model=pretrained reads pieces of texts in files: dataset.tokens must be bpe"
        elif pieces >= 0 and not given:
            yield "model=pretrained has the pieces of its checkpoint: leave out dataset.vocabulary"
    elif tokens == "bpe" and not given:
        if known.is_null("dataset.vocabulary"):
            yield "dataset.tokens=bpe needs dataset.vocabulary, how many pieces, or a dataset.tokenizer"
        if pieces < BYTES:
            yield f"dataset.tokens=bpe begins with {BYTES} bytes: dataset.vocabulary must be at least that"


def _tasks(known: Known) -> Iterator[str]:
    """Yield what is wrong between a task, its dataset and its model."""
    task, dataset, model = (known.get(f"{group}.name") for group in ("task", "dataset", "model"))
    no_latent = known.get("model.latent") == 0
    if task == "toy":
        if dataset not in (None, "toy"):
            yield f"task=toy measures the ten synthetic sequences and needs dataset=toy, found {dataset}"
        if no_latent:
            yield "task=toy draws the latent space: model.latent must be > 0"
    if task == "yelp":
        if dataset not in (None, "yelp", "short_yelp", "labelled"):
            yield f"task=yelp classifies labelled sentences: dataset=labelled or yelp, found {dataset}"
        if no_latent:
            yield "task=yelp classifies z: model.latent must be > 0"
        yield from _finetuning(known)
    of_dialogs = [task == "switchboard", dataset in ("switchboard", "dialogs"), model == "dialog"]
    if any(of_dialogs) and not all(of_dialogs) and None not in (task, dataset, model):
        yield (
            "task=switchboard and model=dialog go with dataset=switchboard or dataset=dialogs, found"
            f" task={task}, dataset={dataset} and model={model}"
        )


def _finetuning(known: Known) -> Iterator[str]:
    """Yield what is wrong with the classifiers of task=yelp."""
    lists = {name: known.values_of(f"task.finetune.{name}") for name in ("modes", "shares", "penalties")}
    for name, values in lists.items():
        if values is not None and len(set(values)) < len(values):
            yield f"task.finetune.{name} names a value twice"
        if values == [] and name != "modes" and lists["modes"]:
            yield f"task.finetune.{name} is empty: give one value at least, or leave out all modes"
    starts = known.get("init_from") is not None and not known.get("reset_decoder")
    if starts and lists["modes"] in ([], ["scratch"]):
        yield "init_from restores an encoder: task.finetune.modes must have probe or finetune"
