"""The cores and GPUs of this machine, and how the jobs of a sweep share them. Torch-free."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES or else nvidia-smi names them."""
    names = os.environ.get(VISIBLE)
    if names is None:
        return installed_gpus()
    named = (name.strip() for name in names.split(","))
    return list(takewhile(lambda name: name and not name.startswith("-"), named))  # CUDA, too, ends at a -1


def installed_gpus() -> list[str]:
    """Return the identifiers of this machine's GPUs; none where nvidia-smi is absent or fails."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def hidden_gpu_note() -> str:
    """Return why a machine's GPU is not used: CUDA_VISIBLE_DEVICES hides it. Empty where it does not."""
    if os.environ.get(VISIBLE) is None or gpus() or not installed_gpus():
        return ""
    return (
        f"this machine has a GPU, hidden by {VISIBLE}={os.environ[VISIBLE]!r};"
        " a launcher gives one with hydra.launcher.gpus_per_node=1"
    )


@contextmanager
def own_gpu(device: str, launcher: Mapping[str, Any], jobs_per_gpu: int = 1) -> Iterator[None]:
    """In a joblib sweep on a machine with GPUs, wait for one with fewer jobs than allowed; hide the others.

    A process cannot change its GPU once torch has started, so its later jobs wait for the same one.
    """
    choices = gpus() if launcher["_target_"].endswith("JoblibLauncher") and device != "cpu" else []
    if not choices:
        yield
        return
    while (lock := _take_gpu(choices, jobs_per_gpu)) is None:
        time.sleep(1)
    with lock:
        yield


def _take_gpu(choices: Sequence[str], jobs_per_gpu: int) -> FileLock | None:
    """Take a place on a GPU, make it the only visible one and return the lock; None if all are taken.

    GPUs fill evenly. The locks are the user's own: another user's file could not be opened.
    """
    for place, gpu in product(range(jobs_per_gpu), choices):
        name = f"cvae-{getpass.getuser()}-{gpu}" + (f"-{place}" if place else "")
        lock = FileLock(Path(tempfile.gettempdir()) / f"{name}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
            os.environ[VISIBLE] = gpu
            return lock
    return None
