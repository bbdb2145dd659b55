"""Every configuration that is committed loads, and every mistake is told in one sentence."""

from __future__ import annotations

import dataclasses
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
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cvae.cli import help, precheck
from cvae.cli import main as cli
from cvae.config.load import flatten, identity, load
from cvae.config.messages import describe
from cvae.config.schema import NOT_IDENTITY, Config, options
from cvae.errors import ConfigError
from cvae.ranges import bounds, interval
from cvae.ranges import fields as annotations
from cvae.runs.folder import RunFolder
from tests.helpers import CONF

FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
JARGON = re.compile(
    r"Traceback|HYDRA_FULL_ERROR|struct|defaults list|[a-z](Error|Exception)\b|full_key|object_type"
    r"|reference_type|EOF|viable|None\b|True\b|\bNaN\b|Warning"
)


def choices(group: str) -> list[str]:
    """What conf/ offers for a group."""
    files = sorted((CONF / group).rglob("*.yaml"))
    return [file.relative_to(CONF / group).with_suffix("").as_posix() for file in files]


def fields(cls: type = Config, path: str = "", choice: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each field of the typed configuration: the override it needs, its key and its annotation."""
    for name, hint in annotations(cls).items():
        if chosen := options(hint):
            for option, kind in chosen.items():
                override = f"{name}={option}" if option in choices(name) else ""
                override = f"remedy=[{option}]" if option in choices("remedy") else override
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
    ">= 0": "schedule.start schedule.stop lr.warmup model.batch_norm objective.free_bits"
    " objective.free_bits_total task.iw_samples task.temperature task.examples task.finetune.map_sentences",
    "> 0 and <= 1": "schedule.ratio lr.decay dataset.share.train dataset.share.val dataset.share.test"
    " task.top_p task.finetune.shares",
    ">= 0 and <= 1": "model.word_dropout",
    ">= 0 and < 1": "model.dropout dataset.held_out task.finetune.dropped update.momentum",
    "> 0 and < 0.5": "dataset.held_out",
    ">= 2": "dataset.window task.path_sentences task.mi_examples task.contexts",
    ">= 2 and <= 1000": "dataset.sequences",
    ">= 1 and <= 4096": "threads",
    ">= 3": "dataset.max_tokens",
    ">= 10": "task.samples",
    ">= 10 and <= 1000000": "dataset.sentences",
}


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
        container = composed(*([choice] if choice else []))
        for key, value in values.items():
            *groups, last = key.split(".")
            node = container
            for group in groups:
                node = node[group]
            node[last] = value
        return container

    return make


@pytest.fixture
def refused(tmp_path, monkeypatch) -> Callable[..., str]:
    """What `train.py` answers to a wrong command; it may create nothing and must not talk like Hydra."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CVAE_DATA", raising=False)

    def ask(*arguments: str) -> str:
        before = listing()
        with pytest.raises(SystemExit) as stopped:
            precheck.check(arguments, CONF)
        assert listing() == before
        assert isinstance(stopped.value.code, str) and stopped.value.code  # Python prints it and exits with 1
        assert not JARGON.search(stopped.value.code), stopped.value.code
        return stopped.value.code

    def listing() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    return ask


def problems(container: Any) -> list[str]:
    """The sentences with which `load` refuses a container."""
    with pytest.raises(ConfigError) as refusal:
        load(container)
    assert not JARGON.search(str(refusal.value)), refusal.value
    return str(refusal.value).splitlines()


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "seed=1",
            "-m",
            "job",
            "--config-dir=Räume",
            "~experiment",
            "remedy=[free_bits,skip]",
        ),
        *("dataset.path='~/a.txt'", 'dataset.path="Räume, 1"', "dataset.path=a b.txt", "dataset.path=a,b"),
        *(
            "schedule.ratio=[",
            "remedy=[skip",
            "name=a=b",
            "name='a",
            "dataset.path=$HOME",
            "seed=",
            "seed=range(0,3)",
        ),
    ],
)
def test_what_hydra_reads_or_nobody_is_handed_on_as_typed(argument):
    assert cli.quoted(argument) == argument


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        ("dataset.path=~", 'dataset.path="~"'),
        ("+init_from=~/a", '+init_from="~/a"'),
        ("name=Räume, Häuser,c", 'name="Räume","Häuser",c'),
        ("dataset.path='é',~/a,b", "dataset.path='é',\"~/a\",b"),
        ("train.validate_on=[é,val]", 'train.validate_on=["é",val]'),
        ("name=choice(ä,b)", 'name=choice("ä",b)'),
        ("dataset.path=a'b,c", 'dataset.path="a\'b",c'),
        ("dataset.path=~\\", 'dataset.path="~\\\\"'),
    ],
)
def test_what_hydra_takes_in_quotes_only_is_quoted(typed, quoted):
    assert cli.quoted(typed) == quoted


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
            # the language model without z has no latent plane to draw
            needed = {
                "dataset=tiny": "task=ptb",
                "dataset=ptb": "task=ptb",
                "dataset=text": "task=ptb dataset.path=mine.txt",
                "model=lm": "task=ptb",
                "dataset=yelp": "task=yelp",
                "dataset=switchboard": "task=switchboard",
                "model=dialog": "task=switchboard",
                "remedy=[pretrained]": "init_from=outputs/earlier",
                "remedy=pretrained": "init_from=outputs/earlier",
            }
            load(composed(f"{group}={choice}", *needed.get(f"{group}={choice}", "").split()))

    def test_the_groups_are_the_ones_the_help_explains(self):
        assert sorted(help.GROUPS) == GROUPS

    @pytest.mark.parametrize("experiment", choices("experiment"))
    def test_each_experiment_loads_with_every_job_of_its_sweep(
        self, experiment, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.chdir(tmp_path)
        parts = [f"sentiment.{split}.{label}" for split in ("train", "dev", "test") for label in (0, 1)]
        text, dialogs = (
            [f"{split}.{end}" for split in ("train", "valid", "test")] for end in ("txt", "jsonl")
        )
        for corpus, names in {"ptb": text, "switchboard": dialogs, "yelp": parts}.items():
            (tmp_path / corpus).mkdir()
            for name in names:
                (tmp_path / corpus / name).touch()
        monkeypatch.setenv("CVAE_DATA", str(tmp_path))
        loaded = []
        monkeypatch.setattr(precheck, "load", lambda cfg: loaded.append(load(cfg)) or loaded[-1])
        precheck.check([f"experiment={experiment}"], CONF)
        hydra = yaml.safe_load((CONF / f"experiment/{experiment}.yaml").read_text()).get("hydra", {})
        swept = hydra.get("sweeper", {}).get("params", {}).values()
        jobs = 1
        for values in swept:
            jobs *= len(re.sub(r"\[[^]]*\]", "a list", str(values)).split(","))
        assert len(loaded) == jobs
        assert {config.name for config in loaded} == {experiment}

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
                assert set(flatten(composed(f"{group}={choice}"))) <= known


class TestLoad:
    """The typed configuration."""

    def test_frozen_all_the_way(self, composed):
        config = load(composed())
        for part in (config, config.train, config.schedule, config.lr, config.dataset, config.model):
            with pytest.raises(dataclasses.FrozenInstanceError):
                part.name = "other"

    def test_composed_or_plain_is_the_same(self, composed):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", ["seed=3"], return_hydra_config=True)
        assert load(cfg) == load(composed("seed=3"))
        assert load(cfg).container == composed("seed=3")

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
            "device",
            "train.stop_after",
            "train.progress",
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
        "name", ["../x", "/abs", "a b", "a=b", "", ".", "..", "a/../b", "a//b", "a/", "é", "-x", "x" * 300]
    )
    def test_names_that_are_no_folder_below_outputs(self, name, changed):
        (problem,) = problems(changed("", {"name": name}))
        assert problem.startswith("name must be a relative path of letters") and repr(name) in problem

    def test_a_group_that_is_a_value(self, changed):
        assert problems(changed("", {"train": 3}))[0] == "train must be a group of keys, found 3"
        assert problems(changed("", {"objective": None})) == ["objective must be a group of keys, found null"]
        assert (
            "schedule.name must be one of constant, cyclical, monotonic, none"
            in problems(changed("", {"schedule": "cyclical"}))[0]
        )

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
        ],
    )
    def test_each_contradiction(self, choice, values, sentence, changed):
        (problem,) = problems(changed(choice, values))
        assert sentence in problem

    def test_as_many_cycles_and_as_long_a_warm_up_as_there_are_updates(self, changed):
        load(changed("", {"train.steps": 9, "schedule.cycles": 9, "lr.warmup": 9}))

    def test_all_kinds_of_problems_in_one_report(self, changed):
        values = {
            "schedul": "cyclical",
            "seed": "x",
            "train.clip": float("nan"),
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
            "train.clip must be a finite number > 0 or null, found nan",
            "train.steps must be >= 1, found -5",
            "train.batch_size must be >= 1, found 0",
            "schedule.ratio must be > 0 and <= 1, found 2.0",
            "task=toy draws the latent space",
            "name must be a relative path",
        ]
        assert len(found) == len(starts)
        assert all(sentence.startswith(start) for sentence, start in zip(found, starts, strict=True)), found


class TestCommandLine:
    """The answers of `check`, which come before Hydra, torch and any folder."""

    @pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("remedy", "experiment")])
    def test_unknown_choice(self, group, refused):
        for value in ("typo", "null"):
            said = refused(f"{group}={value}")
            assert said == f"{group}={value}: no such choice, {group} is one of {', '.join(choices(group))}"

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("remedy=[typo]", "remedy=typo: no such choice, remedy is one of aggressive, batch_norm,"),
            ("remedy=null", "remedy=null: no such choice, remedy is one of aggressive, batch_norm,"),
            (
                "experiment=typo",
                "experiment=typo: no such choice, experiment is one of cycles, lr_vs_beta,",
            ),
            ("experiment=original/typo", "experiment=original/typo: no such choice, experiment is one of"),
            (
                "schedul=cyclical",
                "unknown key schedul, did you mean schedule? (keys: dataset, device, init_from, lr,",
            ),
            ("schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
            ("+schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
            ("++schedule.ratoi=1", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
            ("schedule={ratoi:1}", "unknown key schedule.ratoi, did you mean schedule.ratio? (keys of sch"),
            ("steps=3", "unknown key steps, did you mean train.steps?"),
            ("hydra.foo=1", "unknown key hydra.foo (keys of hydra: "),
            ("schedule=none schedule.ratio=1", "unknown key schedule.ratio (schedule=none has no keys)"),
            ("dataset.path=/x", "unknown key dataset.path (keys of dataset=toy: draws, sampler, sequences)"),
            ("~train", "train is missing"),
            ("~schedule", "schedule is missing"),
            ("+task=ptb", "+task=ptb: task is chosen without a +; task is one of ptb"),
            ("++lr=constant", "++lr=constant: lr is chosen without a +; lr is one of constant, cosine"),
            ("schedule=[constant,cyclical]", "schedule=[constant,cyclical]: a run takes one choice, not a"),
            ("schedule.name=constant", "schedule.name=constant: schedule is chosen with schedule=…, one of"),
            ("train=", "train must be a group of keys, found ''"),
            ("name=../x", "name must be a relative path of letters, digits, '.', '_' and '-'"),
            ("name='${foo}'", "name has no value: Interpolation key 'foo' not found"),
            ("hydra.run.dir='${foo}'", "hydra.run.dir has no value: Interpolation key 'foo' not found"),
            ("hydra.run.dir=", "hydra.run.dir must name the folder of the run, found nothing"),
            ("seed=0,1", "seed=0,1 lists several values: add -m to run one job for each, or write"),
            (
                "-m seed=1,1",
                "two jobs of this sweep would write to outputs/toy/seed-1: 'seed=1' and 'seed=1'",
            ),
            ("-m seed=0,1,-2", "seed must be >= 0 and < 9223372036854775808, found -2 (in the job seed=-2)"),
            ("-m lr=constant,typo", "lr=typo: no such choice, lr is one of constant, cosine_restarts,"),
            ("-m lr=constant,null", "lr=null: no such choice, lr is one of constant, cosine_restarts,"),
            ("schedule.ratio=[", "schedule.ratio=[ cannot be read: write key=value, close brackets and"),
            ("schedule.ratio='", "schedule.ratio=' cannot be read: write key=value, close brackets and"),
            ("name=a=b", "name=a=b cannot be read: write key=value, close brackets and quotes"),
            ("schedule", "'schedule' sets nothing: write key=value, without spaces around the ="),
            ("=5", "'=5' sets nothing: write key=value, without spaces around the ="),
            ("--config-dir nope", "--config-dir must be a folder of configurations, found no folder nope"),
            ("--config-path nope", "--config-path must be a folder of configurations, found no folder "),
            ("--config-name nope", "--config-name nope: no such configuration, it is one of config"),
            ("--schedule=none", "unrecognized arguments: --schedule=none; keys are set as key=value,"),
            ("--cfg", "argument --cfg/-c: expected one argument; keys are set as key=value"),
            ("--cfg job -m", "--multirun and --cfg cannot be combined: give one of --run, --multirun"),
            ("--resolve", "--resolve goes with --cfg only"),
            ("--cfg job seed=-1", "seed must be >= 0 and < 9223372036854775808, found -1"),
        ],
    )
    def test_mistakes(self, command, said, refused):
        answer = refused(*command.split(" "))
        assert answer.startswith(said) and len(answer.splitlines()) == 1

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("train: {stepz: 3}", "unknown key train.stepz, did you mean train.steps? (keys of train: "),
            ("train: {steps: -3}", "train.steps must be >= 1, found -3"),
            ("train: 3", "train must be a group of keys, found 3"),
            ("defaults: [override /lr: typo]", "lr=typo: no such choice, lr is one of constant, cosine"),
            ("train: {steps: [3}", "while parsing a flow sequence"),
            ("hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,-1'}}}", "seed must be >= 0 and < 9223"),
            (
                "hydra: {mode: MULTIRUN, sweeper: {params: {sed: '0,1'}}}",
                "unknown key sed, did you mean seed?",
            ),
        ],
    )
    def test_mistakes_in_an_experiment_file(self, text, said, refused, tmp_path):
        file = tmp_path / "it's mine" / "experiment" / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"# @package _global_\nname: mine\n{text}\n", encoding="utf-8")
        assert refused("--config-dir", "it's mine", "experiment=mine").startswith(said)

    def test_an_unknown_group_in_an_experiment_file(self, refused, tmp_path):
        (tmp_path / "experiment").mkdir()
        file = tmp_path / "experiment" / "mine.yaml"
        file.write_text("# @package _global_\ndefaults:\n  - override /shedule: none\n", encoding="utf-8")
        said = refused("--config-dir", str(tmp_path), "experiment=mine")
        assert said.startswith("In 'experiment/mine': Could not override 'shedule'")
        assert said.endswith(f"the groups are {', '.join(GROUPS)}")

    def test_an_experiment_file_without_its_first_line(self, refused, tmp_path):
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "mine.yaml").write_text("seed: 3\n", encoding="utf-8")
        said = refused("--config-dir", str(tmp_path), "experiment=mine")
        assert said.endswith("a file in conf/experiment starts with the line '# @package _global_'")

    def test_the_third_job_is_found_before_the_first_starts(self, refused):
        said = refused("-m", "seed=0,1,2", "train.steps=5,6,x")
        assert said == (
            "train.steps must be a whole number >= 1 or null, found 'x' (in the job seed=0 train.steps=x)"
        )

    def test_jobs_with_a_new_value_are_looked_at_first(self):
        jobs = [[f"a={a}", f"b={b}", f"c={c}"] for a in range(3) for b in range(4) for c in range(5)]
        ranked = precheck._new_values_first(jobs)
        assert sorted(ranked) == sorted(jobs)
        assert {value for job in ranked[: 3 + 4 + 5] for value in job} == {
            value for job in jobs for value in job
        }

    def test_a_number_for_each_job_as_its_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        precheck.check(["-m", "seed=0,1", "hydra.sweep.subdir=${hydra.job.num}"], CONF)
        assert list(tmp_path.iterdir()) == []

    def test_missing_data(self, refused, monkeypatch):
        said = refused("task=ptb", "dataset.path=nowhere")
        assert said.startswith("no data at nowhere/train.txt: python scripts/get_data.py ptb fetches them")
        monkeypatch.setenv("CVAE_DATA", "/else")
        assert refused("task=ptb").startswith("no data at /else/ptb/train.txt")

    def test_a_folder_with_another_run(self, refused, tmp_path, composed):
        folder = tmp_path / "outputs" / "toy" / "seed-3"
        folder.mkdir(parents=True)
        about = {"format": 1, "config": composed("seed=4", "lr.value=2"), "versions": {}, "data": {}}
        (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
        (folder / "checkpoint_last.pt").write_bytes(b"precious")
        said = refused("seed=3")
        assert said.startswith("outputs/toy/seed-3 holds a different run: lr.value is 2")
        assert "seed is 4 there and 3 here" in said and "overwrite=true" in said
        assert refused("-m", "seed=2,3") == said

    def test_a_source_that_is_no_finished_run(self, refused):
        said = refused("task=ptb", "dataset=tiny", "init_from=nowhere", "reset_decoder=true")
        assert said == "init_from=nowhere is not the folder of a finished run"

    def test_the_same_run_and_one_to_overwrite_are_let_through(self, tmp_path, monkeypatch, composed):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "outputs" / "toy" / "seed-3"
        folder.mkdir(parents=True)
        about = {"format": 1, "config": composed("seed=3", "device=cpu")}
        (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
        precheck.check(["seed=3"], CONF)
        precheck.check(
            ["seed=3", "train.steps=7", "hydra.run.dir=outputs/toy/seed-3", "overwrite=true"], CONF
        )

    def test_what_is_shown_instead_of_run_needs_no_data(self):
        for shown in (["--cfg", "job", "--resolve"], ["--info", "defaults"]):
            precheck.check([*shown, "task=ptb", "dataset.path=nowhere"], CONF)


class TestSlug:
    """The folder's name."""

    override = st.builds(
        "{}={}".format, st.text("abc.", min_size=1, max_size=6), st.text("xyz,[]= /λ-0123", max_size=40)
    )

    @given(st.lists(override, max_size=8))
    def test_plain_characters_and_not_too_long(self, overrides):
        name = cli.slug(overrides)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name) and not name.startswith(".")
        assert len(name) <= cli.LONGEST_SLUG + 9
        assert name == cli.slug(overrides)

    @given(st.permutations(["seed=1", "lr.value=2", "+model.hidden=3", "schedule=none"]))
    def test_the_order_does_not_matter(self, overrides):
        assert cli.slug(overrides) == "schedule-none_seed-1_lr.value-2_model.hidden-3"

    @given(st.sampled_from(sorted(NOT_IDENTITY)), st.text("xyz09/", max_size=9))
    def test_what_is_no_part_of_the_run_is_left_out(self, key, value):
        assert cli.slug([f"{key}={value}"]) == "default"
        assert cli.slug(["seed=1", f"{key}={value}"]) == "seed-1"

    def test_default_where_nothing_is_set(self):
        assert cli.slug([]) == "default"

    def test_the_experiment_only_where_it_does_not_set_the_name(self):
        assert cli.slug(["experiment=toy", "seed=1"]) == "seed-1"
        assert cli.slug(["experiment=toy", "name=x"]) == "experiment-toy"

    @given(st.lists(st.integers(10**99, 10**150), min_size=2, max_size=5, unique=True))
    def test_long_ones_are_shortened_and_still_differ(self, numbers):
        names = {cli.slug([f"a={'9' * 120}{number}"]) for number in numbers}
        assert len(names) == len(numbers)
        assert all(len(name) == cli.LONGEST_SLUG + 9 for name in names)
