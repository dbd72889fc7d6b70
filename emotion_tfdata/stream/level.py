"""How loud a clip is: energies that count from there do not hang on gain or distance."""

from __future__ import annotations

import tensorflow as tf


def clip_level(energies: tf.Tensor, valid: tf.Tensor, dtype: tf.DType = tf.float64) -> tf.Tensor:
    """Return the mean of a clip's energies over all its frames and features.

    The sum is exact for energies that are whole numbers, or whole multiples of a power of two, as
    stored ones are: neither padding nor the order of adding changes a bit of it.

    Args:
      energies: `[B, T, F]`, on a logarithmic scale, any real dtype.
      valid: bool `[B, T]`, frames that count.
      dtype: that the sum has; with float32 it is exact no more.

    Returns:
      float32 `[B]`, 0 for a clip without a frame that counts.
    """
    counted = tf.where(valid[..., None], tf.cast(energies, dtype), 0.0)
    number = tf.reduce_sum(tf.cast(valid, dtype), axis=1) * tf.cast(tf.shape(energies)[-1], dtype)
    return tf.cast(tf.reduce_sum(counted, axis=[1, 2]) / tf.maximum(number, 1.0), tf.float32)
