"""Every configuration that is committed loads, and every mistake is told in one sentence."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cvae.cli import help
from cvae.config import layout, schema
from cvae.config.load import flatten, identity, load
from cvae.config.messages import describe, unknown_key
from cvae.config.rules import contradictions
from cvae.config.schema import NOT_IDENTITY, Config, options
from cvae.errors import ConfigError, UserError
from cvae.ranges import bounds, interval
from cvae.ranges import fields as annotations
from cvae.runs.folder import RunFolder
from tests.helpers import CONF, DEBUG, JARGON, REVIEWS, choices, configured

FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def fields(cls: type = Config, path: str = "", choice: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each field of the typed configuration: the override it needs, its key and its annotation."""
    for name, hint in annotations(cls).items():
        if chosen := options(hint):
            for option, kind in chosen.items():
                override = f"remedy=[{option}]" if option in choices("remedy") else ""
                override = f"{name}={option}" if option in choices(name) else override
                yield from fields(kind, f"{name}.", override)
        elif dataclasses.is_dataclass(hint):
            yield from fields(hint, f"{path}{name}.", choice)
        elif not (path and name == "name"):
            yield choice, f"{path}{name}", hint


FIELDS = list(fields())
RANGED = [(choice, key, hint) for choice, key, hint in FIELDS if bounds(hint)]
# by hand; of model.latent both, and all other numbers are counts, >= 1
RANGES = {
    f">= 0 and < {2**63}": "seed",
    "> 0": "train.clip lr.value model.init objective.kl_target update.lr update.clip task.finetune.val_ratio"
    " task.finetune.penalties task.finetune.lr task.finetune.encoder_lr",
    ">= 0": "train.keep schedule.start schedule.stop lr.warmup model.batch_norm objective.free_bits"
    " objective.free_bits_total task.iw_samples task.temperature task.examples task.finetune.map_sentences",
    "> 0 and <= 1": "schedule.ratio lr.decay dataset.share.train dataset.share.val dataset.share.test"
    " task.top_p task.finetune.shares",
    ">= 0 and <= 1": "model.word_dropout",
    ">= 0 and < 1": "model.dropout dataset.held_out task.finetune.dropped update.momentum",
    "> 0 and < 0.5": "dataset.held_out",
    ">= 2": "dataset.window task.path_sentences task.mi_examples task.contexts",
    ">= 2 and <= 1000": "dataset.sequences",
    ">= 1 and <= 4096": "threads",
    ">= 1 and <= 64": "jobs_per_gpu",
    ">= 3": "dataset.max_tokens",
    ">= 10": "task.samples",
    ">= 10 and <= 1000000": "dataset.sentences",
}


# what a choice needs beside it: the language model without z, for one, has no latent plane to draw
NEEDED = {
    "dataset=tiny": "task=ptb",
    "dataset=ptb": "task=ptb",
    "dataset=text": "task=ptb dataset.path=mine.txt",
    "dataset=hub": "task=ptb dataset.path=me/mine",
    "model=lm": "task=ptb",
    "dataset=yelp": "task=yelp",
    "dataset=short_yelp": "task=yelp",
    **{f"dataset={name}": "task=ptb" for name in ("snli", "yahoo", "yelp15")},
    "dataset=labelled": "task=yelp dataset.path=mine.csv dataset.label=stars",
    "dataset=switchboard": "task=switchboard",
    "dataset=dialogs": "task=switchboard dataset.path=mine.jsonl",
    "task=dialogs": "dataset.path=mine.jsonl",
    "model=dialog": "task=switchboard",
    "model=pretrained": "task=ptb model.decoder=here dataset.tokens=bpe",
    "remedy=[pretrained]": "init_from=outputs/earlier",
    "remedy=pretrained": "init_from=outputs/earlier",
}

# what conf/ says and what the folder of an older run means that has no such key, where these are not the same
OLD = {
    # of task=toy
    **{(rate, "value"): (1e-3, 1e-4) for rate in ("ConstantRate", "CosineRestarts", "Exponential")},
    **{(data, "whole_passages"): (True, False) for data in ("DialogData", "OwnDialogs")},
    ("ShenFiles", "min_count"): (1, 5),
}


def chosen(group: str, choice: str) -> list[str]:
    """Return the overrides with which a choice of a group loads."""
    override = f"{group}={choice}"
    return [override, *NEEDED.get(override, "").split()]


def fits(hint: Any, value: Any) -> bool:
    """Whether a plain value has the annotated type; true and false, NaN and inf are no numbers."""
    if get_origin(hint) is Annotated:
        return fits(get_args(hint)[0], value)
    if get_origin(hint) in (Union, UnionType):
        return any(fits(option, value) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(fits(get_args(hint)[0], each) for each in value)
    if hint in (int, float):
        numbers = int | float if hint is float else int
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)


def wrong_types(hint: Any) -> list[Any]:
    """Values of each kind that do not fit an annotation."""
    nan, inf = float("nan"), float("inf")
    values = [1, 1.5, "abc", "1", "true", "", True, None, [], [1], ["abc"], {"a": 1}, nan, inf, -inf]
    return [value for value in values if not fits(hint, value)]


def outside(hint: Any) -> Iterator[float]:
    """Values just outside of a range."""
    for sign, bound in bounds(hint):
        yield bound + {">=": -1, "<=": 1, ">": 0, "<": 0}[sign]


@pytest.fixture(scope="module")
def composed() -> Callable[..., dict[str, Any]]:
    """The plain container of a command line; each is composed once and copied."""
    known: dict[tuple[str, ...], str] = {}

    def make(*overrides: str) -> dict[str, Any]:
        if overrides not in known:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("config", list(overrides))
            known[overrides] = json.dumps(OmegaConf.to_container(cfg, resolve=True))
        return json.loads(known[overrides])

    return make


@pytest.fixture
def changed(composed) -> Callable[..., dict[str, Any]]:
    """`changed("schedule=constant", {"seed": 3})` is a container with some values replaced."""

    def make(choice: str, values: dict[str, Any]) -> dict[str, Any]:
        container = composed(*choice.split())
        for key, value in values.items():
            *groups, last = key.split(".")
            node = container
            for group in groups:
                node = node[group]
            node[last] = value
        return container

    return make


def problems(container: Any) -> list[str]:
    """The sentences with which `load` refuses a container."""
    with pytest.raises(ConfigError) as refusal:
        load(container)
    assert not JARGON.search(str(refusal.value)), refusal.value
    return str(refusal.value).splitlines()


def test_relative_paths_start_where_the_command_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = ["task=switchboard", "hydra.job.chdir=true", "dataset.path=dialogs", "init_from=outputs/a"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", given, return_hydra_config=True)
    config = load(cfg)
    before = [*config.dataset.files().values(), config.source, config.beside_data("~/vectors.txt")]
    assert before[3:] == [Path("outputs/a"), tmp_path / "vectors.txt"]
    cfg.hydra.runtime.cwd = str(tmp_path)
    HydraConfig.instance().set_config(cfg)
    try:
        (tmp_path / "run").mkdir()
        monkeypatch.chdir(tmp_path / "run")
        after = [*config.dataset.files().values(), config.source, config.beside_data("~/vectors.txt")]
        assert after == [tmp_path / path for path in before]
        assert config.beside_data("refs.json") == tmp_path / "dialogs" / "refs.json"
        assert str(RunFolder(tmp_path / "run")) == "run"
    finally:
        HydraConfig.instance().cfg = None


class TestCommitted:
    """What conf/ holds."""

    @pytest.mark.parametrize("group", [group for group in GROUPS if group != "experiment"])
    def test_each_choice_of_each_group_loads(self, group, composed):
        least = {"schedule": 4, "lr": 3, "dataset": 3, "model": 3, "task": 2, "remedy": 7}
        assert len(choices(group)) >= least[group]
        for choice in choices(group):
            load(composed(*chosen(group, choice)))

    def test_what_an_old_folder_does_not_say_is_what_conf_says_but_for_a_few(self, composed):
        other = {}
        for group in ("schedule", "lr", "dataset", "model", "task"):
            for choice in choices(group):
                config = load(composed(*chosen(group, choice)))
                for part in (config, config.train, getattr(config, group)):
                    for field in dataclasses.fields(part):
                        default = field.default
                        if callable(field.default_factory):
                            default = field.default_factory()
                        value = getattr(part, field.name)
                        if default not in (dataclasses.MISSING, value):
                            other[type(part).__name__, field.name] = default, value
        assert other == OLD

    def test_the_groups_are_the_ones_the_help_explains(self):
        assert sorted(help.GROUPS) == GROUPS

    @pytest.mark.parametrize("experiment", choices("experiment"))
    def test_each_experiment_loads_with_every_job_of_its_sweep(self, experiment):
        hydra = yaml.safe_load((CONF / f"experiment/{experiment}.yaml").read_text()).get("hydra", {})
        swept = hydra.get("sweeper", {}).get("params", {})
        values = [re.split(r",(?![^[]*\])", str(several)) for several in swept.values()]
        for job in itertools.product(*values):
            overrides = [f"{key}={value}" for key, value in zip(swept, job, strict=True)]
            assert configured(f"experiment={experiment}", *overrides).name == experiment

    def test_there_are_experiments(self):
        assert len(choices("experiment")) >= 5

    @pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CONF)) for file in FILES])
    def test_every_key_is_explained(self, file):
        lines = file.read_text(encoding="utf-8").splitlines()
        if "hydra:" in lines:
            lines = lines[: lines.index("hydra:")]
        # what only replaces values of others, whose own files explain them, says at its head what it is for
        if file.relative_to(CONF).parts[0] in ("experiment", "remedy"):
            assert re.match("# @package _global_\n# .", "\n".join(lines))
            return
        for before, line in zip(["", *lines], lines, strict=False):
            key = re.match(r" *(\w+): +[^ #]", line)
            if key and not (key[1] == "name" and line.startswith(" ")):
                assert " # " in line or before.startswith("#") or key[1] == "name", f"{file}: {line}"

    def test_no_key_that_nobody_reads(self, composed):
        known = {key for _, key, _ in FIELDS} | {f"{group}.name" for group in (*GROUPS, "update")}
        for group in ("schedule", "lr", "dataset", "model", "task"):
            for choice in choices(group):
                assert set(flatten(composed(*chosen(group, choice)))) <= known


class TestLoad:
    """The typed configuration."""

    def test_frozen_all_the_way(self, composed):
        config = load(composed())
        for part in (config, config.train, config.schedule, config.lr, config.dataset, config.model):
            with pytest.raises(dataclasses.FrozenInstanceError):
                part.name = "other"

    def test_every_part_is_frozen(self):
        parts = [part for part in vars(schema).values() if dataclasses.is_dataclass(part)]
        assert len(parts) > 20
        assert all(part.__dataclass_params__.frozen for part in parts)

    def test_composed_or_plain_is_the_same(self, composed):
        given = ["task=yelp", "seed=3", "task.finetune.penalties=[1.0,${lr.value}]"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", given, return_hydra_config=True)
        assert load(cfg) == load(composed(*given))
        assert load(cfg).container == composed(*given)

    @pytest.mark.parametrize("command", [DEBUG, (*REVIEWS, "task.iw_sentences=null"), ("name=a/b",)])
    def test_values_that_tests_set_are_those_of_the_command_line(self, command, configured, composed):
        more = ("remedy=[word_dropout]", "lr.value=1e-2", "seed=${train.log_every}")
        for values in (command, (*command, *more)):
            assert configured(*values) == load(composed(*values))

    def test_a_whole_number_serves_as_a_number(self, changed):
        config = load(changed("", {"lr.value": 1}))
        assert config.lr.value == 1.0 and isinstance(config.lr.value, float)

    def test_identity_leaves_out_what_may_change_between_two_starts(self, composed):
        container = composed("task=ptb")
        left_out = set(flatten(container)) - set(identity(container))
        assert left_out == {
            "name",
            "overwrite",
            "threads",
            "jobs_per_gpu",
            "device",
            "train.stop_after",
            "train.progress",
            "train.keep",
            "tracker",
            "dataset.path",
        }
        assert left_out == NOT_IDENTITY - {"dataset.whole_passages"}  # of dialogs

    @pytest.mark.parametrize(
        ("override", "key", "value"),
        [
            (["task=ptb", "dataset=tiny"], "dataset.name", "tiny"),
            (["task=ptb", "model=toy"], "model.hidden", 64),
            (["experiment=ptb_debug", "schedule=monotonic"], "schedule.name", "monotonic"),
            (["experiment=original/ptb_monotonic", "schedule=cyclical"], "schedule.name", "cyclical"),
            (["experiment=ptb_debug", "dataset=ptb"], "dataset.name", "ptb"),
            (["experiment=ptb_debug", "model.hidden=7"], "model.hidden", 7),
            (["experiment=ptb_debug", "name=mine"], "name", "mine"),
            (["task=toy", "lr.value=0.5"], "lr.value", 0.5),
            (["remedy=[word_dropout]", "model.word_dropout=0.9"], "model.word_dropout", 0.9),
        ],
    )
    def test_the_command_line_wins(self, override, key, value, composed):
        for order in (override, override[::-1]):
            load(composed(*order))
            assert flatten(composed(*order))[key] == value


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        *((Literal["a"], "a"), (Literal["a", "b"], "one of a, b"), (list[Literal["a"]], "a list, each a")),
        *((bool, "true or false"), (str | None, "text or null"), (int, "a whole number")),
        (float, "a finite number"),
    ],
)
def test_a_type_in_words(hint, words):
    assert describe(hint) == words


class TestWrongValues:
    """Each field of the typed configuration, through `load`."""

    @pytest.mark.parametrize(("choice", "key", "hint"), FIELDS, ids=[f"{c} {k}" for c, k, _ in FIELDS])
    def test_types(self, choice, key, hint, changed):
        assert wrong_types(hint)
        for value in wrong_types(hint):
            container = changed(choice, {key: value})
            if isinstance(value, dict):
                assert any(problem.startswith(f"{key} must be ") for problem in problems(container))
                continue
            found = [problem for problem in problems(container) if problem.startswith(f"{key} must be ")]
            assert found and found[0].startswith(f"{key} must be {describe(hint)}, found "), (value, found)

    @pytest.mark.parametrize(("choice", "key", "hint"), RANGED, ids=[f"{c} {k}" for c, k, _ in RANGED])
    def test_ranges(self, choice, key, hint, changed):
        for value in outside(hint):
            kind = int if "whole number" in describe(hint) else float
            given = [kind(value)] if fits(hint, []) else kind(value)
            found = problems(changed(choice, {key: given}))
            # a dataset or model that is chosen alone does not fit the default task
            aside = ("task=toy", "task=switch", "dataset.path must be text")
            aside += ("model.decoder must be text", "model=pretrained reads")
            found = [problem for problem in found if not problem.startswith(aside)]
            assert found == [f"{key} must be {interval(hint)}, found {kind(value)!r}"]

    def test_every_number_has_the_range_it_should(self):
        numbers = [(choice, key) for choice, key, hint in FIELDS if "number" in describe(hint)]
        assert numbers == [(choice, key) for choice, key, _ in RANGED]
        found: dict[str, set[str]] = {}
        for _, key, hint in RANGED:
            found.setdefault(key, set()).add(interval(hint))
        wanted = {key: set() for key in found}
        for limit, keys in RANGES.items():
            for key in keys.split():
                wanted[key].add(limit)
        both = {"model.latent": {">= 0", ">= 1"}, "task.samples": {">= 1", ">= 10"}}
        both["dataset.vocabulary"] = {">= 1", ">= 3"}
        assert found == {key: allowed or {">= 1"} for key, allowed in wanted.items()} | both

    def test_a_whole_number_beyond_all_floats(self, changed):
        assert "lr.value must be a finite number > 0" in problems(changed("", {"lr.value": 10**400}))[0]

    @pytest.mark.parametrize(
        "name",
        ["../x", "/abs", "a b", "a=b", "", ".", "..", "a/../b", "a//b", "a/", "é", "-x", "a\n", "x" * 101],
    )
    def test_names_that_are_no_folder_below_outputs(self, name, changed):
        (problem,) = problems(changed("", {"name": name}))
        assert problem.startswith("name must be a relative path of letters") and repr(name) in problem

    def test_the_longest_names_and_all_their_characters(self, changed):
        name = f"{'x' * 100}/{'9' * 100}/_a.B-c"
        assert load(changed("", {"name": name})).name == name

    def test_a_group_that_is_a_value(self, changed):
        assert problems(changed("", {"train": 3}))[0] == "train must be a group of keys, found 3"
        assert problems(changed("", {"objective": None})) == ["objective must be a group of keys, found null"]
        for value, found in (("cyclical", "null"), ({"name": "cycles"}, "'cycles'")):
            assert problems(changed("", {"schedule": value})) == [
                f"schedule.name must be one of constant, cyclical, monotonic, none, found {found}"
            ]

    def test_values_that_refer_to_nothing(self):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(
                "config", ["train.steps=${train.nope}", "name='${foo}'", "train.clip=${train.clip}"]
            )
        assert problems(cfg) == [
            "name has no value: Interpolation key 'foo' not found",
            "train.steps has no value: Interpolation key 'train.nope' not found",
            "train.clip has no value: Recursive interpolation detected",
        ]


class TestCombinations:
    """Values that are fine alone."""

    @pytest.mark.parametrize(
        ("choice", "values", "sentence"),
        [
            (
                "",
                {"train.steps": None, "train.epochs": None},
                "train.steps and train.epochs are both null: one of them must say how long to train",
            ),
            ("", {"train.validate_on": []}, "train.validate_on must contain val, which selects"),
            ("", {"train.validate_on": ["test"]}, "train.validate_on must contain val, which selects"),
            ("", {"train.validate_on": ["val", "val"]}, "train.validate_on names a split twice"),
            (
                "task=yelp",
                {"task.finetune.modes": ["probe", "probe"]},
                "task.finetune.modes names a value twice",
            ),
            (
                "task=yelp",
                {"task.finetune.shares": []},
                "task.finetune.shares is empty: give one value at least",
            ),
            (
                "task=yelp",
                {"init_from": "x", "task.finetune.modes": ["scratch"]},
                "init_from restores an encoder: task.finetune.modes must have probe or finetune",
            ),
            (
                "task=yelp",
                {"init_from": "x", "task.finetune.modes": []},
                "init_from restores an encoder: task.finetune.modes must have probe or finetune",
            ),
            ("task=yelp", {"task.finetune.penalties": []}, "task.finetune.penalties is empty"),
            ("", {"train.steps": 3}, "schedule.cycles is more than the 3 updates of train.steps"),
            ("", {"train.steps": 9, "lr.warmup": 10}, "lr.warmup is more than the 9 updates of train.steps"),
            ("", {"objective.free_bits": 1, "schedule": {"name": "none"}}, "and schedule=none has none"),
            ("task=ptb", {"objective.free_bits": 1, "model.latent": 0}, "and model.latent=0 has none"),
            (
                "task=ptb",
                {"model.latent": 0, "schedule": {"name": "none"}},
                "schedule=none is an autoencoder and needs a code: model.latent must be > 0",
            ),
            (
                "dataset=tiny",
                {},
                "task=toy measures the ten synthetic sequences and needs dataset=toy, found tiny",
            ),
            ("model=lm", {}, "task=toy draws the latent space: model.latent must be > 0"),
            (
                "task=yelp",
                {"dataset": {"name": "tiny", "sentences": 60, "sampler": "bucketed"}},
                "task=yelp classifies labelled sentences: dataset=labelled or yelp, found tiny",
            ),
            ("task=yelp model=lm", {}, "task=yelp classifies z: model.latent must be > 0"),
            (
                "model=transformer",
                {"model.heads": 3},
                "model.hidden=256 is shared out among model.heads=3: it must be a multiple of them",
            ),
            (
                "model=transformer",
                {"model.tied": True, "model.skip": True},
                "model.skip gives the output layer weights for z, which word vectors have not",
            ),
        ],
    )
    def test_each_contradiction(self, choice, values, sentence, changed):
        (problem,) = problems(changed(choice, values))
        assert sentence in problem

    def test_as_many_cycles_and_as_long_a_warm_up_as_there_are_updates(self, changed):
        load(changed("", {"train.steps": 9, "schedule.cycles": 9, "lr.warmup": 9}))

    @pytest.mark.parametrize(
        "values",
        [
            {"task.finetune.modes": [], "task.finetune.shares": [], "task.finetune.penalties": []},
            {"task.finetune.modes": ["scratch"], "init_from": "x", "reset_decoder": True},
            {"task.finetune.modes": ["scratch", "probe"], "init_from": "x"},
        ],
    )
    def test_classifiers_that_go_together(self, values, changed):
        load(changed("task=yelp", values))

    @pytest.mark.parametrize("modes", [["probe"], ["scratch"], ["scratch", "finetune"], []])
    @pytest.mark.parametrize(("source", "reset"), [(None, False), ("x", False), ("x", True)])
    def test_a_language_model_is_trained_unless_a_run_only_classifies(self, modes, source, reset, changed):
        values = {"init_from": source, "reset_decoder": reset}
        finetune = {"task.finetune.modes": modes}
        assert load(changed("task=ptb", values)).pretrains
        if source and not reset and modes in (["scratch"], []):
            return  # a contradiction
        config = load(changed("task=yelp", values | finetune))
        assert config.pretrains == ((source is None or reset) and modes != ["scratch"])

    def test_all_kinds_of_problems_in_one_report(self, changed):
        values = {
            "schedul": "cyclical",
            "seed": "x",
            "train.clip": float("nan"),
            "train.stepz": 3,
            "train.steps": -5,
            "train.batch_size": 0,
            "schedule.ratio": 2,
            "model.latent": 0,
            "name": "../x",
        }
        found = problems(changed("", values))
        starts = [
            "unknown key schedul, did you mean schedule?",
            "seed must be a whole number",
            "unknown key train.stepz, did you mean train.steps?",
            "train.clip must be a finite number > 0 or null, found nan",
            "train.steps must be >= 1, found -5",
            "train.batch_size must be >= 1, found 0",
            "schedule.ratio must be > 0 and <= 1, found 2.0",
            "task=toy draws the latent space",
            "name must be a relative path",
        ]
        assert len(found) == len(starts)
        assert all(sentence.startswith(start) for sentence, start in zip(found, starts, strict=True)), found


DIALOGS = "task=switchboard and model=dialog go with dataset=switchboard or dataset=dialogs, found task={}, "
DIALOGS += "dataset={} and model={}"
PIECES = ("dataset.vocabulary", 300)
TWICE = "task.finetune.{} names a value twice"


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        (["task.name", "switchboard", "dataset.name", "switchboard", "model.name", "dialog"], []),
        (["task.name", "switchboard", "dataset.name", "dialogs", "model.name", "dialog"], []),
        (["task.name", "ptb", "dataset.name", "text", "model.name", "sentence"], []),
        (["task.name", "switchboard", "dataset.name", "text"], []),  # the model is not known
        (["dataset.name", "dialogs", "model.name", "sentence"], []),
        (["task.name", "ptb", "model.name", "dialog"], []),
        *(
            (
                ["task.name", task, "dataset.name", data, "model.name", model],
                [DIALOGS.format(task, data, model)],
            )
            for task, data, model in (
                ("switchboard", "text", "sentence"),
                ("ptb", "dialogs", "sentence"),
                ("ptb", "text", "dialog"),
                ("switchboard", "dialogs", "sentence"),
                ("ptb", "switchboard", "dialog"),
                ("switchboard", "text", "dialog"),
            )
        ),
        (["dataset.name", "tiny", "model.latent", 0], []),
        (["task.name", "toy", "dataset.name", "toy", "model.latent", 1], []),
        (["task.name", "yelp", "dataset.name", "short_yelp"], []),
        (["task.name", "yelp", "dataset.name", "labelled"], []),
        (["task.name", "yelp", "task.finetune.shares", [1.0, 0.1, 1.0]], [TWICE.format("shares")]),
        (["task.name", "yelp", "task.finetune.penalties", [1.0, 1.0]], [TWICE.format("penalties")]),
        (["task.name", "yelp", "task.finetune.shares", [0.1, 1.0], "task.finetune.modes", ["probe"]], []),
        (["task.name", "yelp", "init_from", "a", "task.finetune.modes", ["finetune"]], []),
        (
            ["objective.free_bits", 0.1, "objective.free_bits_total", 1.0, "objective.kl_target", 2.0],
            [
                "objective.free_bits and objective.free_bits_total and objective.kl_target each say how much"
                " KL there should be: leave all but one out"
            ],
        ),
        (["train.accumulate", 1, "objective.free_bits", 0.1, "update.name", "aggressive"], []),
        (["train.accumulate", 2, "objective.free_bits", 0.0, "update.name", "plain"], []),
        (
            ["train.accumulate", 2, "update.name", "semi_amortized"],
            ["train.accumulate is for update=plain, found update=semi_amortized"],
        ),
        (["train.batch_size", 1, "dataset.sampler", "equal_length", "model.batch_norm", 0.0], []),
        (
            ["model.latent", 0, "model.batch_norm", 0.6],
            ["model.batch_norm acts on z, and model.latent=0 has none: leave one of them out"],
        ),
        (
            ["model.latent", 0, "update.name", "aggressive"],
            ["update=aggressive is about the posterior, and model.latent=0 has none: leave one out"],
        ),
        (["model.latent", 1, "update.name", "aggressive", "schedule.name", "constant"], []),
        (["model.hidden", 8, "model.heads", 4, "model.tied", True, "model.skip", False], []),
        (["model.tied", False, "model.skip", True], []),
        (["dataset.tokens", "bpe", "dataset.tokenizer", "a.json", "dataset.vocabulary", None], []),
        (["dataset.tokens", "bpe", "dataset.tokenizer", None, "dataset.vocabulary", 256], []),
        (["dataset.tokenizer", "a.json"], []),
        (["dataset.tokens", "words", "dataset.vocabulary", 3], []),
        (["model.name", "pretrained", "dataset.tokens", "bpe", "dataset.vocabulary", None], []),
        (["model.name", "pretrained", "dataset.tokens", "bpe", "dataset.tokenizer", "a.json"], []),
        (
            ["model.name", "pretrained", "dataset.tokens", "bpe", "dataset.tokenizer", "a", *PIECES],
            ["dataset.tokenizer has its pieces: leave out dataset.vocabulary"],
        ),
        (["reset_decoder", False, "init_from", None, "model.latent", 0], []),
        (["reset_decoder", True, "init_from", "a", "model.latent", 1], []),
        (["continue_from", "a", "continue_beta", "cycles", "schedule.name", "cyclical"], []),
        (["continue_from", "a", "continue_lr", "restarts", "lr.name", "cosine_restarts"], []),
        (["continue_from", "a", "continue_beta", None, "schedule.name", "monotonic"], []),
        (["continue_from", "a", "continue_lr", None, "lr.name", "constant"], []),
        (["continue_from", None, "continue_beta", None, "init_from", "a"], []),
        (["train.steps", None, "train.epochs", 1], []),
        (["train.steps", 1, "train.epochs", None], []),
        (["train.validate_on", ["test", "val"]], []),
    ],
    ids=str,
)
def test_what_contradicts_each_other_is_said_and_nothing_else_is(values, sentences):
    assert list(contradictions(dict(zip(values[::2], values[1::2], strict=True)))) == sentences


@pytest.mark.parametrize(
    ("choice", "key", "end"),
    [
        (
            "schedule=constant",
            "schedule.ratio",
            "; schedule=monotonic or cyclical has it, and a run takes one schedule",
        ),
        (
            "schedule=monotonic",
            "schedule.cycles",
            "; schedule=cyclical has it, and a run takes one schedule",
        ),
        ("schedule=cyclical", "schedule.stopp", ")"),
        *((f"task=ptb dataset={name}", "dataset.held_outt", ")") for name in ("snli", "yahoo", "yelp15")),
        ("task=yelp", "task.finetune.samples", ")"),  # which other tasks have, but not for classifiers
    ],
)
def test_a_key_of_another_choice_names_those_that_have_it(choice, key, end, changed):
    (problem,) = problems(changed(choice, {key: 1.0}))
    sentence, sign, rest = problem.partition("; ")
    assert sentence.startswith(f"unknown key {key}") and sentence.endswith(")")
    assert f"{sign}{rest}" == end.removeprefix(")")


def test_a_value_that_refers_to_nothing_hides_no_other_key():
    """Of the rules only those are silent that are about keys without a readable value."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["train.steps=${nope}", "train.validate_on=[test]", "name=../x"])
    assert [sentence.partition(" ")[0] for sentence in problems(cfg)] == [
        "train.steps",
        "train.validate_on",
        "name",
    ]


def test_a_wrong_value_hides_no_key_whose_name_begins_as_its_own(changed):
    values = {"objective.free_bits": "x", "objective.free_bits_total": 1, "schedule": {"name": "none"}}
    wrong, other = problems(changed("", values))
    assert wrong.startswith("objective.free_bits must be")
    assert other.startswith("objective.free_bits_total acts on the KL")


def test_how_long_a_run_is():
    train = configured("train.steps=null", "train.epochs=3").train
    assert (train.total(7), dataclasses.replace(train, steps=5).total(7)) == (21, 5)
    assert dataclasses.replace(train, epochs=None).total(7) == 0


def test_an_empty_group_is_a_value_of_its_own():
    assert flatten({"a": {}, "b": {"c": {"d": 1}, "e": [{"f": 2}]}}) == {
        "a": {},
        "b.c.d": 1,
        "b.e": [{"f": 2}],
    }


def test_files_of_splits_may_be_packed_and_have_large_endings(tmp_path):
    for name in ("train.JSONL", "val.Txt.GZ", "test.csv", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "train.csv").mkdir()  # no file
    found = {split: [path.name for path in paths] for split, paths in layout.parts(tmp_path).items()}
    assert found == {"train": ["train.JSONL"], "val": ["val.Txt.GZ"], "test": ["test.csv"]}
    kinds = [layout.table_format(path) for (path,) in layout.parts(tmp_path).values()]
    assert kinds == [".jsonl", "", ".csv"]


@pytest.mark.parametrize(
    ("names", "what"),
    [("train.csv train.txt", "training"), ("valid.txt dev.csv", "validation"), ("test.csv test.txt", "test")],
)
def test_two_files_of_a_split_are_refused_by_its_name(names, what, tmp_path):
    for name in names.split():
        (tmp_path / name).touch()
    said = f"{tmp_path} has {' and '.join(names.split())}: one of them must be the {what} text"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        layout.parts(tmp_path)


def test_labelled_sentences_are_a_table_folders_of_classes_or_both_by_split(tmp_path):
    def found(path: Path) -> dict[str, list[str]]:
        return {
            s: [str(p.relative_to(tmp_path)) for p in parts]
            for s, parts in layout.labelled_parts(path).items()
        }

    for place in (
        "flat/bad",
        "flat/good",
        "flat/other",
        "split/train/bad",
        "split/train/good",
        "split/dev/bad",
    ):
        (tmp_path / place).mkdir(parents=True)
        if "other" not in place:
            (tmp_path / place / "a.txt").touch()
    (tmp_path / "tables" / "old").mkdir(parents=True)
    tables = ("train.csv", "test.csv", "valid.txt", "old/train.csv")  # the last in a folder, and yet no class
    for name in tables:
        (tmp_path / "tables" / name).touch()
    assert found(tmp_path / "flat") == {"train": ["flat/bad", "flat/good"]}
    split = {"train": ["split/train/bad", "split/train/good"], "val": ["split/dev/bad"]}
    assert found(tmp_path / "split") == split
    assert found(tmp_path / "tables") == {"train": ["tables/train.csv"], "test": ["tables/test.csv"]}
    assert found(tmp_path / "tables" / "test.csv") == {"train": ["tables/test.csv"]}


def test_files_are_read_in_the_order_of_their_names_whatever_that_of_the_disk(tmp_path, monkeypatch):
    shards = [f"{number:05d}-of-00003" for number in range(3)]
    for place in ("saved", "dict/train"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("state.json", *(f"data-{shard}.arrow" for shard in shards)):
            (tmp_path / place / name).touch()
    (tmp_path / "dict" / "dataset_dict.json").touch()
    for name in (*(f"shards/train-{shard}.txt" for shard in shards), "classes/a/x.txt", "classes/b/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    glob, iterdir = Path.glob, Path.iterdir
    monkeypatch.setattr(Path, "glob", lambda path, wanted: sorted(glob(path, wanted), reverse=True))
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(iterdir(path), reverse=True))
    for place in ("saved", "dict", "shards", "classes"):
        read = layout.labelled_parts if place == "classes" else layout.parts
        (found,) = read(tmp_path / place).values()
        assert found == sorted(found) and len(found) > 1


def test_an_unknown_key_is_looked_for_by_its_whole_name_in_other_groups():
    assert "did you mean train.steps?" in unknown_key("steps", ["seed"], elsewhere=["train.steps"])
    assert "did you mean" not in unknown_key("eps", ["seed"], elsewhere=["train.steps"])
