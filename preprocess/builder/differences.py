"""How two descriptions of a build differ, in words for whoever gave other flags or files."""

from __future__ import annotations

import time
from typing import Any


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Say where two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            difference
            for key in sorted(found.keys() | wanted.keys())
            for difference in differences(found.get(key), wanted.get(key), f"{name} {key}".strip())
        ]
    if found == wanted:
        return []
    if found is None or wanted is None:
        return [f"{name} is {'new' if found is None else 'gone'}"]
    if name.startswith("inputs "):
        return [f"{name}: {_changed_file(found, wanted)}"]
    return [f"{name} was {found!r}, is now {wanted!r}"]


def _changed_file(found: list[list[Any]], wanted: list[list[Any]]) -> str:
    """Return the first of a clip's files, as `Plan.inputs` has them, that has changed."""
    for was, now in zip(found, wanted, strict=False):
        if was == now:
            continue
        if not len(was) == len(now) == 3 or isinstance(was[2], str) or isinstance(now[2], str):
            return f"{was} then, {now} now"
        (path, size, changed_ns), (path_now, size_now, changed_now_ns) = was, now
        if path != path_now:
            return f"{path} then, {path_now} now"
        if size != size_now:
            return f"{path} had {size} bytes, has {size_now}"
        if changed_ns != changed_now_ns:
            return (
                f"{path} has its size, but was written again "
                f"({_time(changed_ns)}, now {_time(changed_now_ns)})"
            )
    return f"{len(found)} files then, {len(wanted)} now"


def _time(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns / 1e9)) + " UTC"
