"""Checks of make_dataset's plain arguments, so that a wrong one is named where it was given."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from emotion_tfdata.augment.draw import Augment

# Name -> least value allowed.
_WHOLE = {"fold": 0, "batch_size": 1, "seed": None, "start_epoch": 0, "start_batch": 0}
_WHOLE |= {"num_classes": None, "num_buckets": 1}
_WHOLE_OR_NONE = {"validation_fold": 0, "num_epochs": 1, "num_threads": 1}
_BOOL = ("normalize", "relative_level", "with_ids", "cache")


def check(arguments: Mapping[str, Any]) -> None:
    """Checks kinds and lower limits; what hangs on the data set is checked with it.

    Args:
      arguments: of `make_dataset`, by name.

    Raises:
      ValueError: naming the argument, what is allowed, and what was given.
    """

    def refuse(name: str, allowed: str) -> None:
        raise ValueError(f"{name} must be {allowed}, got {arguments[name]!r}")

    for name, least in (_WHOLE | _WHOLE_OR_NONE).items():
        value, or_none = arguments[name], " or None" if name in _WHOLE_OR_NONE else ""
        if value is None and or_none:
            continue
        if not _is_whole(value):
            refuse(name, f"a whole number{or_none}")
        if least is not None and value < least:
            refuse(name, f"at least {least}{or_none}")
    for name in _BOOL:
        if not isinstance(arguments[name], bool):
            refuse(name, "True or False")
    if not isinstance(arguments["shuffle"], bool | None):
        refuse("shuffle", "True, False or None")
    if not isinstance(arguments["augment"], Augment | None):
        refuse("augment", "an Augment(...) or None")
    shard = arguments["shard"]
    if not (isinstance(shard, tuple | list) and len(shard) == 2 and all(map(_is_whole, shard))):
        refuse("shard", "(index, count), two whole numbers")
    landmarks = arguments["landmarks"]
    is_word = isinstance(landmarks, str) and landmarks in ("all", "expressive")
    if not is_word and not _is_sequence_of(landmarks, _is_whole):
        refuse("landmarks", "'all', 'expressive' or a list of indices")
    ids = arguments["example_ids"]
    if ids is not None and not (_is_sequence_of(ids, lambda x: isinstance(x, str)) and len(ids)):
        refuse("example_ids", "a list of at least one id, or None")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_sequence_of(values: Any, is_one: Any) -> bool:
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        return False
    return all(map(is_one, values))
