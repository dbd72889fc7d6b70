"""Face landmarks (MediaPipe FaceMesh), and the face's own frame they are given in.

Points are in widths of the picture on all three axes (x right, y down, z away from the camera), so
that a turn of the head in the picture's plane is a rotation of them and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from preprocess.clip import face_search, mediapipe_solutions

NUM_LANDMARKS = 478

# Corners of the eyes (outer, inner), subject's right and left. They move with the head alone; lids
# and irises also move with the gaze and the expression.
RIGHT_EYE = (33, 133)
LEFT_EYE = (263, 362)
# Middle of the inner edge of the upper and lower lip.
INNER_LIPS = (13, 14)

# Of each set of landmarks, by their number: right eye, left eye, inner lips. The second are the 68
# points of iBUG 300-W, as OpenFace has them.
POINTS: dict[int, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    NUM_LANDMARKS: (RIGHT_EYE, LEFT_EYE, INNER_LIPS),
    68: ((36, 39), (45, 42), (62, 66)),
}

# A mesh that reaches this many distances between the eyes is no face: a head turned by 90 degrees
# or hair taken for one. Stored landmarks hold less than 4.
_MAX_REACH = 3.9
_MIN_EYE_DISTANCE = 0.005  # picture widths

# Faces are counted so often, since that takes longer than FaceMesh: a person who is there for a
# second is seen.
_COUNT_EVERY_S = 0.95
# Where FaceMesh finds a face in fewer pictures, the face is searched for.
_FOUND_SHARE = 0.5

# A landmark as mediapipe's message has it on the wire, one after the other: a tag and a length,
# then a tag and a float for each of x, y and z. Read at once, since a clip has 100,000 of them.
_WIRE = np.dtype(
    {"names": ["x", "y", "z"], "formats": ["<f4"] * 3, "offsets": [3, 8, 13], "itemsize": 17}
)


@dataclasses.dataclass(frozen=True)
class Track:
    """A face followed through a clip, one row a picture.

    Attributes:
      times_s: float64 `[F]`, rising.
      points: float32 `[F, L, 3]`, picture widths; zero where no face was found. Of an extractor
        of one's own `[F, W]`.
      found: bool `[F]`.
      faces: the most that were seen in one picture, where they were counted; 1 otherwise.
    """

    times_s: np.ndarray
    points: np.ndarray
    found: np.ndarray
    faces: int = 1


class FaceTracker:
    """FaceMesh for the pictures of one clip; a new one for each clip, since it remembers the last.

    To be closed.
    """

    def __init__(self) -> None:
        self._mesh = mediapipe_solutions.load("face_mesh").FaceMesh(
            static_image_mode=False, max_num_faces=1, refine_landmarks=True
        )

    def close(self) -> None:
        """Close the tracker."""
        self._mesh.close()

    def find(self, rgb: np.ndarray) -> np.ndarray | None:
        """Find the face in the clip's next picture.

        Args:
          rgb: uint8 `[height, width, 3]`.

        Returns:
          float32 `[478, 3]` in picture widths, or None where it finds none.
        """
        faces = self._mesh.process(rgb).multi_face_landmarks
        if not faces:
            return None
        points = points_of(faces[0])
        height, width = rgb.shape[:2]
        points[:, 1] *= height / width  # y is in picture heights; z is in widths as x is
        return points


def points_of(face: Any) -> np.ndarray:
    """Take the points out of mediapipe's message.

    Args:
      face: `NormalizedLandmarkList`, of points with x, y and z and nothing else.

    Returns:
      float32 `[L, 3]`.
    """
    points = np.frombuffer(face.SerializeToString(), _WIRE)
    return np.stack([points["x"], points["y"], points["z"]], axis=1)


def track_face(pictures: Iterable[tuple[float, np.ndarray]]) -> Track:
    """Follow the face through a clip's pictures with trackers of its own.

    About once a second the full-range detector counts the faces. Where there are several, or
    where FaceMesh finds one in less than half of the pictures, the person whose face is largest
    over the clip is cut out for it, as `face_search` has it.

    Args:
      pictures: (time in seconds, uint8 `[height, width, 3]`), in order. Iterated three times where
        the face has to be searched for.
    """
    track = _track_any(pictures)
    if track is not None and track.found.sum() >= _FOUND_SHARE * len(track.found):
        return track
    found = _track_largest(pictures)
    if track is None or found.found.sum() > track.found.sum():
        return found
    return track


def _track_any(pictures: Iterable[tuple[float, np.ndarray]]) -> Track | None:
    """Let FaceMesh follow the face that it finds; None where there are several."""
    times_s: list[float] = []
    rows: list[np.ndarray | None] = []
    with contextlib.closing(_Trackers()) as trackers:
        count_at_s = -math.inf
        for time_s, rgb in pictures:
            if time_s >= count_at_s:
                count_at_s = time_s + _COUNT_EVERY_S
                if len(face_search.find_boxes(rgb)) > 1:
                    return None
            times_s.append(time_s)
            rows.append(trackers.tracker_for(rgb.shape).find(rgb))
    return _make_track(times_s, rows)


def _track_largest(pictures: Iterable[tuple[float, np.ndarray]]) -> Track:
    """Let FaceMesh follow the person whose face is largest over the clip, cut out for it."""
    boxes, shapes = [], []
    search = face_search.Search()
    for _, rgb in pictures:
        boxes.append(search.find(rgb))
        shapes.append(rgb.shape)
    places, most = face_search.choose_person(boxes)
    times_s: list[float] = []
    rows: list[np.ndarray | None] = []
    windows = face_search.windows(places, shapes)
    with contextlib.closing(_Trackers()) as trackers:
        for (time_s, rgb), face, window, here in zip(
            pictures, places, windows, boxes, strict=False
        ):
            times_s.append(time_s)
            rows.append(None)
            if face is None or window is None:
                continue
            part = face_search.cut_out(rgb, window, face, here)
            points = trackers.tracker_for(window).find(part)
            if points is not None:
                points *= part.shape[1]
                points[:, :2] += window.left, window.top
                rows[-1] = points / np.float32(rgb.shape[1])
    return _make_track(times_s, rows, most)


class _Trackers:
    """A tracker for as long as what it looks at is alike, since it remembers where the face was."""

    def __init__(self) -> None:
        self._tracker: FaceTracker | None = None
        self._key: object = None

    def tracker_for(self, key: object) -> FaceTracker:
        """Return the tracker of pictures of which `key` is true; a new one where it changes."""
        if self._tracker is None or key != self._key:
            self.close()
            self._tracker, self._key = FaceTracker(), key
        return self._tracker

    def close(self) -> None:
        """Close the trackers."""
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None


def _make_track(times_s: list[float], rows: list[np.ndarray | None], faces: int = 1) -> Track:
    """Make a track of what was found; what cannot be a face counts as not found."""
    found = np.array([row is not None for row in rows], bool)
    nothing = np.zeros((NUM_LANDMARKS, 3), np.float32)
    points = np.array([nothing if row is None else row for row in rows], np.float32)
    points = points.reshape(-1, NUM_LANDMARKS, 3)
    found[found] = are_faces(points[found])
    points[~found] = 0
    return Track(np.array(times_s, np.float64), points, found, faces)


def to_face_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move faces into their own frame: centred between the eyes, upright, eyes one apart.

    The distance between the eyes is taken in three dimensions, so that a face turned to the side
    is not blown up.

    Args:
      points: float `[N, L, 3]`, picture widths; every row a face, with the eyes of `POINTS`.

    Returns:
      float32 `[N, L, 3]`, distances between the eyes (z is 0 midway between them); and `head`,
      float32 `[N, 4]`: centre x and y and distance between the eyes in picture widths, roll in
      radians (positive where the subject's left eye, on the picture's right, is lower).
    """
    points = np.asarray(points, np.float64)
    right_eye, left_eye, _ = POINTS[points.shape[1]]
    right = points[:, list(right_eye)].mean(axis=1)
    left = points[:, list(left_eye)].mean(axis=1)
    centre = (right + left) / 2
    across = left - right
    distance = np.linalg.norm(across, axis=1)
    roll = np.arctan2(across[:, 1], across[:, 0])
    upright = _rotate(points - centre[:, None], -roll) / distance[:, None, None]
    head = np.stack([centre[:, 0], centre[:, 1], distance, roll], axis=1)
    return upright.astype(np.float32), head.astype(np.float32)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Return the distance of the lips' inner edges: `[..., L, 3]` to `[...]`, in the same unit."""
    _, _, (upper, lower) = POINTS[landmarks.shape[-2]]
    return np.linalg.norm(landmarks[..., lower, :] - landmarks[..., upper, :], axis=-1)


def _rotate(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Turn `[N, L, 3]` in the picture's plane by `[N]` radians."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, points[..., 2]], axis=-1)


def are_faces(points: np.ndarray) -> np.ndarray:
    """Tell which landmarks `[N, L, 3]`, in picture widths, a face can have: bool `[N]`."""
    right_eye, left_eye, _ = POINTS[points.shape[1]]
    with np.errstate(all="ignore"):  # what is not finite, or comes of that, is no face
        across = points[:, list(left_eye)].mean(axis=1) - points[:, list(right_eye)].mean(axis=1)
        landmarks, _ = to_face_frame(points)
        reach = np.abs(landmarks).max(axis=(1, 2))
        return (np.linalg.norm(across, axis=1) >= _MIN_EYE_DISTANCE) & (reach <= _MAX_REACH)
