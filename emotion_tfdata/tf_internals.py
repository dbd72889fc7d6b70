"""All that is used of TensorFlow without a public name, and what would replace it.

Checked with TensorFlow 2.16 to 2.21. Raw operations are public (`tf.raw_ops`); what has no public
door is making a data set of one (`_VariantDataset`), so most of this would go if that had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.python.data.ops import dataset_ops, map_op
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function


def dataset_of(variant: tf.Tensor, element_spec: Any) -> tf.data.Dataset:
    """The data set that a raw operation made."""
    return dataset_ops._VariantDataset(variant, element_spec)


def map_inline(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`dataset.map`, on the thread that asks for the element: nothing is handed over.

    Without it: `dataset.map(function)`, which leaves the work to TensorFlow's own threads, where it
    queues behind a training's.
    """
    return map_op._MapDataset(dataset, function, use_inter_op_parallelism=False)


def without_state(function: Callable[..., Any], *args: tf.Tensor) -> Any:
    """`function(*args)`, for a function that takes an element out of a data set.

    TensorFlow takes `DatasetToSingleElement` for state, and neither warns of nor refuses to save
    an iterator only where all functions in it say that they have none. Reading a record leaves
    none, so the function traced here says so.

    Args:
      function: of tensors; it must capture none.
      args: of static shape.

    Returns:
      What the function returns.

    Without it: `function(*args)`, and `experimental_external_state_policy = IGNORE`, which then
    hides the state of whatever is built on the data set too.
    """
    specs = [tf.TensorSpec(arg.shape, arg.dtype) for arg in args]
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    inner = traced._inference_function
    definition = function_pb2.FunctionDef()
    definition.CopyFrom(traced.function_def)
    definition.signature.is_stateful = False
    definition.signature.name += "_without_state"
    runtime = context.context()
    runtime.add_function_def(definition)
    name = definition.signature.name
    pure = atomic_function.AtomicFunction(name, runtime, inner.function_type, inner.children)
    return tf.nest.pack_sequence_as(traced.structured_outputs, pure.call_flat(*args))


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
