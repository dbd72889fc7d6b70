"""From clips to data sets. Needs the extra `[preprocess]`.

>>> from preprocess import BuildSettings, Clip, build
>>> build("data/mine", [Clip(video="a.mp4", actor="1", emotion="happy"), ...])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preprocess.api import AudioSettings, BuildError, BuildSettings, Clip, build

__all__ = ["AudioSettings", "BuildError", "BuildSettings", "Clip", "build"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: a command says in one line that a library is missing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from preprocess import api

    return getattr(api, name)
