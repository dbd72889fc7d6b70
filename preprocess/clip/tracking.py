"""Faces that OpenFace 2 has tracked already: RAVDESS's own record of its videos, one csv a clip.

OpenFace gives each of 68 points in the picture, in pixels, and in front of the camera, in
millimetres. Here the first says where a point is, and the second how deep it lies, brought to the
picture's scale: the weak perspective that FaceMesh's points are in too.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from preprocess.clip.container import DEFAULT_LIMITS, Limits, MediaError
from preprocess.clip.landmarks import Track, are_faces

NUM_POINTS = 68
# Of RAVDESS's videos; the record does not say.
_PICTURE_WIDTH = 1280
_POINT_COLUMNS = [f"{axis}_{i}" for axis in "xyXYZ" for i in range(NUM_POINTS)]
_COLUMNS = ["timestamp", "success", *_POINT_COLUMNS]
# Longest row that 712 columns can take; a longer one is no row.
_MAX_ROW_BYTES = 712 * 40


def read_track(path: Path, limits: Limits = DEFAULT_LIMITS) -> Track:
    """Read a clip's tracking record.

    Args:
      path: csv with a head and one row a picture; of several rows of one time (several faces) the
        first is taken.
      limits: what a file may reach.

    Returns:
      The track; points in picture widths, z away from the camera and 0 at the points' mean depth.

    Raises:
      MediaError: if it is not that, or passes a limit.
      OSError: if it cannot be opened.
    """
    if path.stat().st_size > _MAX_ROW_BYTES * (limits.frames + 1):
        raise MediaError("too long", f"more than {limits.frames} rows")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.reader(_lines(file), skipinitialspace=True)
            head = [name.strip() for name in next(rows, [])]
            missing = [name for name in _COLUMNS if name not in head]
            if missing:
                raise MediaError(
                    "unreadable", f"no OpenFace record: it has no column {missing[0]!r}"
                )
            indices = [head.index(name) for name in _COLUMNS]
            limited = itertools.islice(rows, limits.frames + 1)
            table = np.array([[float(row[i]) for i in indices] for row in limited if row])
    except (ValueError, IndexError, csv.Error) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("unreadable", f"no OpenFace record: a row is damaged ({error})") from error
    if not len(table):
        raise MediaError("no picture", "its tracking record has no row")
    if len(table) > limits.frames:
        raise MediaError("too long", f"more than {limits.frames} rows")
    times_s = table[:, 0]
    if not np.isfinite(times_s).all() or (np.diff(times_s) < 0).any():
        raise MediaError("unreadable", "times in its tracking record do not rise")
    if times_s[-1] - times_s[0] > limits.duration_s + 1e-6:
        raise MediaError("too long", f"longer than {limits.duration_s:g} s")
    table = table[np.append(True, np.diff(times_s) > 0)]
    points = _in_picture_widths(table[:, 2:])
    found = (table[:, 1] == 1) & np.isfinite(points).all(axis=(1, 2))
    found[found] = are_faces(points[found])
    points[~found] = 0
    return Track(table[:, 0], points, found)


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_ROW_BYTES + 1):
        if len(line) > _MAX_ROW_BYTES:
            raise MediaError("unreadable", "no OpenFace record: a row is longer than 712 columns")
        yield line


def _in_picture_widths(values: np.ndarray) -> np.ndarray:
    """Return points of the columns x, y, X, Y, Z, 68 each: float32 `[F, 68, 3]`."""
    x, y, *space = np.split(values, 5, axis=1)
    flat = np.stack([x, y], axis=-1)
    before_camera = np.stack(space, axis=-1)
    with np.errstate(all="ignore"):  # what is not finite is no face
        before_camera = before_camera - before_camera.mean(axis=1, keepdims=True)
        spread = np.square(flat - flat.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
        scale = np.sqrt(spread / np.square(before_camera[..., :2]).sum(axis=(1, 2)))
        depth = before_camera[..., 2:] * scale[:, None, None]
        points = np.concatenate([flat, depth], axis=-1) / _PICTURE_WIDTH
        return points.astype(np.float32)
