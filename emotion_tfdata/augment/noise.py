"""Noise that both modalities share in part, made from counters: no state, no stored numbers.

Per feature, in its own standard deviations,

    noise(t, feature) = level * (sqrt(c) * slow(t) + sqrt(1 - c) * white(t, feature))

where `slow` is one process of unit variance on the clip's clock, the same for both modalities, and
`white` is independent in every frame and feature. The correlation of any two features at one
instant is then `c`, and each feature's deviation is `level`.
"""

from __future__ import annotations

import math

import tensorflow as tf

from emotion_tfdata.augment import rng

_COSINES = 8
_GOLDEN_32 = 0x9E3779B9
_MIX = ((16, 0x7FEB352D), (15, 0x846CA68B)), 16
# Salts that keep the noises made from one key apart.
WHITE_AUDIO, WHITE_LANDMARKS, _PHASES, _FREQUENCIES = 1, 2, 3, 4


def hash_32(key: tf.Tensor, salt: int, counter: tf.Tensor) -> tf.Tensor:
    """Hash (key, salt, counter) to 32 bits with the finaliser "lowbias32" (Wellons, 2018).

    Args:
      key: uint32, broadcasts against `counter`.
      salt: what the numbers are for.
      counter: uint32.

    Returns:
      uint32 of the broadcast shape.
    """
    return _hash_32(key, _u32((salt * _GOLDEN_32) & 0xFFFFFFFF), counter)


# Traced once: what an iterator costs before its first batch goes by the number of operations.
@tf.function(autograph=False, input_signature=[tf.TensorSpec(None, tf.uint32)] * 3)
def _hash_32(key: tf.Tensor, salted: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
    return rng.mix(rng.mix(key + salted, *_MIX) + counter * _u32(_GOLDEN_32), *_MIX)


def white(key: tf.Tensor, salt: int, frames: tf.Tensor | int, features: int) -> tf.Tensor:
    """Make independent noise of zero mean and unit variance, bell-shaped.

    The sum of the four bytes of a hash (Irwin-Hall of order 4: excess kurtosis -0.3, nothing beyond
    3.5 deviations): eight integer operations an element, where normals cost a logarithm and a
    cosine, and nothing is read from memory.

    Args:
      key: uint32 `[B]`.
      salt: `WHITE_AUDIO` or `WHITE_LANDMARKS`.
      frames: how many frames.
      features: how many features.

    Returns:
      float32 `[B, frames, features]`. A frame's noise does not depend on how many frames there are.
    """
    counter = tf.cast(tf.range(frames * features), tf.uint32)
    bits = hash_32(key[:, None], salt, counter[None, :])
    pairs = (bits & _u32(0x00FF00FF)) + (tf.bitwise.right_shift(bits, _u32(8)) & _u32(0x00FF00FF))
    total = (pairs & _u32(0xFFFF)) + tf.bitwise.right_shift(pairs, _u32(16))
    # Four uniform bytes: mean 4 * 127.5, variance 4 * (256**2 - 1) / 12.
    centred = tf.cast(tf.cast(total, tf.int32) - 510, tf.float32)
    return tf.reshape(centred * (1 / math.sqrt((256**2 - 1) / 3)), [-1, frames, features])


def slow(key: tf.Tensor, times_s: tf.Tensor, highest_hz: float) -> tf.Tensor:
    """Make a slow process a clip: a sum of cosines of random frequency and phase, of unit variance.

    Args:
      key: uint32 `[B]`.
      times_s: float32 `[T]`, instants on the clip's clock, in seconds.
      highest_hz: frequencies are uniform up to this.

    Returns:
      float32 `[B, T]`: equal instants give equal values, whatever the rate they are asked at.
    """
    counter = tf.range(_COSINES, dtype=tf.int32)
    index = tf.cast(counter, tf.uint32)[None, :]
    phases = 2 * math.pi * _uniform_32(hash_32(key[:, None], _PHASES, index))
    frequencies_hz = highest_hz * _uniform_32(hash_32(key[:, None], _FREQUENCIES, index))
    angles = 2 * math.pi * frequencies_hz[:, None, :] * times_s[None, :, None]
    cosines = tf.cos(angles + phases[:, None, :])
    return math.sqrt(2 / _COSINES) * tf.reduce_sum(cosines, axis=-1)


def noise(
    key: tf.Tensor,
    level: tf.Tensor,
    salt: int,
    times_s: tf.Tensor,
    features: int,
    correlation: float,
    highest_hz: float,
) -> tf.Tensor:
    """Make the noise of one modality, in standard deviations of its features.

    Args:
      key: uint32 `[B]`.
      level: float32 `[B]`, deviation of the noise.
      salt: `WHITE_AUDIO` or `WHITE_LANDMARKS`.
      times_s: float32 `[T]`, instants of the frames.
      features: how many features.
      correlation: of any two features at one instant, in `[0, 1]`.
      highest_hz: of the slow process.

    Returns:
      float32 `[B, T, features]`.
    """
    shared = (math.sqrt(correlation) * level)[:, None] * slow(key, times_s, highest_hz)
    own = (math.sqrt(1 - correlation) * level)[:, None, None]
    return shared[..., None] + own * white(key, salt, tf.size(times_s), features)


def _uniform_32(bits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.right_shift(bits, _u32(8)), tf.float32) * 2.0**-24


def _u32(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)
