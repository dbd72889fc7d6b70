"""From clips to data sets. Needs the extra `[preprocess]`.

>>> from preprocess import BuildSettings, Clip, build
>>> build("data/mine", [Clip(video="a.mp4", actor="1", emotion="happy"), ...])
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preprocess.api import AudioSettings, BuildError, BuildSettings, Clip, build

__all__ = ["AudioSettings", "BuildError", "BuildSettings", "Clip", "build"]


# Modules that lay here before they had rooms: `from preprocess import media` finds them there.
_ROOMS = ("clip", "corpora", "builder", "reports", "prediction")


def __getattr__(name: str) -> Any:
    # Only when it is asked for: a command says in one line that a library is missing.
    if name in __all__:
        return getattr(importlib.import_module("preprocess.api"), name)
    for room in _ROOMS:
        if importlib.util.find_spec(f"preprocess.{room}.{name}"):
            return importlib.import_module(f"preprocess.{room}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
