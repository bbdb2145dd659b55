"""The program `cvae`: its commands, how they end, and what a wheel of it holds."""

from __future__ import annotations

import errno
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from cvae import __version__, program
from cvae.cli import main
from cvae.cli.arguments import typed
from cvae.runs import provenance
from tests.helpers import CONF, ROOT

SIZES = ("train.steps=4", "train.validate_every=2", "dataset.draws=2", "task.samples=10", "threads=1")


def cvae(*arguments: str, cwd: Path = ROOT, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m cvae`, after some code if there is any."""
    start = f"{code}; from cvae.cli.main import main; sys.exit(main())"
    command = [sys.executable, *(["-c", f"import sys; {start}"] if code else ["-m", "cvae"]), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main.main([name, "--help"])
    out, err = capsys.readouterr()
    assert f"cvae {name}" in out and err == "" and "%(prog)s" not in out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_examples_of_a_command_can_be_typed(name, monkeypatch):
    """As far as the parser; without --device a GPU is used where there is one."""
    monkeypatch.chdir(ROOT)
    command = importlib.import_module(f"cvae.cli.{name}")
    lines = [line for line in getattr(command, "EXAMPLES", "").splitlines() if line.startswith("  %(prog)s ")]
    assert lines or name == "train"  # whose parser is Hydra's
    for line in lines if name != "train" else []:
        example, *_ = re.split(r" {3,}| > ", line.strip())  # what follows is a remark, or the shell's
        options = command.parse(shlex.split(example)[1:])
        assert getattr(options, "device", "auto") == "auto"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_a_script_is_its_command(name):
    file = ROOT / ("train.py" if name == "train" else f"scripts/{'get_data' if name == 'data' else name}.py")
    text = file.read_text(encoding="utf-8")
    assert f"from cvae.cli.{name} import main\n" in text and len(text.splitlines()) < 15


@pytest.mark.parametrize("installed", [False, True])
def test_a_command_can_be_typed_as_it_is_told_whatever_its_words(installed, monkeypatch):
    monkeypatch.setattr(program, "INSTALLED", installed)
    words = ["name=a b", "dataset.path=it's $HOME/(1)", "schedule=constant,cyclical", ""]
    for name, script in {
        "train": "train.py",
        "data": "scripts/get_data.py",
        "table": "scripts/table.py",
    }.items():
        start = ["cvae", name] if installed else ["python", script]
        assert shlex.split(program.command_line(name, *words)) == [*start, *words]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("/home/me/venv/bin/cvae", "cvae table"),
        ("/home/me/cvae/__main__.py", "cvae table"),
        ("scripts/table.py", "python scripts/table.py"),
    ],
)
def test_a_command_is_told_as_it_was_typed(file, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [file, "table"])
    assert typed("table") == told


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ([], 2, "cvae: a command is missing"),
        (["trian", "seed=1"], 2, "cvae: no command 'trian', did you mean train?"),
        (["xyz"], 2, "cvae: no command 'xyz'"),
        (["--help"], 0, ""),
        (["-h"], 0, ""),
    ],
)
def test_without_a_command_it_says_which_there_are(arguments, status, sentence, capsys):
    assert main.main(arguments) == status
    out, err = capsys.readouterr()
    assert (err if status else out).endswith(f"{main.HELP}\n")
    assert "\n\n  train     train a model, continue a run, or sweep over settings\n  evaluate  m" in main.HELP
    assert err.partition("\n")[0] == sentence


def test_no_command_is_missing():
    names = "train evaluate sample encode decode export table figures claims report status data"
    assert list(main.COMMANDS) == names.split()


def test_the_version_is_the_packages(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_its_help_needs_no_package():
    done = cvae("--help", code="sys.modules |= dict.fromkeys(('torch', 'hydra', 'numpy', 'yaml'))")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{main.HELP}\n")


def test_train_is_one_of_its_commands(tmp_path, forks):
    program = ROOT / "cvae" / "__main__.py"
    done = forks.run(program, "train", *SIZES, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").exists()
    there = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / "run" / ".hydra").iterdir()}
    assert there.keys() == {"config", "hydra", "overrides"}  # as Hydra itself would have written them
    assert there["overrides"] == there["hydra"]["hydra"]["overrides"]["task"] == list(SIZES)
    assert (there["hydra"].keys(), there["config"]["threads"]) == ({"hydra"}, 1)
    done = forks.run(program, "table", "run", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("| n | test/elbo |")


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "table --help",
        "train --help",
        "train --cfg job",
        "table outputs/published/toy",
    ],
)
def test_a_closed_pipe_ends_it_quietly(command):
    start = [sys.executable, "-m", "cvae", *command.split()]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 141)  # argparse takes no notice


def test_ctrl_c_ends_it_quietly(monkeypatch, capsys):
    def interrupted(folders: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cvae.cli.status.find_jobs", interrupted)
    assert main.main(["status", "outputs"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied", "a.txt"), "a.txt: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left"), f"[Errno {errno.ENOSPC}] No space left\n"),  # of stdout
    ],
)
def test_what_the_system_refuses_is_told_with_its_file_where_it_has_one(error, said, monkeypatch, capsys):
    def fails(folders: object) -> None:
        raise error

    monkeypatch.setattr("cvae.cli.status.find_jobs", fails)
    assert main.main(["status", "outputs"]) == 1
    assert capsys.readouterr() == ("", said)


def test_a_wheel_has_no_commit_and_is_started_by_cvae(monkeypatch):
    assert program.command_line("data", "ptb") == "python scripts/get_data.py ptb"
    for module in (program, provenance):
        monkeypatch.setattr(module, "INSTALLED", True)
    assert program.command_line("data", "ptb") == "cvae data ptb"
    assert provenance.git_commit() is None


@pytest.mark.parametrize(("status", "commit"), [("", "abc"), (" M cvae/io.py", "abc+")])
def test_a_commit_says_whether_there_are_changes_beside_it(status, commit, monkeypatch):
    monkeypatch.setattr(provenance, "INSTALLED", False)

    def git(command: str, *rest: str) -> str:
        untracked = "" if "--untracked-files=no" in rest else "?? notes.txt"  # no part of the programme
        return "abc" if command == "rev-parse" else status or untracked

    monkeypatch.setattr(provenance, "_git", git)
    assert provenance.git_commit() == commit


def test_the_recorded_commit_is_that_of_cvae_and_not_of_the_current_folder(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\n/bin/pwd\n")  # git looks for its repository from the current folder on
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "INSTALLED", False)
    assert provenance.git_commit() == f"{ROOT / 'cvae' / 'runs'}+"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_without_git_or_its_folder_there_is_no_commit(error, monkeypatch):
    def fails(*_: str) -> str:
        raise error

    monkeypatch.setattr(provenance, "INSTALLED", False)
    monkeypatch.setattr(provenance, "_git", fails)
    assert provenance.git_commit() is None


def test_a_wheel_has_every_package_and_every_configuration():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "cvae").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert sorted(setup["packages"]) == sorted(packages | {"cvae.conf"})
    for package, patterns in setup["package-data"].items():
        folder = ROOT / setup["package-dir"].get(package, package.replace(".", "/"))
        packed = {file for pattern in patterns for file in folder.glob(pattern)}
        unpacked = {
            file for file in folder.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")
        }
        assert unpacked <= packed
    assert {file for file in CONF.rglob("*") if file.is_file()} == set(CONF.glob("**/*.yaml"))
