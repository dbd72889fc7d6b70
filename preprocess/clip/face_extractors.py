"""What turns a clip's pictures into features: landmarks, and extractors of one's own.

An extractor of one's own is a class that is called without arguments, named `package.module:Class`:

    class Smile:                                # how wide the mouth is and how far it is open
        name, version, settings = "smile", "1", {}
        rate_hz, width = 25.0, 2                # frames a second, numbers a frame
        unit, step = "distances between the eyes", 1 / 4096  # of 16 bits; None for float16

        def extract(self, pictures):            # (time in seconds, uint8 RGB [height, width, 3])
            track = landmarks.track_face(pictures)
            values = np.full((len(track.times_s), 2), np.nan)  # a row of NaN: no face here
            faces, _ = landmarks.to_face_frame(track.points[track.found])
            for column, (one, other) in enumerate([(61, 291), (13, 14)]):
                across = faces[:, one] - faces[:, other]
                values[track.found, column] = np.linalg.norm(across, axis=1)
            return values, track.times_s        # [T, width] and their times in seconds

Pictures are decoded as they are iterated, again each time. Values are brought to multiples of
`1 / rate_hz` seconds by linear interpolation between neighbours. Where there is nothing for longer
than `1 / rate_hz` (or 0.05 s) a frame is not valid. The source of its module is part of the build:
changed code is another build.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol, cast

import numpy as np

from emotion_tfdata.dataset import timebase
from emotion_tfdata.dataset.manifest import Array, Modality
from emotion_tfdata.dataset.schema import ARRAY_FEATURES, LANDMARKS_STEP
from preprocess.clip import extractors
from preprocess.clip.align import HOLD_S
from preprocess.clip.container import MediaError
from preprocess.clip.landmarks import NUM_LANDMARKS, Track, to_face_frame, track_face
from preprocess.clip.tracking import NUM_POINTS

BUILT_IN = ("facemesh", "openface")

Pictures = Iterable[tuple[float, np.ndarray]]


class FaceExtractor(extractors.Extractor, Protocol):
    """What an extractor of pictures has beside what every one has."""

    def extract(self, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features of a clip's pictures.

        Args:
          pictures: time in seconds and uint8 RGB `[height, width, 3]` of each, in order; may be
            iterated several times, and is decoded again each time.

        Returns:
          Values `[T, width]`, a row of NaN where there is no face; and their times, rising, `[T]`.
        """


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Landmarks in the face's own frame: FaceMesh's, the default, or OpenFace's records."""

    name: str
    count: int
    version = "1"
    unit = ARRAY_FEATURES["landmarks"].unit
    rate_hz = timebase.LANDMARKS_RATE_HZ
    step = LANDMARKS_STEP
    hold_s = HOLD_S

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a frame."""
        return (self.count, 3)

    def track(self, pictures: Pictures) -> Track:
        """Follow the face's landmarks picture by picture."""
        return track_face(pictures)

    def finish(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return frames `[N, *shape]` as they are stored, and the pose of the head, `[N, 4]`."""
        return to_face_frame(values)


@dataclasses.dataclass(frozen=True)
class Own:
    """An extractor of one's own."""

    extractor: FaceExtractor

    @property
    def name(self) -> str:
        """The extractor's name."""
        return self.extractor.name

    @property
    def rate_hz(self) -> float:
        """The extractor's frames a second."""
        return self.extractor.rate_hz

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a frame."""
        return (self.extractor.width,)

    @property
    def hold_s(self) -> float:
        """How long a value stands for its neighbourhood."""
        return max(HOLD_S, 1 / self.rate_hz)

    def track(self, pictures: Pictures) -> Track:
        """Return what the extractor found, value by value.

        Raises:
          MediaError: if it gives something else than it says.
        """
        found, times = self.extractor.extract(pictures)
        values = np.asarray(found, np.float32)
        missing = np.isnan(values).all(axis=1) if values.ndim == 2 else np.zeros(0, bool)
        if values.ndim == 2:
            values = np.where(missing[:, None], 0, values)
        values, times_s = extractors.checked(self.extractor, values, times)
        return Track(times_s, values, ~missing)

    def finish(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return frames as they are; there is no pose."""
        return values, np.zeros((len(values), 0), np.float32)


FaceFeatures = Landmarks | Own
FACEMESH, OPENFACE = Landmarks("facemesh", NUM_LANDMARKS), Landmarks("openface", NUM_POINTS)


def resolve(name: str) -> FaceFeatures:
    """Return the face features of a name.

    Raises:
      ValueError: if there are none, or the extractor is not as `FaceExtractor` says.
    """
    if name in BUILT_IN:
        return FACEMESH if name == "facemesh" else OPENFACE
    known = ", ".join((*BUILT_IN, "none"))
    return Own(cast(FaceExtractor, extractors.load("face_features", name, known)))


def describe(face: FaceFeatures) -> dict[str, Any]:
    """Describe what the features are made of, for JSON: other code gives another description."""
    if isinstance(face, Own):
        return extractors.described(face.extractor)
    return {"name": face.name, "version": face.version}


def stored(face: FaceFeatures) -> Modality:
    """Return how the features are stored."""
    valid, head = (
        Array(tuple(map(int, spec.shape[1:])), spec.dtype.name, spec.step, spec.unit)
        for spec in (ARRAY_FEATURES["landmarks_valid"], ARRAY_FEATURES["head"])
    )
    if isinstance(face, Own):
        array = extractors.stored(face.extractor).array
        return Modality(face.rate_hz, array, {"landmarks_valid": valid})
    array = Array(face.shape, "int16", face.step, face.unit)
    return Modality(face.rate_hz, array, {"landmarks_valid": valid, "head": head})


def no_face(face: FaceFeatures, track: Track) -> MediaError:
    """Raise the error that there is no face in any picture."""
    count = len(track.found)
    if isinstance(face, Own):
        return MediaError("no face", f"{face.name} found nothing at any of {count} times")
    return MediaError("no face", f"no face in any of its {count} pictures")
