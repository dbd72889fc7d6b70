"""From stored integers to what a model is fed: warp, scale, noise and mask, a whole batch at once.

It is one XLA program a shape: the intermediate arrays, each as large as the batch, are never
written to memory. Shapes come from a few buckets, so the programs are few.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from emotion_tfdata import timebase
from emotion_tfdata.augment.draw import Draws
from emotion_tfdata.augment.noise import WHITE_AUDIO, WHITE_LANDMARKS, noise
from emotion_tfdata.augment.warp import warp
from emotion_tfdata.landmark_sets import landmark_indices
from emotion_tfdata.manifest import Manifest
from emotion_tfdata.schema import ARRAY_FEATURES


class Scaling(NamedTuple):
    """What a stored integer stands for in the model's units: `stored * gain + offset`.

    Attributes:
      gain, offset: float32 `[F]`.
      deviation: float32 `[F]`, one standard deviation over the training folds, in the model's
        units: what noise is measured in.
    """

    gain: np.ndarray
    offset: np.ndarray
    deviation: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
    """How one modality of a data set is served.

    Attributes:
      modality: `audio` or `landmarks`.
      stored: the arrays of a record that it needs, with their sizes beyond the frames.
      valid_name: which of them says what rows hold something; empty where all of a clip's do.
      indices: of the landmarks served; empty for audio.
      scaling: of the features served.
      rate_hz: of its frames.
      salt: what keeps its noise apart from the other modality's.
    """

    modality: str
    stored: dict[str, tuple[int, ...]]
    valid_name: str
    indices: tuple[int, ...]
    scaling: Scaling
    rate_hz: int
    salt: int

    @property
    def served_shape(self) -> tuple[int, ...]:
        """Sizes beyond the frames, as served."""
        sizes = self.stored[self.modality]
        return (len(self.indices), *sizes[1:]) if self.indices else sizes

    def decode(self, content: tf.Tensor, capacity: tf.Tensor) -> tf.Tensor:
        """Bytes `[B]` of stored arrays to int16 `[B, capacity, F]`, zero beyond each clip's end."""
        sizes = self.stored[self.modality]
        length = capacity * math.prod(sizes) * ARRAY_FEATURES[self.modality].dtype.itemsize
        stored = tf.io.decode_raw(content, tf.int16, fixed_length=length)
        if self.served_shape != sizes:
            stored = tf.reshape(stored, [-1, capacity, *sizes])
            stored = tf.gather(stored, self.indices, axis=2)
        return tf.reshape(stored, [-1, capacity, math.prod(self.served_shape)])


def make_view(
    manifest: Manifest,
    modality: str,
    protocol: str,
    train_folds: Sequence[int],
    landmarks: str | Sequence[int],
    normalize: bool,
) -> View:
    """The view of one modality: which features, and how they are scaled.

    Args:
      manifest: of the data set.
      modality: `audio` or `landmarks`.
      protocol: which folds `train_folds` counts.
      train_folds: the folds whose statistics are used.
      landmarks: as `landmark_indices` takes it.
      normalize: whether to bring features to zero mean and unit deviation; else to dB and distances
        between the eyes.

    Raises:
      ValueError: for landmarks the data set does not have, or training folds without a frame.
    """
    moments = manifest.moments(modality, protocol, train_folds)
    if not moments.count:
        raise ValueError(
            f"the training folds ({', '.join(map(str, train_folds))}) hold no frame of {modality}"
        )
    mean, deviation = moments.mean, moments.deviation
    indices: tuple[int, ...] = ()
    if modality == "landmarks":
        indices = landmark_indices(landmarks, manifest.num_landmarks)
        mean, deviation = mean[list(indices)].ravel(), deviation[list(indices)].ravel()
    step = ARRAY_FEATURES[modality].step or 1.0
    # A feature that never changes has no deviation, but it is only known to within a step.
    deviation = np.maximum(deviation, step)
    unit = deviation if normalize else np.ones_like(deviation)
    zero = mean if normalize else np.zeros_like(mean)
    scaling = Scaling(
        gain=(step / unit).astype(np.float32),
        offset=(-zero / unit).astype(np.float32),
        deviation=(deviation / unit).astype(np.float32),
    )
    if modality == "audio":
        stored: dict[str, tuple[int, ...]] = {"audio": (manifest.num_audio_features,)}
        return View("audio", stored, "", (), scaling, timebase.AUDIO_RATE_HZ, WHITE_AUDIO)
    stored = {"landmarks": (manifest.num_landmarks, 3), "landmarks_valid": ()}
    rate_hz = timebase.LANDMARKS_RATE_HZ
    return View("landmarks", stored, "landmarks_valid", indices, scaling, rate_hz, WHITE_LANDMARKS)


@tf.function(jit_compile=True, autograph=False)
def transform(
    stored: tf.Tensor,
    valid: tf.Tensor,
    frames: tf.Tensor,
    frames_out: tf.Tensor,
    draws: Draws,
    grid: tf.Tensor,
    scaling: Scaling,
    *,
    rate_hz: int,
    salt: int,
    noise_correlation: float,
    noise_slow_hz: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Does to a batch of one modality what was drawn for it.

    Args:
      stored: int16 `[B, T, F]`, as stored.
      valid: bool `[B, T]`, rows that hold something.
      frames: int32 `[B]`, rows of each clip.
      frames_out: int32 `[B]`, rows after the warp.
      draws: of `[B]` entries.
      grid: int32 `[T2]`, 0, 1, 2, ...: its length is that of the batch served.
      scaling: of `[F]` features.
      rate_hz: frames a second.
      salt: for the white part of the noise.
      noise_correlation, noise_slow_hz: as in `Augment`.

    Returns:
      float32 `[B, T2, F]`, zero where the mask is false, and the mask, bool `[B, T2]`.
    """
    frame_numbers = tf.cast(grid, tf.float32)
    stretch = tf.cast(draws.stretch, tf.float32)
    series, mask = warp(stored, valid, frames, frames_out, stretch, frame_numbers)
    series = series * scaling.gain + scaling.offset
    added = noise(
        draws.noise_key,
        draws.noise_level,
        salt,
        frame_numbers / rate_hz,
        stored.shape[-1],
        noise_correlation,
        noise_slow_hz,
    )
    series += added * scaling.deviation
    return tf.where(mask[..., None], series, 0.0), mask
