"""Keys: what is drawn for a clip depends on which clip it is, never on when or where it is read.

A key is a 64-bit number folded from (seed, epoch, example, copy, stream). Every random choice of
the pipeline comes from such a key and from nothing else, so that threads, workers and positions
cannot change it. `fold_in` is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014), a bijection that passes the usual batteries when counters go
in.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import tensorflow as tf

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_SPLITMIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)), 31


class Stream(enum.IntEnum):
    """What a key is for. Never renumber: the numbers are part of the stream's definition."""

    ORDER = 1
    BATCH_ORDER = 2
    COPIED = 3
    AUGMENTED = 4
    KIND = 5
    STRETCH = 6
    NOISE_LEVEL = 7
    NOISE = 8
    MEL_WARP = 9
    FREQUENCY_MASK = 10
    TIME_MASK = 11
    MODALITY = 12


def fold_in(key: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """Fold integers into keys.

    Args:
      key: uint64, any shape.
      data: integers of a shape that broadcasts against `key`; only the low 64 bits count.

    Returns:
      uint64 of the broadcast shape.
    """
    mixed = mix(tf.cast(data, tf.uint64) + _u64(_GOLDEN_GAMMA), *_SPLITMIX)
    return mix(key ^ mixed, *_SPLITMIX)


def key(
    seed: int,
    epoch: tf.Tensor | int,
    example: tf.Tensor,
    copy: tf.Tensor | int,
    stream: Stream | Sequence[Stream],
) -> tf.Tensor:
    """Make keys of choices, for each of many examples.

    Args:
      seed: of the whole run.
      epoch: int64 scalar.
      example: int64 `[...]` from `index.example_key`.
      copy: which copy of the example, 0 for the example as it is; int64, broadcasts to `[...]`.
      stream: what the choice is about; of several, their keys come along a last axis.

    Returns:
      uint64 `[...]`, or `[..., S]` for `S` streams.
    """
    first = tf.constant(seed & 0xFFFFFFFFFFFFFFFF, tf.uint64)
    single = isinstance(stream, Stream)
    streams = [int(stream)] if isinstance(stream, Stream) else [int(each) for each in stream]
    keys = _keys(first, *(tf.cast(data, tf.int64) for data in (epoch, example, copy, streams)))
    return keys[..., 0] if single else keys


# One function for all keys of a graph, and not inlined: what an iterator costs before its first
# batch goes by the number of operations.
@tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([], tf.uint64), *[tf.TensorSpec(None, tf.int64)] * 4],
    experimental_attributes={"_noinline": True},
)
def _keys(
    seed: tf.Tensor, epoch: tf.Tensor, example: tf.Tensor, copy: tf.Tensor, streams: tf.Tensor
) -> tf.Tensor:
    keys = fold_in(fold_in(fold_in(seed, epoch), example), copy)
    return fold_in(keys[..., None], streams)


def uniform(key: tf.Tensor) -> tf.Tensor:
    """Make one number in `[0, 1)` a key, float64, from its upper 53 bits."""
    return tf.cast(tf.bitwise.right_shift(key, _u64(11)), tf.float64) * 2.0**-53


def mix(z: tf.Tensor, rounds: Sequence[tuple[int, int]], last: int) -> tf.Tensor:
    """Mix bits: rounds of (shift, factor), then one more shift."""
    for shift, factor in rounds:
        z = (z ^ tf.bitwise.right_shift(z, tf.constant(shift, z.dtype))) * tf.constant(
            factor, z.dtype
        )
    return z ^ tf.bitwise.right_shift(z, tf.constant(last, z.dtype))


def _u64(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
