"""All that is used of TensorFlow without a public name, and what would replace it.

Checked with TensorFlow 2.16 to 2.21. Raw operations are public (`tf.raw_ops`); what has no public
door is making a data set of one (`_VariantDataset`), so most of this would go if that had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops, interleave_op, map_op


def dataset_of(variant: tf.Tensor, element_spec: Any) -> tf.data.Dataset:
    """The data set that a raw operation made."""
    return dataset_ops._VariantDataset(variant, element_spec)


def map_inline(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`dataset.map`, on the thread that asks for the element: nothing is handed over.

    Without it: `dataset.map(function)`, which leaves the work to TensorFlow's own threads, where it
    queues behind a training's.
    """
    return map_op._MapDataset(dataset, function, use_inter_op_parallelism=False)


def flat_map_ahead(
    dataset: tf.data.Dataset, function: Callable[..., tf.data.Dataset], ahead: int
) -> tf.data.Dataset:
    """`dataset.flat_map`, with `ahead` further elements in work at the same time, in order.

    Without it: `dataset.interleave(function, cycle_length=1, num_parallel_calls=1)`, which chooses
    itself how far it looks ahead.
    """
    return interleave_op._ParallelInterleaveDataset(
        dataset,
        function,
        cycle_length=1,
        block_length=1,
        num_parallel_calls=1,
        buffer_output_elements=1,
        prefetch_input_elements=ahead,
        deterministic=True,
    )


def random_numbers() -> tf.data.Dataset:
    """Random int64: every iterator of one object has the next of a fixed series of streams.

    Without it: `tf.data.Dataset.random(seed, rerandomize_each_iteration=True)`, whose series hangs
    on `tf.random.set_seed`.
    """
    variant = tf.raw_ops.RandomDatasetV2(
        seed=tf.constant(1, tf.int64),
        seed2=tf.constant(2, tf.int64),
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        rerandomize_each_iteration=True,
        output_types=[tf.int64],
        output_shapes=[[]],
    )
    return dataset_of(variant, tf.TensorSpec([], tf.int64))


class IteratedWith(dataset_ops.UnaryUnchangedStructureDataset):
    """A data set whose own iterators have options that nothing built on it gets.

    Without it: `dataset.with_options(options)`, which holds for all that is built on it.
    """

    def __init__(self, dataset: tf.data.Dataset, options: tf.data.Options) -> None:
        self._iterated = dataset.with_options(options)
        super().__init__(dataset, dataset._variant_tensor)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterated)
