"""What is measured of a clip beside its features, for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from emotion_tfdata.dataset.schema import Example
from preprocess.clip.align import mouth_lag_s
from preprocess.clip.landmarks import POINTS


@dataclasses.dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured of a clip.

    Attributes:
      loudness_db: energy in the mel bands, mean over its frames, in dB; None without log-mel bands.
      lag_s: how much later the mouth opens than the voice sounds; None where nothing tells.
      altered: names of its files that are not what the corpus published.
      notes: what is to be known of it, in words that clips share.
      audio_error, landmarks_error: largest errors of its values as stored, in their units.
    """

    loudness_db: float | None = None
    lag_s: float | None = None
    altered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    audio_error: float = 0.0
    landmarks_error: float = 0.0


def measure(
    example: Example,
    altered: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    is_log_mel: bool = True,
    errors: Mapping[str, float] = {},
) -> Measurements:
    """Measure an example, to a tenth of a decibel and of a millisecond.

    `errors` are those of storing it, by modality.
    """
    loudness_db = lag_s = None
    if len(example.audio) and is_log_mel:
        energy = np.sum(10 ** (np.asarray(example.audio, np.float64) / 10), axis=1)
        loudness_db = round(float(10 * np.log10(energy.mean())), 1)
        points = example.landmarks.shape[1] if example.landmarks.ndim == 3 else 0
        if len(example.landmarks) and points in POINTS:
            lag = mouth_lag_s(example.audio, example.landmarks, example.landmarks_valid)
            lag_s = None if lag is None else round(lag, 4)
    stored = (errors.get("audio", 0.0), errors.get("landmarks", 0.0))
    return Measurements(loudness_db, lag_s, altered, notes, *stored)
