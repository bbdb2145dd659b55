"""Copies from host memory to a GPU, for which the CPU does not wait."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; what kernels that read several numbers at once ask for


def to_device(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """Return arrays as tensors on a device; a GPU gets all of them in one copy from pinned memory."""
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
    packed = b"".join(a.tobytes().ljust(size, b"\0") for a, size in zip(arrays, sizes, strict=True))
    host = torch.frombuffer(bytearray(packed), dtype=torch.uint8).pin_memory()
    parts = host.to(device, non_blocking=True).split(sizes)
    return [
        part[: array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for part, array in zip(parts, arrays, strict=True)
    ]
