"""Waiting for what other processes do, of which nothing tells but looking."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def wait_until(
    is_true: Callable[[], Any],
    what: str,
    for_s: float = 60.0,
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Looks again and again until it is true.

    Args:
      is_true: asked twenty times a second.
      what: is waited for, in words.
      for_s: the most seconds; only a failure takes as long.
      process: must not end before.
    """
    give_up = time.monotonic() + for_s
    while not is_true():
        assert time.monotonic() < give_up, f"not within {for_s:.0f} s: {what}"
        if process is not None:
            assert process.poll() is None, (what, process.communicate())
        time.sleep(0.05)
