"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file that stands for its folder; it goes with the holder, even a killed one.

    Raises:
      BlockingIOError: if another process holds it.
      OSError: if it cannot be made.
    """
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have removed it since it was opened, and another have made it again.
        if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            raise BlockingIOError(f"{path} was released just now")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
