"""Which face, and where: for clips in which FaceMesh finds none, or would take any of several.

FaceMesh looks for faces with mediapipe's short-range detector, which misses those that are small in
the picture, and follows whichever it finds first. Here the full-range detector looks at every
picture, what it finds is joined to persons, and the one whose face is largest over the clip is cut
out for FaceMesh.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from preprocess.clip import mediapipe_solutions

# Longest that a person may be missing, in pictures, and furthest that a face moves from one picture
# to the next, in its own widths.
_MISSING_PICTURES = 30
_MOVED_WIDTHS = 0.7
# A face that another one is compared with has at least this share of its area; less is a passer-by,
# a portrait on the wall, or none.
_SMALLEST_SHARE = 0.1
_MIN_SCORE = 0.6
# Where nothing is found in a whole picture: around the last place, or, in one of so many pictures,
# in parts of this share of its width and height.
_NEAR_WIDTHS = 8.0
_SEARCHED_PICTURES = 5
_PART_SHARE = 0.5
# The window that is cut out, in widths of the face; it stays while the face is well inside.
_WINDOW_WIDTHS = 2.2
_WINDOW_LIMITS = (1.6, 3.2)
_GREY = 128


@dataclasses.dataclass(frozen=True)
class Box:
    """Where a face is, in pixels: its centre and the larger of its width and height."""

    x: float
    y: float
    size: float

    def is_at(self, other: Box) -> bool:
        """Tell whether another box is of the same face, or in its place."""
        return self.distance(other) < 0.25 * (self.size + other.size)

    def distance(self, other: Box) -> float:
        """Return the distance of the centres in pixels."""
        return float(np.hypot(self.x - other.x, self.y - other.y))


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, box: Box) -> bool:
        """Tell whether a face is well inside, and neither small nor large in the window."""
        wide = max(self.right - self.left, self.bottom - self.top)
        low, high = _WINDOW_LIMITS
        return (
            self.left <= box.x - box.size * 0.6
            and box.x + box.size * 0.6 <= self.right
            and self.top <= box.y - box.size * 0.6
            and box.y + box.size * 0.6 <= self.bottom
            and low * box.size <= wide <= high * box.size
        )


def find_boxes(rgb: np.ndarray) -> list[Box]:
    """Find the faces in one picture, except those that are very small beside the largest.

    Args:
      rgb: uint8 `[height, width, 3]`.
    """
    height, width = rgb.shape[:2]
    boxes = []
    for found in _detector().process(rgb).detections or ():
        if found.score[0] < _MIN_SCORE:
            continue
        box = found.location_data.relative_bounding_box
        size = max(box.width * width, box.height * height)
        centre = (box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height
        boxes.append(Box(*centre, size))
    largest = max((box.size for box in boxes), default=0.0)
    return [box for box in boxes if box.size**2 >= _SMALLEST_SHARE * largest**2]


class Search:
    """Finds the faces in a clip's pictures, also in parts of them, where they are larger."""

    def __init__(self) -> None:
        self._last: list[Box] = []
        self._number = self._last_number = 0

    def find(self, rgb: np.ndarray) -> list[Box]:
        """Find the faces in the next picture, uint8 `[height, width, 3]`."""
        height, width = rgb.shape[:2]
        boxes = find_boxes(rgb)
        if not boxes and self._last and self._number - self._last_number <= _MISSING_PICTURES:
            parts = [_around(box, _NEAR_WIDTHS, width, height) for box in self._last]
            boxes = _find_in_parts(rgb, parts)
        elif not boxes and self._number % _SEARCHED_PICTURES == 0:
            w, h = round(width * _PART_SHARE), round(height * _PART_SHARE)
            lefts, tops = (0, (width - w) // 2, width - w), (0, (height - h) // 2, height - h)
            parts = [Window(x, y, x + w, y + h) for x, y in itertools.product(lefts, tops)]
            boxes = _find_in_parts(rgb, parts)
        if boxes:
            self._last, self._last_number = boxes, self._number
        self._number += 1
        return boxes


def _around(box: Box, widths: float, width: int, height: int) -> Window:
    """Return the window so many widths of a face wide, as far as it is in the picture."""
    half = box.size * widths / 2
    return Window(
        max(0, round(box.x - half)),
        max(0, round(box.y - half)),
        min(width, round(box.x + half)),
        min(height, round(box.y + half)),
    )


def _find_in_parts(rgb: np.ndarray, parts: Iterable[Window]) -> list[Box]:
    """Find the faces in parts of a picture, each once."""
    boxes: list[Box] = []
    for part in parts:
        inside = np.ascontiguousarray(rgb[part.top : part.bottom, part.left : part.right])
        for box in find_boxes(inside):
            moved = dataclasses.replace(box, x=box.x + part.left, y=box.y + part.top)
            if not any(moved.is_at(other) for other in boxes):
                boxes.append(moved)
    return boxes


def choose_person(pictures: Iterable[list[Box]]) -> tuple[list[Box | None], int]:
    """Follow the person whose face is largest over the clip.

    Args:
      pictures: the faces of each picture, in order.

    Returns:
      The person's face in each picture, also where it was missed between two pictures; None where
      the person is not there. And how many faces were in one picture at most.
    """
    persons: list[dict[int, Box]] = []
    count = most = 0
    for number, boxes in enumerate(pictures):
        count += 1
        most = max(most, len(boxes))
        # Whoever was there last has the first choice.
        here = [p for p in persons if number - max(p) <= _MISSING_PICTURES]
        free = list(boxes)
        for person in sorted(here, key=lambda p: -max(p)):
            last = person[max(person)]
            reach = _MOVED_WIDTHS * last.size * (1 + (number - max(person)) / 10)
            near = [box for box in free if last.distance(box) <= reach]
            if near:
                taken = min(near, key=last.distance)
                person[number] = taken
                free.remove(taken)
        persons += [{number: box} for box in free]
    if not persons:
        return [None] * count, most
    chosen = max(persons, key=lambda person: sum(box.size**2 for box in person.values()))
    known = sorted(chosen)
    values = np.array([dataclasses.astuple(chosen[number]) for number in known])
    places: list[Box | None] = [None] * count
    for number in range(known[0], known[-1] + 1):
        places[number] = Box(*(float(np.interp(number, known, axis)) for axis in values.T))
    return places, most


def windows(
    places: Iterable[Box | None], shapes: Iterable[tuple[int, ...]]
) -> Iterator[Window | None]:
    """Choose the part of each picture to look for a face in; the same as long as it will do.

    Args:
      places: where the face is.
      shapes: height and width of each picture.
    """
    window = None
    last_shape: tuple[int, ...] = ()
    for box, shape in zip(places, shapes, strict=True):
        if box is None:
            yield None
            continue
        height, width = shape[:2]
        if window is None or shape != last_shape or not window.holds(box):
            window = _around(box, _WINDOW_WIDTHS, width, height)
        last_shape = shape
        yield window


def cut_out(rgb: np.ndarray, window: Window, face: Box, others: Iterable[Box]) -> np.ndarray:
    """Cut out a part of a picture in which no other face is left."""
    part = rgb[window.top : window.bottom, window.left : window.right].copy()
    for other in others:
        if other.is_at(face):
            continue
        half = other.size * 0.6
        left, top = round(other.x - half) - window.left, round(other.y - half) - window.top
        right, bottom = round(other.x + half) - window.left, round(other.y + half) - window.top
        part[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = _GREY
    return part


@functools.cache
def _detector() -> Any:
    """Make the full-range detector, which remembers nothing from one picture to the next."""
    return mediapipe_solutions.load("face_detection").FaceDetection(
        min_detection_confidence=0.5, model_selection=1
    )
