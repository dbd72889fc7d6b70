"""Keeps freed memory in the process: settings of the C library's allocator."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h, with the values that keep most.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 << 20, _M_MMAP_THRESHOLD: 32 << 20}


def keep_freed_memory() -> bool:
    """Have the process keep what it frees, up to 2 GB, for its next allocations.

    glibc gives much of a batch's memory back to the system and asks for it again with the next
    batch, and the system zeroes it each time: a tenth of what the input costs. `train.py` calls
    this first; it holds for the whole process, which is why `make_dataset` leaves it to you.

    Returns:
      Whether there is such a setting here: not on macOS, nor with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in _KEPT.items())
