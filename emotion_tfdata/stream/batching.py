"""Which clips make which batch, and how long it is: planned for a whole epoch before any is read.

The manifest knows every clip's length and the keys give every clip's stretch, so an epoch's
batches are a table, computed from (seed, epoch) alone. Batches are made of clips of like length and
padded to one of a few shapes.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from emotion_tfdata.augment import rng
from emotion_tfdata.augment.draw import NOTHING, Augment, Draws, draw
from emotion_tfdata.augment.rng import Stream
from emotion_tfdata.augment.warp import stretched_frames
from emotion_tfdata.dataset import timebase
from emotion_tfdata.dataset.table import Table


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The few shapes that batches are padded to.

    Attributes:
      audio_frames: int32 `[K]`, ascending; rows of audio in a batch of the bucket.
      landmarks_frames: int32 `[K]`.
      source_audio_frames: int32 `[K]`, most rows a clip of the bucket has before it is warped.
      source_landmarks_frames: int32 `[K]`.
    """

    audio_frames: np.ndarray
    landmarks_frames: np.ndarray
    source_audio_frames: np.ndarray
    source_landmarks_frames: np.ndarray

    def frames(self, modality: str) -> np.ndarray:
        """Return the numbers of rows of `audio` or of `landmarks` as served, int32 `[K]`."""
        return self.audio_frames if modality == "audio" else self.landmarks_frames

    def source_frames(self, modality: str) -> np.ndarray:
        """Return the numbers of rows of `audio` or of `landmarks` before the warp, int32 `[K]`."""
        return self.source_audio_frames if modality == "audio" else self.source_landmarks_frames


def make_buckets(table: Table, num_buckets: int, stretch: tuple[float, float]) -> Buckets:
    """Make buckets that hold about equally many clips each, and every clip at its longest.

    Args:
      table: the clips.
      num_buckets: at most this many; fewer where durations coincide.
      stretch: range of the time warp.
    """
    low, high = min(stretch[0], 1.0), max(stretch[1], 1.0)  # clips as they are must fit too
    audio_hz, landmarks_hz = table.rates_hz["audio"], table.rates_hz["landmarks"]
    durations_s = np.maximum(
        np.maximum(table.audio_frames - 1, 0) / audio_hz,
        np.maximum(table.landmarks_frames - 1, 0) / landmarks_hz,
    )
    # Half of the clips or more are as they are, the others anywhere in the range.
    spread_s = np.concatenate([durations_s * s for s in (1, 1, low, (low + high) / 2, high)])
    edges_s = np.unique(np.quantile(spread_s, np.arange(1, num_buckets + 1) / num_buckets))

    def capacities(rate_hz: float, seconds: np.ndarray) -> np.ndarray:
        return np.array([timebase.num_frames(s, rate_hz) for s in np.ceil(seconds * 1e6) / 1e6])

    audio = capacities(audio_hz, edges_s).astype(np.int32)
    landmarks = capacities(landmarks_hz, edges_s).astype(np.int32)
    # One frame more than the arithmetic says costs nothing and spares an argument about rounding.
    longest_s = np.minimum(edges_s / low + 1 / min(audio_hz, landmarks_hz), durations_s.max())
    return Buckets(
        audio_frames=audio,
        landmarks_frames=landmarks,
        source_audio_frames=capacities(audio_hz, longest_s).astype(np.int32),
        source_landmarks_frames=capacities(landmarks_hz, longest_s).astype(np.int32),
    )


class Batches(NamedTuple):
    """The batches of an epoch, `N` of them of `B` rows each; or one of them, without the `N`.

    Attributes:
      clip: int32 `[N, B]`, index into the table; -1 for a row that the last batch lacks.
      draws: `Draws` of `[N, B, ...]`.
      audio_frames: int32 `[N, B]`, after the warp.
      landmarks_frames: int32 `[N, B]`, after the warp.
      bucket: int32 `[N]`.
    """

    clip: tf.Tensor
    draws: Draws
    audio_frames: tf.Tensor
    landmarks_frames: tf.Tensor
    bucket: tf.Tensor

    def frames(self, modality: str) -> tf.Tensor:
        """Return the numbers of rows of `audio` or of `landmarks` after the warp."""
        return self.audio_frames if modality == "audio" else self.landmarks_frames


def num_batches(num_clips: int, augment: Augment | None, batch_size: int) -> int:
    """Return how many batches every epoch has."""
    entries = num_clips
    if augment is not None:
        entries += sum(augment.num_copied(c, num_clips) for c in range(1, augment.copies + 1))
    return -(-entries // batch_size)


def plan_epoch(
    table: Table,
    buckets: Buckets,
    *,
    seed: int,
    epoch: tf.Tensor,
    batch_size: int,
    augment: Augment | None,
    shuffle: bool,
) -> Batches:
    """Plan an epoch: a function of the clips, the settings, the seed and the epoch alone.

    Shuffled, every batch but the last few is made of clips of one bucket, drawn at random; what is
    left over in the buckets fills the rest, the longest last. Not shuffled, clips come in the
    table's order.

    Args:
      table: the clips.
      buckets: from `make_buckets` over the same clips and stretch.
      seed: of the run.
      epoch: int64 scalar.
      batch_size: rows of a batch.
      augment: what to do to the copies; None for none, and no copies.
      shuffle: whether the order is random.

    Returns:
      `Batches`.
    """
    clip, copy = _entries(table, seed, epoch, augment)
    keys = tf.gather(table.keys, clip)
    draws = draw(augment, seed, epoch, keys, copy)
    audio_frames = stretched_frames(tf.gather(table.audio_frames, clip), draws.stretch)
    landmarks_frames = stretched_frames(tf.gather(table.landmarks_frames, clip), draws.stretch)
    bucket = tf.maximum(
        tf.searchsorted(buckets.audio_frames, audio_frames),
        tf.searchsorted(buckets.landmarks_frames, landmarks_frames),
    )
    order = tf.range(tf.size(clip))
    if shuffle:
        random = rng.key(seed, epoch, keys, copy, Stream.ORDER)
        order = _group(bucket, random, len(buckets.audio_frames), batch_size)
    batches = -(-tf.size(order) // batch_size)
    # What the last batch lacks is the place of one entry more, which holds what is missing.
    lacking = tf.fill([batches * batch_size - tf.size(order)], tf.size(clip))
    places = tf.reshape(tf.concat([order, lacking], axis=0), [batches, batch_size])
    if shuffle:
        # The last batch may be smaller; it stays last.
        number = tf.range(tf.cast(batches, tf.int64) - 1)
        random = rng.key(seed, epoch, number, 0, Stream.BATCH_ORDER)
        mixed = tf.concat([tf.argsort(_sortable(random)), [batches - 1]], axis=0)
        places = tf.gather(places, mixed)

    def rows(values: tf.Tensor, missing: float) -> tf.Tensor:
        last = tf.fill([1, *values.shape[1:]], tf.constant(missing, values.dtype))
        return tf.gather(tf.concat([values, last], axis=0), places)

    return Batches(
        clip=rows(clip, -1),
        draws=Draws(*map(rows, draws, NOTHING)),
        audio_frames=rows(audio_frames, 0),
        landmarks_frames=rows(landmarks_frames, 0),
        bucket=tf.reduce_max(rows(bucket, 0), axis=1),
    )


def _entries(
    table: Table, seed: int, epoch: tf.Tensor, augment: Augment | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """List the epoch's clips: index into the table, int32 `[E]`, and number of the copy, int64."""
    (size,) = table.keys.shape
    clips, copies = [tf.range(size, dtype=tf.int32)], [tf.zeros(size, tf.int64)]
    for copy in range(1, augment.copies + 1 if augment else 1):
        count = augment.num_copied(copy, size) if augment else 0
        random = rng.key(seed, epoch, table.keys, copy, Stream.COPIED)
        clips.append(tf.sort(tf.argsort(_sortable(random))[:count]))
        copies.append(tf.fill([count], tf.constant(copy, tf.int64)))
    return tf.concat(clips, axis=0), tf.concat(copies, axis=0)


def _group(bucket: tf.Tensor, random: tf.Tensor, num_buckets: int, batch_size: int) -> tf.Tensor:
    """Order entries so that runs of `batch_size` share a bucket, as far as they go."""
    by_bucket = tf.argsort(tf.cast(bucket, tf.int64) * 2**56 + _sortable(random) // 2**7)
    sorted_bucket = tf.gather(bucket, by_bucket)
    counts = tf.math.bincount(bucket, minlength=num_buckets)
    starts = tf.cumsum(counts, exclusive=True)
    place = tf.range(tf.size(bucket)) - tf.gather(starts, sorted_bucket)
    in_full_batch = place < tf.gather(counts // batch_size * batch_size, sorted_bucket)
    first, then = tf.where(in_full_batch), tf.where(~in_full_batch)
    return tf.gather(by_bucket, tf.squeeze(tf.concat([first, then], axis=0), axis=1))


def _sortable(key: tf.Tensor) -> tf.Tensor:
    """Return a key as a number that sorts as signed integers do, in `[0, 2**63)`."""
    return tf.cast(tf.bitwise.right_shift(key, tf.constant(1, tf.uint64)), tf.int64)
