"""Time warp of a batch: one stretch a clip, linear interpolation, at any rate."""

from __future__ import annotations

import tensorflow as tf

# As in `timebase`: a duration that is a whole number of frames must not lose one to rounding.
_TOLERANCE_FRAMES = 1e-6


def stretched_frames(frames: tf.Tensor, stretch: tf.Tensor) -> tf.Tensor:
    """Return the number of frames after a warp: those whose instants the stretched clip covers.

    Args:
      frames: int32 `[...]`.
      stretch: float64 `[...]`.

    Returns:
      int32 `[...]`, `floor((frames - 1) * stretch) + 1`, and 0 for no frames.
    """
    last = tf.cast(frames - 1, tf.float64) * stretch
    return tf.where(frames > 0, tf.cast(tf.floor(last + _TOLERANCE_FRAMES), tf.int32) + 1, 0)


def warp(
    series: tf.Tensor,
    valid: tf.Tensor,
    frames: tf.Tensor,
    frames_out: tf.Tensor,
    stretch: tf.Tensor,
    grid: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Stretch time: what was at frame `p` comes to frame `p * stretch`.

    Between two frames the value is interpolated linearly. A frame between a valid and an invalid
    one is invalid: half of it would be made up. With a stretch of 1 the series comes back as it
    was, to the bit.

    Args:
      series: `[B, T, F]`, any real dtype.
      valid: bool `[B, T]`.
      frames: int32 `[B]`, how many of the `T` frames the clip has.
      frames_out: int32 `[B]`, how many it has afterwards, from `stretched_frames`.
      stretch: float32 `[B]`.
      grid: float32 `[T2]`, numbers of the frames wanted: 0, 1, 2, ...

    Returns:
      float32 `[B, T2, F]` and bool `[B, T2]`, true for a frame of the warped clip
      made from valid frames alone. Frames beyond its end repeat the last one and are not valid.
    """
    last = tf.maximum(frames - 1, 0)[:, None]
    position = grid[None, :] / stretch[:, None]
    position = tf.minimum(position, tf.cast(last, tf.float32))
    before = tf.cast(position, tf.int32)
    after = tf.minimum(before + 1, last)
    weight = position - tf.cast(before, tf.float32)
    left = tf.cast(tf.gather(series, before, batch_dims=1), tf.float32)
    right = tf.cast(tf.gather(series, after, batch_dims=1), tf.float32)
    warped = left + weight[..., None] * (right - left)
    usable = tf.gather(valid, before, batch_dims=1) & (
        (weight == 0) | tf.gather(valid, after, batch_dims=1)
    )
    return warped, usable & (grid[None, :] < tf.cast(frames_out, tf.float32)[:, None])
