"""The device of a run: its choice, and its names."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import torch

from cvae.errors import UserError
from cvae.models.kernels import multiplies_bf16
from cvae.runs.devices import hidden_gpu_note

CPUINFO = Path("/proc/cpuinfo")  # Linux only
HAS_BF16 = ", with bf16"  # said of a processor that forms products in bf16


def choose_device(name: str) -> torch.device:
    """Return the device of a name, for `auto` the GPU if there is one.

    Raises UserError for a GPU that is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU that torch can use on this machine; device=auto or cpu")
    use_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the name of the device and, of a CPU on a machine with a GPU, why it is used."""
    if device.type == "cuda":
        return device_name(device)
    if torch.cuda.is_available():
        return "cpu, as device=cpu says: torch sees a GPU"
    return f"cpu: {note}" if (note := hidden_gpu_note()) else "cpu"


def device_name(device: torch.device) -> str:
    """Return `cuda` with the name of the GPU, or `cpu` with that of the processor and whether it has bf16."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({processor()}{HAS_BF16 if multiplies_bf16() else ''})"


def processor() -> str:
    """Return the name of this machine's processor, as well as it can be found out."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
