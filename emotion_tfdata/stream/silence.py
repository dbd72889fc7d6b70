"""Where in a clip there is sound: what lies before and after it can be masked off."""

from __future__ import annotations

import tensorflow as tf


def sounding(energies: tf.Tensor, valid: tf.Tensor, range_units: float) -> tf.Tensor:
    """Return which frames lie between a clip's first loud one and its last, pauses included.

    A frame is loud if its loudest feature comes within `range_units` of the clip's loudest.

    Args:
      energies: `[B, T, F]`, on a logarithmic scale, any real dtype.
      valid: bool `[B, T]`, frames of the clip.
      range_units: in the units of `energies`.

    Returns:
      bool `[B, T]`, some of the valid frames; none where a clip has none.
    """
    level = tf.cast(tf.reduce_max(energies, axis=-1), tf.float32)
    level = tf.where(valid, level, level.dtype.min)
    loud = valid & (level >= tf.reduce_max(level, axis=1, keepdims=True) - range_units)
    since = tf.cumsum(tf.cast(loud, tf.int32), axis=1) > 0
    until = tf.cumsum(tf.cast(loud, tf.int32), axis=1, reverse=True) > 0
    return since & until & valid
