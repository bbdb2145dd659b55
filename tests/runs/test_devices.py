"""Which GPUs a process may use, how jobs share them, and what a run says of the device it takes."""

from __future__ import annotations

import os
import platform
import stat
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cvae.cli import train
from cvae.runs import devices
from cvae.training import device
from cvae.training.device import choose_device, describe_device, device_name

JOBLIB = {"_target_": "x.JoblibLauncher"}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Return a function that puts an nvidia-smi on the path, with what it prints and its exit status."""

    def install(printed: str, status: int = 0) -> None:
        asked = '[ "$*" = "--query-gpu=uuid --format=csv,noheader" ]'
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{asked} || exit 2\nprintf '{printed}'\nexit {status}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    monkeypatch.delenv(devices.VISIBLE, raising=False)
    return install


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("0, 1", ["0", "1"]),
        ("GPU-a,-1,GPU-b", ["GPU-a"]),
        ("1,,0", ["1"]),
    ],
)
def test_visible_gpus_are_those_of_cuda(visible, expected, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, visible)
    assert devices.gpus() == expected


def test_cores_are_those_that_this_process_may_use_where_the_system_says(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(3), raising=False)
    assert devices.cores() == 3
    monkeypatch.delattr(devices.os, "sched_getaffinity")
    for count, wanted in ((5, 5), (None, 1)):
        monkeypatch.setattr(devices.os, "cpu_count", lambda count=count: count)
        assert devices.cores() == wanted


def test_an_nvidia_smi_that_fails_names_no_gpu(nvidia_smi):
    nvidia_smi("GPU-a\\nGPU-b\\n")
    assert devices.gpus() == ["GPU-a", "GPU-b"]
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the driver\\n", status=9)
    assert devices.gpus() == []


def test_a_run_on_the_cpu_says_that_the_gpu_is_hidden(nvidia_smi, monkeypatch):
    cpu = torch.device("cpu")
    assert describe_device(cpu) == "cpu"
    nvidia_smi("GPU-a\\n")
    monkeypatch.setenv(devices.VISIBLE, "")  # as a launcher sets it that was asked for no GPU
    assert describe_device(cpu) == (
        "cpu: this machine has a GPU, hidden by CUDA_VISIBLE_DEVICES='';"
        " a launcher gives one with hydra.launcher.gpus_per_node=1"
    )
    monkeypatch.setenv(devices.VISIBLE, "GPU-a")  # it is this torch that sees none
    assert describe_device(cpu) == "cpu"


@pytest.mark.parametrize(("supported", "said"), [(True, ", with bf16)"), (False, ")")])
def test_a_processor_is_named_with_whether_it_has_bf16(supported, said, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "multiplies_bf16", lambda: supported)
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU: 2.5 GHz\nmodel name\t: Other\n"
    )
    assert device_name(torch.device("cpu")) == f"cpu (Some CPU: 2.5 GHz{said}"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    for absent in ("flags: fpu\n", None):
        (tmp_path / "cpuinfo").write_text(absent) if absent else (tmp_path / "cpuinfo").unlink()
        assert device_name(torch.device("cpu")) == f"cpu (arm{said}"
    (tmp_path / "cpuinfo").mkdir()  # nothing that can be read
    assert device_name(torch.device("cpu")) == f"cpu (arm{said}"
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert device_name(torch.device("cpu")) == f"cpu (riscv64{said}"


def test_a_run_on_the_cpu_says_that_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert describe_device(choose_device("cpu")) == "cpu, as device=cpu says: torch sees a GPU"


def test_a_parallel_job_takes_a_gpu_that_no_other_has(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "GPU-a,GPU-b")
    with devices.own_gpu("auto", JOBLIB):
        assert os.environ[devices.VISIBLE] == "GPU-a"
        monkeypatch.setenv(devices.VISIBLE, "GPU-a,GPU-b")  # as another process of the sweep has it
        with devices.own_gpu("auto", JOBLIB):
            assert os.environ[devices.VISIBLE] == "GPU-b"
            assert devices._take_gpu(["GPU-a", "GPU-b"], 1) is None
    monkeypatch.setenv(devices.VISIBLE, "GPU-a,GPU-b")
    with devices.own_gpu("cpu", JOBLIB), devices.own_gpu("auto", {"_target_": "x.BasicLauncher"}):
        assert os.environ[devices.VISIBLE] == "GPU-a,GPU-b"


def test_a_job_waits_until_a_gpu_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "a")
    taken, waited = devices._take_gpu(["a"], 1), []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            taken.release()

    monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=sleep))
    with devices.own_gpu("auto", JOBLIB):
        assert waited == [1, 1, 1]


def test_jobs_that_share_gpus_fill_them_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "")
    taken, locks = [], []
    while (lock := devices._take_gpu(["a", "b"], 3)) is not None:
        locks.append(lock)
        taken.append(os.environ[devices.VISIBLE])
    assert taken == ["a", "b", "a", "b", "a", "b"]
    locks[2].release()
    locks.append(devices._take_gpu(["a", "b"], 3))
    assert os.environ[devices.VISIBLE] == "a"


def test_a_job_shares_its_gpu_with_as_many_as_asked(tmp_path, monkeypatch, configured):
    asked = []
    monkeypatch.setattr(train, "own_gpu", lambda *given: asked.append(given) or nullcontext())
    monkeypatch.setattr(train, "_train", lambda *given: 0.0)
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)), launcher=JOBLIB)
    monkeypatch.setattr(train.HydraConfig, "get", lambda: hydra)
    train._run(None, configured("jobs_per_gpu=3", "device=auto"))
    assert asked == [("auto", JOBLIB, 3)]


def test_another_users_lock_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(devices.VISIBLE, "a")
    for user in ("one", "other"):
        monkeypatch.setattr("getpass.getuser", lambda user=user: user)
        with devices.own_gpu("auto", JOBLIB):
            assert Path(tmp_path / f"cvae-{user}-a.lock").exists()
