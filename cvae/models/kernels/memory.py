"""What the process does with memory it has freed."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 32 * 2**20  # the largest block that glibc can keep on its heap


def keep_freed() -> bool:
    """Freed blocks stay with the process, where malloc is glibc's; whether it is.

    A step frees its gradients (PTB: 35 MB) and takes as much again. By default glibc hands them to the system
    and back, a page at a time: faults were a tenth of the time of the PTB model's step.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return all([libc.mallopt(MMAP_THRESHOLD, LARGEST), libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)])
