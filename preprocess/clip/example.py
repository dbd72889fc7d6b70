"""One clip to one example: decode, track, align, features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emotion_tfdata.dataset.schema import Example
from preprocess.clip import align, audio, extractors, face_extractors, media, tracking
from preprocess.clip.audio import AudioSettings
from preprocess.clip.container import DEFAULT_LIMITS, MediaError
from preprocess.clip.extractors import AudioExtractor
from preprocess.clip.face_extractors import FACEMESH, FaceFeatures
from preprocess.clip.files import local
from preprocess.clip.media import Part
from preprocess.corpora import Clip

# Sound that never gets louder (3 steps of 16 bits) was not recorded.
_SILENCE = 1e-4
SEVERAL_FACES = "several faces in its pictures; the one that is largest over the clip is taken"


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """A clip's pictures with their times, decoded again whenever they are iterated.

    Attributes:
      times_s: of all pictures, once they have been iterated to the end.
    """

    path: Path
    part: Part
    times_s: list[float] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        times_s: list[float] = []
        for picture in media.in_batches(media.read_pictures(self.path, part=self.part)):
            times_s.append(picture.time_s)
            yield picture.time_s, picture.rgb
        self.times_s[:] = times_s


def make_example(
    clip: Clip,
    audio_features: AudioSettings | AudioExtractor,
    face: FaceFeatures = FACEMESH,
    notes: list[str] | None = None,
    fetched_dir: Path | None = None,
) -> Example:
    """Build a clip's example from its files.

    Args:
      clip: names the files; a modality without a file gets no rows.
      audio_features: what makes them; settings stand for log-mel bands.
      face: what makes those of the pictures.
      notes: gets what is to be known of a clip that is used all the same.
      fetched_dir: where recordings behind URLs are kept for the clips that share them; None to
        fetch them for this clip alone.

    Raises:
      MediaError: if a file cannot be used.
      OSError: if a file cannot be opened, or not be read for the machine's sake.
      MemoryError: if it needs more memory than the machine has.
      ImportError: if a library that reads clips is not installed.
    """
    if isinstance(audio_features, AudioSettings):
        audio_features = extractors.LogMel(audio_features)
    with local(clip.files, fetched_dir) as paths:
        here = dict(zip(clip.sources, paths, strict=True))
        return _make_example(
            clip,
            here[clip.sound] if clip.sound else None,
            here[clip.picture] if clip.picture else None,
            audio_features,
            face,
            notes,
        )


def _make_example(
    clip: Clip,
    sound_path: Path | None,
    picture_path: Path | None,
    extractor: AudioExtractor,
    face: FaceFeatures,
    notes: list[str] | None,
) -> Example:
    sound_span = picture_span = None
    if sound_path:
        sound = media.read_sound(sound_path, part=clip.part)
        if np.abs(sound.samples).max() < _SILENCE:
            raise MediaError("silence", "its sound is silence from end to end")
        samples = audio.resample(sound.samples, sound.rate_hz)
        sound_span = (sound.start_s, sound.start_s + len(sound.samples) / sound.rate_hz)
    if picture_path:
        if picture_path.suffix.lower() == ".csv":
            track = tracking.read_track(picture_path)
            shown_s = track.times_s
        else:
            pictures = _Pictures(picture_path, clip.part)
            track = face.track(pictures)
            if track.faces > 1 and notes is not None:
                notes.append(SEVERAL_FACES)
            shown_s = np.array(pictures.times_s or track.times_s)
        if not track.found.any():
            raise face_extractors.no_face(face, track)
        picture_span = align.picture_span(shown_s)
        if sound_span and sound.note and notes is not None:
            notes.append(sound.note)

    span = align.clip_span(sound_span, picture_span)
    limits = DEFAULT_LIMITS
    if span.duration_s < limits.min_duration_s - align.TOLERANCE_S:
        raise MediaError("too short", f"only {span.duration_s:.3f} s long")
    if (
        span.duration_s > limits.duration_s + align.TOLERANCE_S
    ):  # one stream may begin long after the other
        raise MediaError(
            "too long",
            f"picture and sound together last {span.duration_s:.1f} s, longer than "
            f"{limits.duration_s:g} s",
        )
    features = np.zeros((0, extractor.width), np.float32)
    if sound_span:
        aligned = align.align_sound(samples, sound_span[0], span)
        features = extractors.features(extractor, aligned)
    values = np.zeros((0, *face.shape), np.float32)
    valid = np.zeros(0, bool)
    if picture_span:
        values, valid = align.align_track(track, span, face.rate_hz, face.hold_s)
        if not valid.any():
            raise MediaError("no face", f"no face in any row of 1/{face.rate_hz:g} s")
    finished, pose = face.finish(values[valid])
    head = np.zeros((len(valid), pose.shape[1]), np.float32)
    values[valid], head[valid] = finished, pose
    return Example(
        example_id=clip.example_id,
        corpus=clip.corpus,
        actor=clip.actor,
        emotion=clip.emotion,
        intensity=clip.intensity,
        sentence=clip.sentence,
        audio=features,
        landmarks=values,
        landmarks_valid=valid,
        head=head,
    )
