"""Cores of its own for each process of a pool: taken when it begins, free again when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence

_slot: object = None  # the lock of this process's cores, held until it ends


def take(slots: Sequence[Sequence[int]], folder: str) -> None:
    """Keeps this process on cores that no other process of the pool has.

    Args:
      slots: the cores of each process; none of them for any.
      folder: of the locks that say which are taken; a process that dies lets go of its.
    """
    global _slot
    for number, cores in enumerate(slots):
        lock = open(os.path.join(folder, str(number)), "w")  # noqa: SIM115
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _slot = lock
            if cores and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, cores)
            return
        lock.close()
