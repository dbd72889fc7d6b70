"""Which pass over a data set this is: what makes every pass an epoch of its own.

tf.data tells nobody how often a data set was iterated, but its random numbers are other ones in
every iteration: pass `k` draws the `k`-th number of a fixed series, and a table turns that back
into `k`. TensorFlow keeps the place in the series for each object, beside it, and in checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.stream import tf_internals

# Of further passes the number is drawn instead of counted, from 2**40 on.
COUNTED_PASSES = 8192
_UNCOUNTED = 2**40


def counted(
    make: Callable[[tf.Tensor, Any], tf.data.Dataset], constants: Any
) -> Callable[[], tf.data.Dataset]:
    """Make a data set that is another one in every pass.

    A pass begins when its first element is asked for, not when the iterator is made: Keras makes
    iterators that it never asks.

    Args:
      make: called with the number of the pass, int64 scalar, and the constants.
      constants: tensors that `make` needs. Handed over so, they are not copied into the graph of
        every iterator, as what a function captures is.

    Returns:
      A function that makes it: in the first pass what `make` gives for 0, in the next what it
      gives for 1, and so on. Those made by several calls count their passes together.
    """
    drawn, numbers = _series()
    constants = (constants, tf.constant(drawn), tf.constant(numbers))
    # Checkpoints note where a pass's random numbers are before its second one is drawn: with one
    # alone there would be nothing to note, and a restored iterator would begin another pass.
    twice = tf.data.Dataset.zip(tf.data.Dataset.range(2), tf_internals.random_numbers())
    # Not exhausted before the pass is: its place in the series is kept as long.
    always = tf.data.Dataset.from_tensors(constants).repeat()

    # AutoGraph would rewrite all functions in it, and finds nothing to rewrite.
    @tf.autograph.experimental.do_not_convert
    def one_pass(start: tuple[tf.Tensor, tf.Tensor], given: Any) -> tf.data.Dataset:
        place, number = start
        given, drawn, numbers = given
        at = tf.minimum(tf.searchsorted(drawn, number[None])[0], COUNTED_PASSES - 1)
        is_counted = tf.gather(drawn, at) == number
        pass_number = tf.where(is_counted, tf.gather(numbers, at), number + _UNCOUNTED)
        return make(pass_number, given).take(-place)  # none of it, then all

    def counted_passes() -> tf.data.Dataset:
        started = tf_internals.flat_map(tf.data.Dataset.range(1), lambda _: twice)
        return tf_internals.flat_map(tf.data.Dataset.zip(started, always), one_pass)

    return counted_passes


@functools.cache
def _series() -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that the passes draw, ascending, and which pass draws each, both int64."""
    once = tf_internals.random_numbers().skip(1).take(1)
    with tf.init_scope():
        passes = once.repeat(COUNTED_PASSES).batch(COUNTED_PASSES).get_single_element().numpy()
    order = np.argsort(passes)
    return passes[order], order
