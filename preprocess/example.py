"""One clip to one example: decode, track, align, features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emotion_tfdata.schema import Example
from preprocess import align, audio, extractors, landmarks, media, tracking
from preprocess.audio import AudioSettings
from preprocess.container import DEFAULT_LIMITS, Limits, MediaError
from preprocess.corpora import Clip
from preprocess.corpora.files import local
from preprocess.extractors import AudioExtractor
from preprocess.media import Part

# Sound that never gets louder (3 steps of 16 bits) was not recorded.
_SILENCE = 1e-4
SEVERAL_FACES = "several faces in its pictures; the one that is largest over the clip is taken"


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """A clip's pictures with their times, decoded anew whenever they are iterated."""

    path: Path
    limits: Limits
    part: Part

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        for picture in media.in_batches(media.read_pictures(self.path, self.limits, self.part)):
            yield picture.time_s, picture.rgb


def make_example(
    clip: Clip,
    audio_features: AudioSettings | AudioExtractor,
    limits: Limits = DEFAULT_LIMITS,
    num_landmarks: int = landmarks.NUM_LANDMARKS,
    notes: list[str] | None = None,
) -> Example:
    """Builds a clip's example from its files.

    Args:
      clip: names the files; a modality without a file gets no rows.
      audio_features: what makes them; settings stand for log-mel bands.
      limits: what a file may reach.
      num_landmarks: of the data set, which a clip without a picture has none of.
      notes: gets what is to be known of a clip that is used all the same.

    Raises:
      MediaError: if a file cannot be used.
      OSError: if a file cannot be opened, or not be read for the machine's sake.
      MemoryError: if it needs more than there is.
      ImportError: if a library that reads clips is not installed.
    """
    if isinstance(audio_features, AudioSettings):
        audio_features = extractors.LogMel(audio_features)
    with local(clip.files) as paths:
        here = dict(zip(clip.files, paths, strict=True))
        return _make_example(
            clip,
            here[clip.sound] if clip.sound else None,
            here[clip.picture] if clip.picture else None,
            audio_features,
            limits,
            num_landmarks,
            notes,
        )


def _make_example(
    clip: Clip,
    sound_path: Path | None,
    picture_path: Path | None,
    extractor: AudioExtractor,
    limits: Limits,
    num_landmarks: int,
    notes: list[str] | None,
) -> Example:
    sound_span = picture_span = None
    if sound_path:
        sound = media.read_sound(sound_path, limits, clip.part)
        if np.abs(sound.samples).max() < _SILENCE:
            raise MediaError("silence", "its sound is silence from end to end")
        samples = audio.resample(sound.samples, sound.rate_hz)
        sound_span = (sound.start_s, sound.start_s + len(sound.samples) / sound.rate_hz)
    if picture_path:
        if picture_path.suffix.lower() == ".csv":
            track = tracking.read_track(picture_path, limits)
        else:
            track = landmarks.track_face(_Pictures(picture_path, limits, clip.part))
            if track.faces > 1 and notes is not None:
                notes.append(SEVERAL_FACES)
        if not track.found.any():
            raise MediaError("no face", f"no face in any of its {len(track.found)} pictures")
        picture_span = align.picture_span(track.times_s)
        if sound_span and sound.note and notes is not None:
            notes.append(sound.note)

    span = align.clip_span(sound_span, picture_span)
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
    points = np.zeros((0, num_landmarks, 3), np.float32)
    valid = np.zeros(0, bool)
    if picture_span:
        points, valid = align.align_track(track, span)
        if not valid.any():
            raise MediaError("no face", "no face in any row of 1/30 s")
    head = np.zeros((len(valid), 4), np.float32)
    points[valid], head[valid] = landmarks.to_face_frame(points[valid])
    return Example(
        example_id=clip.example_id,
        corpus=clip.corpus,
        actor=clip.actor,
        emotion=clip.emotion,
        intensity=clip.intensity,
        sentence=clip.sentence,
        audio=features,
        landmarks=points,
        landmarks_valid=valid,
        head=head,
    )
