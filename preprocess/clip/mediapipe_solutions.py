"""mediapipe's solutions without what else it pulls in."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def load(name: str) -> Any:
    """Import one of them, e.g. `face_mesh`.

    mediapipe imports TensorFlow, to no end but its own documentation, and jax for a converter. Both
    are optional to it, cost seconds and hundreds of megabytes a process, and are kept out unless
    the process has them anyway.
    """
    kept_out = [name for name in ("tensorflow", "jax") if name not in sys.modules]
    for absent in kept_out:
        sys.modules[absent] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(f"mediapipe.python.solutions.{name}")
    finally:
        for absent in kept_out:
            del sys.modules[absent]
