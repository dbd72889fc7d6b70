"""The real frames of a padded batch, packed one after the other.

Every layer of the model works on `[N, C]`: the `N` frames that a batch really has, clip after clip,
each clip in order of time. Padding is not computed and then undone, it is never there; statistics
over the rows count real frames because there are no others. What a layer needs to know of time, it
looks up: which row holds the frame `d` before this one, which two rows a pooling window covers.

A look-up that finds no real frame gives `N`, one past the last row, and reads as a zero row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from emotion_tfdata.models.gradients import own_gradient


class Frames(NamedTuple):
    """Where each of `N` packed rows lies in its padded batch `[B, T]`. All int32.

    Attributes:
      position: `[N]`, `clip * T + time` of each row, ascending.
      row: `[B, T]`, the row of each place; `N` where the mask is false.
      count: `[B]`, how many rows each clip has.
    """

    position: tf.Tensor
    row: tf.Tensor
    count: tf.Tensor

    @classmethod
    def from_mask(cls, mask: tf.Tensor) -> Frames:
        """Find the frames for which `mask [B, T]` (bool) holds; it need not be a prefix."""
        flat = tf.reshape(mask, [-1])
        position = tf.cast(tf.where(flat)[:, 0], tf.int32)
        number = tf.cumsum(tf.cast(flat, tf.int32), exclusive=True)
        row = tf.where(flat, number, tf.size(position))
        return cls(
            position,
            tf.reshape(row, tf.shape(mask)),
            tf.reduce_sum(tf.cast(mask, tf.int32), axis=1),
        )

    @property
    def total(self) -> tf.Tensor:
        """`N`, how many rows there are."""
        return tf.size(self.position)

    @property
    def clip(self) -> tf.Tensor:
        """`[N]`, the clip of each row."""
        return self.position // tf.shape(self.row)[1]

    def pack(self, padded: tf.Tensor) -> tf.Tensor:
        """Pack `[B, T, C]` into `[N, C]`."""
        return tf.gather(tf.reshape(padded, [-1, padded.shape[-1]]), self.position)

    def neighbours(self, offsets: Sequence[int]) -> tf.Tensor:
        """Find, `[N, K]`, the row `offsets[k]` frames later in the same clip, or `N`."""
        before, after = max(0, -min(offsets)), max(0, max(offsets))
        row = tf.pad(self.row, [[0, 0], [before, after]], constant_values=self.total)
        start = self.position + before + self.clip * (before + after)
        return tf.gather(tf.reshape(row, [-1]), start[:, None] + tf.constant(offsets))

    def pool_pairs(self) -> tuple[Frames, tf.Tensor, tf.Tensor]:
        """Halve the frame rate: window `i` covers frames `2i` and `2i + 1`.

        A window is real if either frame is, so that a clip of odd length keeps its last frame and
        the number of windows does not hang on the padding.

        Returns:
          The pooled frames (`N'` rows); `[N', 2]`, the two rows under each window, or `N`; and
          `[N]`, the window over each row.
        """
        row = tf.pad(self.row, [[0, 0], [0, tf.shape(self.row)[1] % 2]], constant_values=self.total)
        pairs = tf.reshape(row, [tf.shape(row)[0], -1, 2])
        pooled = Frames.from_mask(tf.reduce_any(pairs < self.total, axis=2))
        time = self.position % tf.shape(self.row)[1]
        window = self.clip * tf.shape(pooled.row)[1] + time // 2
        return (
            pooled,
            tf.gather(tf.reshape(pairs, [-1, 2]), pooled.position),
            tf.gather(tf.reshape(pooled.row, [-1]), window),
        )

    def average(self, x: tf.Tensor) -> tf.Tensor:
        """Average each clip's rows, `[N, C]` to `[B, C]`; zeros for a clip without any."""
        # A product with a [B, N] matrix of weights: its gradient is a product too, not a scatter.
        weight = 1.0 / tf.cast(tf.maximum(self.count, 1), x.dtype)
        member = tf.one_hot(self.clip, tf.size(self.count), axis=0, dtype=x.dtype)
        return tf.matmul(member * weight[:, None], x)

    def statistics(self, x: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """Take mean and deviation over each clip's rows, weighted by a softmax over them.

        Args:
          x: `[N, C]`.
          score: `[N, C]`, each channel's own.

        Returns:
          `[B, 2 C]`; zeros for a clip without rows.
        """
        clips, clip = tf.size(self.count), self.clip
        most = tf.stop_gradient(tf.math.unsorted_segment_max(score, clip, clips))
        weight = tf.exp(score - tf.gather(most, clip))
        member = tf.one_hot(clip, clips, axis=0, dtype=x.dtype)
        total = tf.maximum(tf.matmul(member, weight), 1e-12)
        mean = tf.matmul(member, weight * x) / total
        apart = tf.math.squared_difference(x, tf.gather(mean, clip))
        variance = tf.matmul(member, weight * apart) / total
        return tf.concat([mean, deviation(variance)], axis=1)


def deviation(variance: tf.Tensor) -> tf.Tensor:
    """Take the root of a variance, a little less, with a gradient that is finite at zero too."""
    return tf.sqrt(variance + 1e-4) - 1e-2


def take_rows(
    x: tf.Tensor, index: tf.Tensor, inverse: tf.Tensor, *, fill: float = 0.0
) -> tf.Tensor:
    """Take `x [N, C]` at `index [M]`, no row twice; `N` reads a row of `fill`.

    `inverse [N]` says which of the `M` places took each row, or `M`. With it the gradient is
    another look-up; TensorFlow's own, a scatter, is many times slower on a CPU.
    """

    @own_gradient
    def take(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            return tf.gather(with_row(dy), inverse)

        return tf.gather(with_row(x, fill), index), gradient

    return take(x)


def permute_rows(x: tf.Tensor, order: tf.Tensor, inverse: tf.Tensor) -> tf.Tensor:
    """Order `x [N, C]`, which `inverse` undoes: `take_rows` where all are taken."""

    @own_gradient
    def permute(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        return tf.gather(x, order), lambda dy: tf.gather(dy, inverse)

    return permute(x)


def with_row(x: tf.Tensor, fill: float = 0.0) -> tf.Tensor:
    """Add a row of `fill` after `x [N, C]`, for look-ups that find no frame."""
    return tf.pad(x, [[0, 1], [0, 0]], constant_values=tf.cast(fill, x.dtype))
