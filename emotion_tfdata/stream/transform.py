"""From stored integers to what a model is fed: warps, scale, noise, masks, a whole batch at once.

It is one XLA program a shape: the intermediate arrays, each as large as the batch, are never
written to memory. Shapes come from a few buckets, so the programs are few.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.augment.config import Augment
from emotion_tfdata.augment.draw import Draws
from emotion_tfdata.augment.mask import hidden_bands, hidden_frames
from emotion_tfdata.augment.mel import MelAxis, mel_axis, warp_bands
from emotion_tfdata.augment.noise import WHITE_AUDIO, WHITE_LANDMARKS, noise
from emotion_tfdata.augment.warp import warp
from emotion_tfdata.dataset.manifest import Array, Manifest
from emotion_tfdata.dataset.protocols import Deal
from emotion_tfdata.features import Features
from emotion_tfdata.stream.level import clip_level
from emotion_tfdata.stream.scaling import Scaling, make_scaling


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
      array: how its values are stored.
      relative: whether its values count from each clip's own level.
    """

    modality: str
    stored: dict[str, tuple[int, ...]]
    valid_name: str
    indices: tuple[int, ...]
    scaling: Scaling
    rate_hz: float
    salt: int
    array: Array
    relative: bool = False

    @property
    def served_shape(self) -> tuple[int, ...]:
        """The sizes of an array as served, without its frames."""
        sizes = self.stored[self.modality]
        return (len(self.indices), *sizes[1:]) if self.indices else sizes

    @property
    def columns(self) -> tuple[int, ...]:
        """Which of a frame's stored numbers are served; empty where all are, in their order."""
        landmarks, *sizes = self.stored[self.modality]
        if self.indices in ((), tuple(range(landmarks))):
            return ()
        each = math.prod(sizes)
        return tuple(index * each + place for index in self.indices for place in range(each))

    def decode(self, content: tf.Tensor, capacity: tf.Tensor) -> tf.Tensor:
        """Decode stored bytes `[B]` to numbers `[B, capacity, S]`, zero beyond a clip's end."""
        features = math.prod(self.stored[self.modality])
        stored = tf.io.decode_raw(content, tf.int16, fixed_length=2 * capacity * features)
        if self.array.dtype == "float16":  # which decode_raw has not
            stored = tf.bitcast(stored, tf.float16)
        return tf.reshape(stored, [-1, capacity, features])


def make_view(
    manifest: Manifest,
    modality: str,
    deal: Deal,
    train: np.ndarray,
    features: Features,
) -> View:
    """Make the view of one modality (which features, how scaled); arguments as `make_scaling`."""
    scaling, indices = make_scaling(manifest, modality, deal, train, features)
    relative = modality == "audio" and features.relative_level
    rate_hz, array = manifest.modalities[modality].rate_hz, manifest.modalities[modality].array
    if modality == "audio":
        stored: dict[str, tuple[int, ...]] = {"audio": (manifest.num_audio_features,)}
        return View("audio", stored, "", (), scaling, rate_hz, WHITE_AUDIO, array, relative)
    stored = {"landmarks": array.shape, "landmarks_valid": ()}
    salt = WHITE_LANDMARKS
    return View("landmarks", stored, "landmarks_valid", indices, scaling, rate_hz, salt, array)


def effects(manifest: Manifest, modality: str, augment: Augment | None) -> dict[str, Any]:
    """Return the arguments of `transform` that are the same for every batch.

    Raises:
      ValueError: for an augmentation that the data set's features do not allow.
    """
    if augment is None:
        return {}
    chosen: dict[str, Any] = {
        "noise_correlation": augment.noise_correlation,
        "noise_slow_hz": augment.noise_slow_hz,
    }
    if modality != "audio":
        return chosen
    bands, most = manifest.num_audio_features, augment.frequency_mask_bands
    if augment.frequency_masks:
        manifest.check_log_mel("frequency_masks")
    if augment.frequency_masks * most >= bands:
        raise ValueError(
            f"Augment: frequency_masks={augment.frequency_masks} of up to frequency_mask_bands="
            f"{most} bands could hide all {bands} bands of the data set; take fewer or narrower"
        )
    if augment.warps_mel:
        manifest.check_log_mel("mel_warp")
        chosen["mel"] = mel_axis(manifest.settings, bands)
    if augment.frequency_masks:
        chosen["frequency_mask_bands"] = most
    if augment.time_masks:
        chosen["time_mask_s"] = augment.time_mask_s
        chosen["time_mask_share"] = augment.time_mask_share
    return chosen


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
    columns: tuple[int, ...] = (),
    rate_hz: float,
    salt: int,
    noise_correlation: float | None = None,
    noise_slow_hz: float = 0.0,
    relative: bool = False,
    mel: MelAxis | None = None,
    frequency_mask_bands: int = 0,
    time_mask_s: float = 0.0,
    time_mask_share: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Alter a batch of one modality as was drawn for it.

    Args:
      stored: int16 or float16 `[B, T, S]`, as stored.
      valid: bool `[B, T]`, rows that hold something.
      frames: int32 `[B]`, rows of each clip.
      frames_out: int32 `[B]`, rows after the warp.
      draws: of `[B]` entries.
      grid: int32 `[T2]`, 0, 1, 2, ...: its length is that of the batch served.
      scaling: of `[F]` features.
      columns: the `F` of the `S` stored numbers that are served; empty for all of them.
      rate_hz: frames a second.
      salt: for the white part of the noise.
      noise_correlation, noise_slow_hz: as in `Augment`.
      relative: whether values count from each clip's level.
      mel: the bands of the features, None to leave them unwarped.
      frequency_mask_bands, time_mask_s, time_mask_share: as in `Augment`; with a width of 0 there
        are no such masks.

    Returns:
      float32 `[B, T2, F]`, zero where the mask is false, and the mask, bool `[B, T2]`.
    """
    frame_numbers = tf.cast(grid, tf.float32)
    stretch = tf.cast(draws.stretch, tf.float32)
    if columns:  # here, and not before: alone, this would take longer than all the rest
        stored = tf.gather(stored, columns, axis=2)
    series, mask = warp(stored, valid, frames, frames_out, stretch, frame_numbers)
    if mel is not None:
        series = warp_bands(series, tf.cast(draws.mel_warp, tf.float32), mel)
    if relative:
        series -= clip_level(stored, valid)[:, None, None]
    series = series * scaling.gain + scaling.offset
    if noise_correlation is not None:
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
    if frequency_mask_bands:
        hidden = hidden_bands(draws.frequency_masks, stored.shape[-1], frequency_mask_bands)
        series = tf.where(hidden[:, None, :], scaling.mean, series)
    if time_mask_s:
        hidden = hidden_frames(draws.time_masks, mask, time_mask_s * rate_hz, time_mask_share)
        series = tf.where(hidden[..., None], scaling.mean, series)
    return tf.where(mask[..., None], series, 0.0), mask


@tf.function(jit_compile=True, autograph=False)
def pose(
    head: tf.Tensor,
    valid: tf.Tensor,
    frames: tf.Tensor,
    frames_out: tf.Tensor,
    stretch: tf.Tensor,
    grid: tf.Tensor,
) -> tf.Tensor:
    """Return the pose of the head on the warped clock of the landmarks.

    Args:
      head: float32 `[B, T, 4]`, as stored.
      valid, frames, frames_out, grid: of the landmarks, as in `transform`.
      stretch: float64 `[B]`.

    Returns:
      float32 `[B, T2, 4]`, zero where the landmarks' mask is false.
    """
    times = tf.cast(stretch, tf.float32), tf.cast(grid, tf.float32)
    series, mask = warp(head, valid, frames, frames_out, *times)
    return tf.where(mask[..., None], series, 0.0)
