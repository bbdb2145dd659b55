"""The device of a run: its choice, and its names."""

from __future__ import annotations

import torch

from cvae.errors import UserError
from cvae.runs.devices import hidden_gpu_note


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
    """Return `cpu`, or `cuda` with the name of the GPU."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
