"""`python train.py` as it is typed: exit codes, what is printed where, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from cvae.cli.help import GROUPS
from tests.forked import Forks
from tests.helpers import ROOT, choices

TRAIN = ROOT / "train.py"


@pytest.fixture(scope="module")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Starts train.py where importing torch ends the program."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    made = Forks(folder, "import cvae.cli.train")
    yield made
    made.close()


@pytest.fixture
def train(forks, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs train.py in an empty folder."""
    (tmp_path / "here").mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in os.environ.items() if key != "CVAE_DATA"}
        return forks.run(
            TRAIN, *arguments, cwd=tmp_path / "here", environment=environment | {"COLUMNS": "110"}
        )

    return run


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("schedul=cyclical", "unknown key schedul, did you mean schedule?"),
        ("schedule=typo", "schedule=typo: no such choice, schedule is one of constant, "),
        ("schedule.ratio=7", "schedule.ratio must be > 0 and <= 1, found 7.0"),
        ("dataset=tiny", "task=toy measures the ten synthetic sequences and needs dataset=toy, found tiny"),
        ("schedule.ratio=[", "schedule.ratio=[ cannot be read: write key=value"),
        ("seed=0,1", "seed=0,1 lists several values: add -m"),
        ("-m seed=0,x", "seed must be a whole number"),
        ("task=ptb", "no data at data/ptb/train.txt: python scripts/get_data.py ptb fetches them"),
        ("--config-dir nope", "--config-dir must be a folder of configurations, found no folder nope"),
        ("--seed=1", "unrecognized arguments: --seed=1; keys are set as key=value"),
    ],
)
def test_a_wrong_command_ends_in_one_sentence(command, said, train, tmp_path):
    done = train(*command.split())
    assert done.returncode == 1
    assert done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        *("~/Räume und 1/ä (1)'s [x] #&;=!.txt", '"~/Räume und 1/e\u0301.txt"', "../home/a::b.txt"),
        "${oc.env:HOME}/Räume und 1/日本.txt",
    ],
)
def test_a_path_is_taken_as_typed(typed, train, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "Räume und 1").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    text = ["task=ptb", "dataset=text", f"dataset.path={typed}"]
    place = typed.strip('"').replace("${oc.env:HOME}", "~").replace("~", str(home))
    assert train(*text).stderr.startswith(f"no text at {place}: ")
    (tmp_path / "here" / place).write_text("a b c\n")
    assert "torch was imported" in train(*text).stderr


def test_the_paths_of_a_sweep_are_taken_as_typed(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ä.txt").write_text("a b c\n")
    sweep = ["-m", "task=ptb", "dataset=text", "hydra.sweep.subdir=${hydra.job.num}"]
    assert train(*sweep, "dataset.path=~/ä.txt,~/b.txt").stderr.startswith(f"no text at {tmp_path}/b.txt: ")
    assert train(*sweep, "dataset.path=~/b.txt, ä.txt").stderr.startswith(f"no text at {tmp_path}/b.txt: ")


def test_hydras_own_folders_may_be_below_the_home_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "Läufe").mkdir()
    (tmp_path / "Läufe" / "run.json").write_text('{"format": 1, "config": {"seed": 4}}')
    done = train("hydra.run.dir=~/Läufe")
    assert done.stderr.startswith(f"{tmp_path}/Läufe holds a different run: ")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_with_another_run_stays_as_it_is(train, tmp_path):
    folder = tmp_path / "here" / "mine"
    folder.mkdir()
    (folder / "run.json").write_text('{"format": 1, "config": {"seed": 4}}')
    done = train("hydra.run.dir=mine")
    assert done.returncode == 1
    assert (
        done.stderr.startswith("mine holds a different run: ") and "seed is 4 there and 0 here" in done.stderr
    )
    assert sorted(path.name for path in (tmp_path / "here").rglob("*")) == ["mine", "run.json"]
    assert (folder / "run.json").read_text() == '{"format": 1, "config": {"seed": 4}}'


def test_a_finished_run_answers_without_its_corpus_but_not_to_another(train, tmp_path, configured):
    text, folder = tmp_path / "here" / "a.txt", tmp_path / "here" / "mine"
    text.write_text("the cat sat\n" * 9)
    folder.mkdir()
    command = ["task=ptb", "dataset=text", "dataset.path=a.txt"]
    data = dict.fromkeys(("train", "val", "test"), hashlib.sha256(text.read_bytes()).hexdigest())
    about = {"format": 1, "config": configured(*command).container, "data": data}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "results.json").write_text('{"finished": true, "objective": 1.5}')
    finished = "mine is already finished; overwrite=true runs it again"
    assert train(*command, "hydra.run.dir=mine").stdout == f"{finished}\n"
    text.write_text("the cat sat\n" * 8)
    done = train(*command, "hydra.run.dir=mine")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("mine was trained on other data: train and val and test changed since; ")
    text.unlink()
    done = train(*command, "hydra.run.dir=mine")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"{finished} (corpus not checked: train, val, test not on this machine)\n"


def test_a_right_command_gets_as_far_as_torch(train, tmp_path):
    done = train("seed=1")
    assert "torch was imported" in done.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_help_explains_the_groups_with_three_examples(train):
    done = train("--help")
    assert done.returncode == 0 and done.stderr == ""
    said = " ".join(done.stdout.split())
    for group, meaning in GROUPS.items():
        assert f" {group} {meaning} {', '.join(choices(group))} " in said
    assert done.stdout.count("  python train.py") == 3
    assert max(len(line) for line in done.stdout.splitlines()) <= 110


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("--cfg job --resolve seed=3", "seed: 3"),
        ("--info defaults", "schedule/cyclical"),
        ("--hydra-help", "--multirun"),
    ],
)
def test_what_hydra_shows_still_works(command, shown, train, tmp_path):
    done = train(*command.split())
    assert done.returncode == 0 and done.stderr == ""
    assert shown in done.stdout
    assert list((tmp_path / "here").iterdir()) == []
