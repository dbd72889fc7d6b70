"""Checks of make_dataset's own arguments, so that a wrong one is named where it was given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from emotion_tfdata.augment.config import Augment
from emotion_tfdata.features import Features, Reading, check_whole, is_sequence_of

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Name -> least value allowed.
_WHOLE = {"fold": 0, "batch_size": 1, "seed": None, "start_epoch": 0, "start_batch": 0}
_WHOLE_OR_NONE = {"validation_fold": 0, "num_epochs": 1}


def tells_new_names(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have a function name the place of an argument that moved into `Features` or `Reading`."""
    moved = {
        field.name: f"{name}={kind.__name__}({field.name}=...)"
        for name, kind in (("features", Features), ("reading", Reading))
        for field in dataclasses.fields(kind)
    }

    @functools.wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        old = [moved[name] for name in kwargs if name in moved]
        if old:
            raise TypeError(f"{function.__name__}: give {', '.join(old)}")
        return function(*args, **kwargs)

    return checked


def check(arguments: Mapping[str, Any]) -> None:
    """Check kinds and lower limits; what hangs on the data set is checked with it.

    Args:
      arguments: of `make_dataset`, by name.

    Raises:
      ValueError: naming the argument, what is allowed, and what was given.
    """

    def refuse(name: str, allowed: str) -> None:
        raise ValueError(f"{name} must be {allowed}, got {arguments[name]!r}")

    for name, least in _WHOLE.items():
        check_whole(name, arguments[name], least)
    for name, least in _WHOLE_OR_NONE.items():
        if arguments[name] is not None:
            check_whole(name, arguments[name], least, " or None")
    for name, kind, allowed in (
        ("shuffle", bool | None, "True, False or None"),
        ("augment", Augment | None, "an Augment(...) or None"),
        ("features", Features, "a Features(...)"),
        ("reading", Reading, "a Reading(...)"),
    ):
        if not isinstance(arguments[name], kind):
            refuse(name, allowed)
    ids = arguments["example_ids"]
    if ids is not None and not (is_sequence_of(ids, lambda x: isinstance(x, str)) and len(ids)):
        refuse("example_ids", "a list of at least one id, or None")
