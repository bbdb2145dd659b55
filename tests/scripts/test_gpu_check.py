"""The list of checks for a GPU: in which order, for how long, and what the report says of each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts import gpu_check
from tests.helpers import ROOT

NAMES = ["autocast_dtypes", "resume", "finetune", "semi_amortized", "bench", "four_at_once", "marked_tests"]


@pytest.fixture
def place(tmp_path) -> gpu_check.Checks:
    return gpu_check.Checks("cpu", tmp_path, 100.0)


def test_python_runs_in_the_folder_with_this_checkout(place, tmp_path):
    code = "import os; print(os.getcwd(), os.environ['PYTHONPATH'])"
    assert place.python("-c", code) == f"{tmp_path} {ROOT}\n"


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("import sys; print('out'); sys.exit('first\\nlast')", "last"),
        ("print('a\\nb'); raise SystemExit(3)", "b"),
    ],
)
def test_what_fails_says_its_last_line(code, last, place):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        place.python("-c", code)
    assert failed.value.output == last


def test_nothing_runs_longer_than_the_time_that_is_left(place, monkeypatch):
    limits = []

    def run(command: list[str], timeout: float, **_: object) -> SimpleNamespace:
        limits.append(timeout)
        return SimpleNamespace(returncode=0, stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    for end in (50.0, -9.0):
        place.end = time.monotonic() + end
        place.python()
    assert 49 < limits[0] <= 50 and limits[1] == 1


def checks(monkeypatch, seconds: dict[str, float] | None = None, **outcomes: object) -> list[str]:
    """Replace every check: it takes so many seconds and has its outcome. Return the names of those called."""
    called: list[str] = []
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def made(name: str):
        def check(self: gpu_check.Checks) -> dict[str, object]:
            called.append(name)
            now[0] += (seconds or {}).get(name, 1.0)
            if isinstance(outcome := outcomes.get(name, {}), Exception):
                raise outcome
            return dict(outcome)

        check.__name__ = name
        return check

    for name in ("machine", *NAMES):
        monkeypatch.setattr(gpu_check.Checks, name, made(name))
    return called


def test_every_check_is_reported_and_saved_though_some_fail(tmp_path, monkeypatch, capsys):
    failed = subprocess.CalledProcessError(1, "train.py", "no memory")
    late = subprocess.TimeoutExpired("bench.py", 3)
    called = checks(
        monkeypatch, machine={"cores": 2}, resume=failed, bench=late, finetune={"test/accuracy": 1}
    )
    path = tmp_path / "report.json"
    assert gpu_check.main(["--device", "cpu", "--json", str(path), "--seconds", "500"]) == 1
    assert called == ["machine", *NAMES]
    report = json.loads(path.read_text())
    assert list(report) == ["device", *called] and (report["device"], report["machine"]) == (
        "cpu",
        {"cores": 2},
    )
    assert report["resume"] == {"error": "no memory", "check_seconds": 1.0}
    assert report["bench"] == {"error": "the time was up", "check_seconds": 1.0}
    assert report["finetune"] == {"test/accuracy": 1, "check_seconds": 1.0}
    assert capsys.readouterr().out.splitlines()[-1] == f"{path} has the report; failed: resume, bench"


def test_what_was_found_before_something_ended_the_list_is_kept(tmp_path, monkeypatch):
    checks(monkeypatch, bench=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        gpu_check.main(["--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["device", "machine", *NAMES[: NAMES.index("bench")]]


@pytest.mark.parametrize(("spent", "rest"), [(79, []), (80, []), (81, ["skipped"])])
def test_a_check_without_twenty_seconds_is_left_out(spent, rest, tmp_path, monkeypatch, capsys):
    called = checks(monkeypatch, seconds=dict.fromkeys(NAMES, 0.0) | {"machine": 0.0, "four_at_once": spent})
    path = tmp_path / "report.json"
    assert gpu_check.main(["--json", str(path), "--seconds", "100"]) == 0
    report = json.loads(path.read_text())
    assert [key for key in report["marked_tests"] if key != "check_seconds"] == rest
    assert ("marked_tests" in called) == (not rest) and report["device"] == "cuda"
    assert capsys.readouterr().out.splitlines()[-1] == f"{path} has the report"


def test_without_a_machine_to_describe_nothing_is_checked(tmp_path, monkeypatch, capsys):
    called = checks(monkeypatch, machine=subprocess.CalledProcessError(1, "python", "no torch"))
    assert gpu_check.main(["--json", str(tmp_path / "a.json")]) == 1
    assert called == ["machine"] and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "the checks cannot run: no torch\n"


def test_by_default_it_takes_ten_minutes_of_a_gpu():
    options = gpu_check.parse([])
    assert (options.device, options.json, options.seconds) == ("cuda", "gpu_check.json", 600)


def test_what_is_run_elsewhere_prints_json(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["-c", "cpu"])
    found = []
    for code in (gpu_check.AUTOCAST, gpu_check.MACHINE):
        exec(code, {})
        found.append(json.loads(capsys.readouterr().out))
    assert found[0].keys() == {"LSTM", "GRU"} and all(
        dtype.startswith("torch.") for dtype in found[0].values()
    )
    assert found[1].keys() == {"torch", "cuda", "cudnn", "gpus"} and found[1]["torch"] == torch.__version__


@pytest.fixture
def trained(place, monkeypatch) -> list[list[str]]:
    """The commands that would train: they are noted and not run."""
    commands: list[list[str]] = []

    def python(self: gpu_check.Checks, *arguments: str) -> str:
        commands.append(list(arguments))
        return ""

    monkeypatch.setattr(gpu_check.Checks, "python", python)
    return commands


def leave(place: gpu_check.Checks, name: str, results: dict, records: list[dict]) -> None:
    folder = place.folder / "outputs" / name / "run"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_resumed_run_is_compared_record_by_record(place, trained):
    one = [{"train/loss": 1.0}, {"train/loss": 2.0, "train/kl": 1.0}, {"val/rec": 5.0}, {"train/loss": 9.0}]
    other = [{"train/loss": 1.0}, {"train/loss": 2.5}, {"val/rec": 4.75}]
    leave(place, "undisturbed", {}, one)
    leave(place, "resumed", {}, other)
    found = place.resume()
    assert found["records"] == [4, 3]
    differences = found["largest_difference"]
    assert (differences["train/loss"], differences["val/rec"]) == (0.5, 0.25)
    assert math.isnan(differences["train/kl"]) and math.isnan(differences["val/kl"])  # not in both
    first, stopped, resumed = trained
    assert "name=undisturbed" in first and "device=cpu" in first and str(ROOT / "train.py") == first[0]
    assert set(stopped) - set(resumed) == {"train.stop_after=17"} and set(resumed) < set(stopped)
    assert set(resumed) ^ set(first) == {"name=undisturbed", "name=resumed"}


def test_classifiers_are_trained_on_words_that_tell_their_class(place, trained, configured):
    leave(place, "finetune", {"test/accuracy/finetune/1": 1.0, "val/rec": 2.0}, [])
    assert place.finetune() == {"test/accuracy/finetune/1": 1.0}
    counts = {"train": 60, "dev": 20, "test": 20}
    for split, count in counts.items():
        for label, word in enumerate(("awful", "great")):
            lines = (place.folder / "reviews" / f"sentiment.{split}.{label}").read_text().splitlines()
            assert len(lines) == count and all(f" {word}" in line for line in lines)
            assert len({len(line.split()) for line in lines}) == 4
    config = configured(*trained[0][3:])
    assert config.dataset.path == str(place.folder / "reviews") and config.task.finetune.modes == ["finetune"]


def test_what_is_refined_is_reported_where_it_is_measured(place, trained, configured):
    leave(place, "semi_amortized", {"val/elbo": -2.0, "val/refined_elbo": -1.0, "val/kl": 0.5}, [])
    assert place.semi_amortized() == {"val/elbo": -2.0, "val/refined_elbo": -1.0}
    assert configured(*trained[0][3:]).update.name == "semi_amortized"


@pytest.mark.parametrize(
    ("device", "precisions"), [("cpu", ["float32", "bf16"]), ("cuda", ["float32", "bf16", "tf32"])]
)
def test_a_step_is_measured_in_each_precision_that_the_device_has(device, precisions, place, trained):
    place.device = device
    for precision in precisions:
        (place.folder / f"bench-{precision}.json").write_text(json.dumps({"of": precision}))
    assert place.bench() == {precision: {"of": precision} for precision in precisions}
    for command, precision in zip(trained, precisions, strict=True):
        assert command[0] == str(ROOT / "scripts" / "bench.py") and f"precision={precision}" in command
        assert command[command.index("--device") + 1] == device
        assert (
            set(gpu_check.SMALL) <= set(command)
            if device == "cpu"
            else not set(gpu_check.SMALL) & set(command)
        )


@pytest.mark.parametrize("code", [0, 3])
def test_four_runs_at_once_are_compared_with_one(code, place, monkeypatch):
    now, started, killed = [0.0], [], []

    class Process:
        def __init__(self, command: list[str], cwd: Path, **_: object) -> None:
            started.append(command)
            self.last = command[-1].endswith("4-3")

        def wait(self, timeout: float) -> int:
            now[0] += 2.0
            return code if self.last else 0

        def kill(self) -> None:
            killed.append(self)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(subprocess, "Popen", Process)
    if code:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            place.four_at_once()
        assert (failed.value.returncode, failed.value.output) == (3, "4 at once: exit codes [0, 0, 0, 3]")
    else:
        assert place.four_at_once() == {"seconds": {1: 2.0, 4: 8.0}, "throughput": 1.0}
    names = [command[-1] for command in started]
    assert names == ["name=together1-0", *(f"name=together4-{place}" for place in range(4))]
    assert len(killed) == 5 and all(command[0] == sys.executable for command in started)
    assert all(set(gpu_check.SMALL) < set(command) for command in started)


def test_what_the_machine_and_the_suite_print_is_reported(place, monkeypatch):
    asked = []

    def python(self: gpu_check.Checks, *arguments: str) -> str:
        asked.append(arguments)
        return '{"torch": "2"}\n' if arguments[0] == "-c" else "..\n\n== 3 passed in 2 s ==\n"

    monkeypatch.setattr(gpu_check.Checks, "python", python)
    assert place.machine().keys() == {"python", "cores", "torch"}
    assert place.autocast_dtypes() == {"torch": "2"} and asked[-1][-1] == "cpu"
    assert place.marked_tests() == {"last_line": "3 passed in 2 s"}
    assert asked[-1][:2] == ("-m", "pytest") and asked[-1][asked[-1].index("-m", 1) + 1] == "cuda"
    assert asked[-1][-1] == str(ROOT / "tests")
