"""What the copies of a model that train on parts of one batch tell each other.

Under a `tf.distribute` strategy each replica holds some rows of the global batch, those of replica
0 first. What a layer takes over the batch (its statistics, which random bits fall to which row)
must be taken over all of it, so that a training does not depend on how many share it. Without a
strategy, and with one replica, nothing is exchanged. For use inside `strategy.run`, where every
replica must come to the same exchanges in the same order.
"""

from __future__ import annotations

import tensorflow as tf


def count() -> int:
    """Count the replicas that share the batch."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def total(x: tf.Tensor) -> tf.Tensor:
    """Sum all replicas' `x`, which has the same shape everywhere."""
    if count() == 1:
        return x
    # The copy is made here, so that it has a device, which TensorFlow asks for.
    return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(x))


def totals(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sum several tensors of one dtype, in one exchange."""
    if count() == 1:
        return tensors
    sizes = [tf.size(tensor) for tensor in tensors]
    flat = total(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0))
    parts = tf.split(flat, sizes, num=len(tensors))
    return [tf.reshape(part, tf.shape(tensor)) for part, tensor in zip(parts, tensors, strict=True)]


def gather(x: tf.Tensor) -> tf.Tensor:
    """Gather every replica's `x` as `[R, ...]`, which has the same shape everywhere."""
    if count() == 1:
        return x[None]
    index = _index()
    around = [[index, count() - 1 - index]] + [[0, 0]] * x.shape.rank
    return total(tf.pad(x[None], around))


def rows_before(rows: tf.Tensor) -> tf.Tensor | int:
    """Count the rows of the global batch that come before the first of this replica's `rows`."""
    if count() == 1:
        return 0
    return tf.reduce_sum(gather(rows)[: _index()])


def _index() -> tf.Tensor:
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
