"""Masks over bands and over time, as SpecAugment has them.

Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
Interspeech 2019, section 2: a mask's width is uniform from 0 to a widest one, its place uniform
among those where it fits; a mask over time is never wider than a share of the clip.
"""

from __future__ import annotations

import tensorflow as tf

_TOLERANCE_FRAMES = 1e-3


def hidden_bands(masks: tf.Tensor, bands: int, widest: int) -> tf.Tensor:
    """Return the bands that masks cover.

    Args:
      masks: float32 `[B, K, 2]`: width and place of each mask, in `[0, 1]` of those it can have;
        one of width 0 covers nothing.
      bands: `M`.
      widest: most bands that one mask covers.

    Returns:
      bool `[B, M]`.
    """
    limit = tf.fill(tf.shape(masks)[:1], widest)
    room = tf.fill(tf.shape(masks)[:1], bands)
    return _covered(masks, limit, room, tf.range(bands)[None, :])


def hidden_frames(
    masks: tf.Tensor, valid: tf.Tensor, widest_frames: float, share: float
) -> tf.Tensor:
    """Return the frames that masks cover, counted along the frames that hold something.

    Args:
      masks: float32 `[B, K, 2]`, as for `hidden_bands`.
      valid: bool `[B, T]`, frames that hold something; no other is covered or counted.
      widest_frames: most frames that one mask covers.
      share: most of a clip's valid frames that its `K` masks cover together.

    Returns:
      bool `[B, T]`.
    """
    counted = tf.cumsum(tf.cast(valid, tf.int32), axis=1)
    room = counted[:, -1]
    allowed = tf.cast(room, tf.float32) * (share / masks.shape[1])
    limit = tf.cast(tf.minimum(allowed, widest_frames) + _TOLERANCE_FRAMES, tf.int32)
    return valid & _covered(masks, limit, room, counted - 1)


def _covered(masks: tf.Tensor, limit: tf.Tensor, room: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Tell which places `[B or 1, N]` lie in a mask of at most `limit` `[B]`, in `room` `[B]`."""
    limit, room = limit[:, None], room[:, None]

    def choice(share: tf.Tensor, highest: tf.Tensor) -> tf.Tensor:
        """Draw a whole number from 0 to `highest`, all as likely."""
        number = tf.cast(share * tf.cast(highest + 1, tf.float32), tf.int32)
        return tf.minimum(number, highest)  # a share may round up to 1

    width = choice(masks[..., 0], limit)
    start = choice(masks[..., 1], room - width)
    place = place[:, None, :]
    covered = (place >= start[..., None]) & (place < (start + width)[..., None])
    return tf.reduce_any(covered, axis=1)
