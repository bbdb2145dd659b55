"""What the process does with freed memory."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_HEAP_BLOCK = 32 * 2**20  # bytes; glibc allows no more


def keep_freed() -> bool:
    """Keep freed blocks in the process where malloc is glibc's; return whether it is.

    A PTB step frees 35 MB of gradients and takes as much again. glibc's default returns them to the system
    and takes them back page by page: these page faults were a tenth of the step's time.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    return all([libc.mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BLOCK), libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)])
