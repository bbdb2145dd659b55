"""Overrides as typed: what is put in quotes for Hydra, and the folder that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvae.cli.overrides import LONGEST_SLUG, continued, quoted, slug
from cvae.config.schema import NOT_IDENTITY
from cvae.errors import UserError


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
    assert quoted(argument) == argument


@pytest.mark.parametrize(
    ("typed", "taken"),
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
def test_what_hydra_takes_in_quotes_only_is_quoted(typed, taken):
    assert quoted(typed) == taken


FOLDERS = ("dataset.path", "init_from", "continue_from", "model.decoder", "model.encoder")
NAMES = ("dataset.tokenizer", "model.vectors", "task.vectors", "task.references")


@pytest.mark.parametrize("key", [*FOLDERS, *NAMES])
def test_brackets_and_quotes_are_ordinary_characters_in_every_path(key):
    assert quoted(f"{key}=~/[it's]=1") == f'{key}="~/[it\'s]=1"'


@pytest.mark.parametrize("typed", ["2e-3", "0.002", "2.0E-3", ".002", "+0.0020"])
def test_a_number_names_the_same_folder_however_it_is_typed_and_as_in_a_sweep(typed):
    assert slug([f"lr.value={typed}"]) == "lr.value-0.002"
    assert slug([f"task.shares=[1,{typed}]"]) == "task.shares-1-0.002"
    assert slug(["dataset.path=v2.10/1e5x"]) == "default" and slug(["a=1_0.5"]) == "a-1_0.5"
    assert slug(["dataset.path=a=b.txt"]) == "default"  # the first equal sign ends the key


OVERRIDE = st.builds(
    "{}={}".format, st.text("abc.", min_size=1, max_size=6), st.text("xyz,[]= /λ-0123", max_size=40)
)


@given(st.lists(OVERRIDE, max_size=8))
def test_a_folders_name_has_plain_characters_and_is_not_too_long(overrides):
    name = slug(overrides)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name) and name == name.strip("-.")
    assert len(name) <= LONGEST_SLUG + 9
    assert name == slug(overrides)


@given(st.permutations(["seed=1", "lr.value=2", "+model.hidden=3", "schedule=none"]))
def test_the_order_of_overrides_does_not_matter(overrides):
    assert slug(overrides) == "schedule-none_seed-1_lr.value-2_model.hidden-3"


@given(st.sampled_from(sorted(NOT_IDENTITY)), st.text("xyz09/", max_size=9))
def test_what_is_no_part_of_a_run_is_left_out(key, value):
    assert slug([f"{key}={value}"]) == "default"
    assert slug(["seed=1", f"{key}={value}"]) == "seed-1"


def test_the_name_is_default_where_nothing_is_set():
    assert slug([]) == "default"


def test_the_brackets_of_a_list_are_left_out_and_those_of_a_path_are_not():
    for value, name in (("[a,b]", "a-b"), ("[]", "none"), ("[a]b", "-a-b"), ("b[a]", "b-a"), ("[", "")):
        assert slug([f"init_from={value}"]) == f"init_from-{name}".strip("-")


def test_the_experiment_is_named_only_where_it_does_not_set_the_name():
    assert slug(["experiment=toy", "seed=1"]) == "seed-1"
    assert slug(["experiment=toy", "name=x"]) == "experiment-toy"


@given(st.lists(st.integers(10**99, 10**150), min_size=2, max_size=5, unique=True))
def test_long_names_are_shortened_and_still_differ(numbers):
    names = {slug([f"a={'9' * 120}{number}"]) for number in numbers}
    assert len(names) == len(numbers)
    assert all(len(name) == LONGEST_SLUG + 9 for name in names)


def test_folders_keep_their_names_from_version_to_version():
    """A folder that is named otherwise is not found again by the same command."""
    assert slug([f"a={'x' * 118}"]) == f"a-{'x' * 118}"
    assert slug([f"a={'x' * 119}"]) == f"a-{'x' * 118}-bd9f3e14"


@pytest.fixture
def earlier(tmp_path) -> Path:
    """A run folder with the overrides of its command."""
    made = ["task=ptb", "schedule=cyclical", "train.epochs=4", "train.stop_after=9", "overwrite=true"]
    made += ["init_from='a=b'", "remedy=[pretrained]", "name=mine", "continue_beta=hold", "+seed=3"]
    made += ["continue_lr=hold", "reset_decoder=true", "hydra.run.dir=elsewhere"]
    folder = tmp_path / "lr=3"  # only the first equal sign ends a key
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in made))
    return folder


@pytest.mark.parametrize("mark", ["", "'", '"'])
def test_a_run_that_goes_on_is_composed_as_it_was(earlier, mark):
    command = [f"continue_from={mark}{earlier}{mark}", "continue_beta=cycles"]
    kept = ["task=ptb", "schedule=cyclical", "train.epochs=4", "remedy=[pretrained]", "name=mine", "+seed=3"]
    assert continued(command) == [*kept, "reset_decoder=false", *command]


def test_a_decoder_that_was_not_new_is_not_kept_from_being_so(earlier):
    (earlier / ".hydra" / "overrides.yaml").write_text("- seed=3\n")
    command = [f"continue_from={earlier}"]
    assert continued(command) == ["seed=3", *command]


def test_what_the_command_says_wins_and_any_length_replaces_any(earlier):
    command = ["-m", f"continue_from={earlier}", "train.steps=9", "seed=4", "++name=b"]
    kept = ["task=ptb", "schedule=cyclical", "remedy=[pretrained]", "reset_decoder=false"]
    assert continued(command) == [*kept, *command]


@pytest.mark.parametrize("command", [[], ["seed=1"], ["continue_from=nowhere", "seed=1"], ["continue_from"]])
def test_other_commands_stay_as_they_are(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert continued(command) == command


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [", "while parsing a flow node"),
        (b"3", "Invalid loaded object type: int"),
        (b"\x00", "unacceptable character #x0000"),
        (b"- name=\xe9", "'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_a_record_of_overrides_that_is_none_is_named(earlier, content, reason):
    path = earlier / ".hydra" / "overrides.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} is no list of overrides: {reason}[^\n]*$"):
        continued([f"continue_from={earlier}"])
