"""What is to be done to each clip, drawn once a clip for both modalities, in proportions."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from emotion_tfdata.augment import rng
from emotion_tfdata.augment.config import Augment
from emotion_tfdata.augment.rng import Stream


class Draws(NamedTuple):
    """What is to be done, one entry a clip.

    Attributes:
      stretch: float64 `[N]`, 1 where a clip is not warped.
      noise_level: float32 `[N]`, 0 where no noise is added.
      noise_key: uint32 `[N]`, what the noise itself is made from.
      mel_warp: float64 `[N]`, 1 where the mel axis is not warped.
      frequency_masks: float32 `[N, K, 2]`, width and place of each mask in `[0, 1]` of those that
        it can have, as `augment.mask` takes them; 0 for no mask.
      time_masks: float32 `[N, K, 2]`, likewise.
      lost: int32 `[N]`, the modality that a clip loses, a number of `LOST`; 0 for none.
    """

    stretch: tf.Tensor
    noise_level: tf.Tensor
    noise_key: tf.Tensor
    mel_warp: tf.Tensor
    frequency_masks: tf.Tensor
    time_masks: tf.Tensor
    lost: tf.Tensor


# What leaves a clip as it is, field by field.
NOTHING = Draws(1, 0, 0, 1, 0, 0, 0)

LOST = {"audio": 1, "landmarks": 2}


def draw(
    augment: Augment | None, seed: int, epoch: tf.Tensor, example: tf.Tensor, copy: tf.Tensor
) -> Draws:
    """Draw what to do to each of many clips.

    Args:
      augment: None leaves every clip as it is.
      seed: of the run.
      epoch: int64 scalar.
      example: int64 `[N]`, keys of the examples.
      copy: int64 `[N]`, 0 for a clip as it is.

    Returns:
      `Draws` of `[N]` entries.
    """
    if augment is None:
        one, no_mask = tf.ones_like(example, tf.float64), tf.zeros([tf.size(example), 0, 2])
        zero = tf.zeros_like(example, tf.float32)
        none = tf.cast(zero, tf.int32)
        return Draws(one, zero, tf.cast(zero, tf.uint32), one, no_mask, no_mask, none)
    numbers = (Stream.AUGMENTED, Stream.KIND, Stream.STRETCH, Stream.NOISE_LEVEL, Stream.MEL_WARP)
    further = (Stream.NOISE, Stream.FREQUENCY_MASK, Stream.TIME_MASK)
    # All at once: a key of each on its own would be half of the operations of an epoch's plan.
    keys = rng.key(seed, epoch, example, copy, (*numbers, *further))
    drawn = rng.uniform(keys[:, : len(numbers)])
    chance, kind, stretch, level, mel_warp = tf.unstack(drawn, axis=-1)
    noise_key, frequency_key, time_key = tf.unstack(keys[:, len(numbers) :], axis=-1)

    def between(values: tf.Tensor, limits: tuple[float, float]) -> tf.Tensor:
        return limits[0] + (limits[1] - limits[0]) * values

    altered = (copy > 0) & (chance < augment.probability)
    noise_only = (kind >= augment.warp_share) & (kind < augment.warp_share + augment.noise_share)
    warped = altered & ~noise_only
    noisy = altered & (kind >= augment.warp_share)
    stretch = between(stretch, augment.stretch)
    level = tf.cast(between(level, augment.noise_level), tf.float32)
    mel_warp = between(mel_warp, augment.mel_warp)

    def masks(key: tf.Tensor, count: int) -> tf.Tensor:
        if not count:
            return tf.zeros([tf.size(example), 0, 2])
        each = rng.fold_in(key[:, None], tf.range(2 * count, dtype=tf.int64))
        drawn = tf.reshape(tf.cast(rng.uniform(each), tf.float32), [tf.size(example), count, 2])
        return tf.where(altered[:, None, None], drawn, tf.zeros_like(drawn))

    lost = tf.zeros_like(example, tf.int32)
    if augment.modality_dropout:
        one = rng.uniform(rng.key(seed, epoch, example, copy, Stream.MODALITY))
        half = augment.modality_dropout / 2
        which = tf.where(one < half, LOST["audio"], LOST["landmarks"])
        lost = tf.where((copy > 0) & (one < 2 * half), which, lost)
    return Draws(
        stretch=tf.where(warped, stretch, tf.ones_like(stretch)),
        noise_level=tf.where(noisy, level, tf.zeros_like(level)),
        noise_key=tf.cast(noise_key, tf.uint32),
        mel_warp=tf.where(altered, mel_warp, tf.ones_like(mel_warp)),
        frequency_masks=masks(frequency_key, augment.frequency_masks),
        time_masks=masks(time_key, augment.time_masks),
        lost=lost,
    )
