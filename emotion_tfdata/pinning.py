"""Cores of its own for each process of a pool: taken when it begins, free again when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

_slot: Slot | None = None  # this process's


class Slot:
    """The cores of one process, and while it works also those of processes that do not."""

    def __init__(self, number: int, slots: Sequence[Sequence[int]], folder: str, lock: object):
        self._lock = lock  # that says it is taken, held until the process ends
        self._number, self._slots, self._folder = number, slots, folder
        self._working: list[IO[str]] = []
        self._cores = {*slots[number]}
        _keep_on(self._cores)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Tell the other processes that this one needs its cores."""
        names = (Path(self._folder, f"{number}.works") for number in range(len(self._slots)))
        self._working = self._working or [name.open("a") for name in names]
        fcntl.flock(self._working[self._number], fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._working[self._number], fcntl.LOCK_UN)

    def look(self) -> None:
        """Take the cores of processes that do not work; return them to those that do again."""
        cores = {*self._slots[self._number]}
        for number, file in enumerate(self._working):
            if number != self._number:
                with contextlib.suppress(OSError):  # it works
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(file, fcntl.LOCK_UN)
                    cores.update(self._slots[number])
        if cores != self._cores:
            self._cores = cores
            _keep_on(cores)


def take(slots: Sequence[Sequence[int]], folder: str) -> None:
    """Keep this process on cores that no other process of the pool has.

    Args:
      slots: the cores of each process; none of them for any.
      folder: of the locks that say which are taken; a process that dies lets go of its.
    """
    global _slot
    for number in range(len(slots)):
        lock = open(os.path.join(folder, str(number)), "w")  # noqa: SIM115
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _slot = Slot(number, slots, folder, lock)
            return
        lock.close()


def taken() -> Slot | None:
    """Return the slot that this process has taken."""
    return _slot


def _keep_on(cores: set[int]) -> None:
    """Keep all threads of this process on these cores; an empty set for any."""
    if cores and hasattr(os, "sched_setaffinity"):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
