"""All that is used of TensorFlow without a public name, and what would replace it.

Checked with TensorFlow 2.16 to 2.21. Raw operations are public (`tf.raw_ops`); what has no public
door is making a data set of one (`_VariantDataset`), so most of this would go if that had.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.data.ops import dataset_ops, structured_function
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function


def dataset_of(variant: tf.Tensor, element_spec: Any) -> tf.data.Dataset:
    """Return the data set that a raw operation made."""
    return dataset_ops._VariantDataset(variant, element_spec)


_of_one_device = contextvars.ContextVar("of_one_device", default=False)


class _Applied(dataset_ops.UnaryDataset):
    """What a raw operation makes of a data set with a function.

    TensorFlow places and optimises the operations of functions again for every iterator, which took
    longer than most passes over a small data set. It leaves a function of one device alone, and a
    call without rewriting. The values are the same to the bit.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        function: Callable[..., Any],
        operation: Callable[..., tf.Tensor],
        **options: Any,
    ) -> None:
        with _without_rewriting():
            self._called = structured_function.StructuredFunctionWrapper(
                function,
                "Dataset.map()",
                dataset=dataset,
                defun_kwargs={"experimental_ints_on_device": _of_one_device.get()},
            )
        made = self._called.output_structure
        self._spec = made.element_spec if isinstance(made, tf.data.DatasetSpec) else made
        variant = operation(
            input_dataset=dataset._variant_tensor,
            other_arguments=self._called.function.captured_inputs,
            f=self._called.function,
            **self._flat_structure,
            **options,
        )
        super().__init__(dataset, variant)

    @property
    def element_spec(self) -> Any:
        return self._spec

    def _functions(self) -> list[Any]:
        return [self._called]


@contextlib.contextmanager
def _without_rewriting() -> Iterator[None]:
    """Keep TensorFlow from optimising calls of functions that are traced inside."""
    as_it_is = config_pb2.ConfigProto()
    as_it_is.graph_options.rewrite_options.disable_meta_optimizer = True
    runtime = context.context()
    usual = runtime.function_call_options
    runtime.function_call_options = context.FunctionCallOptions(config_proto=as_it_is)
    try:
        yield
    finally:
        runtime.function_call_options = usual


def flat_map(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Do as `dataset.flat_map(function)`, but begin sooner."""
    return _Applied(dataset, function, tf.raw_ops.FlatMapDataset)


def map_inline(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Do as `dataset.map`, on the thread that asks for the element: nothing is handed over.

    Without it: `dataset.map(function)`, which leaves the work to TensorFlow's own threads, where it
    queues behind a training's.
    """
    return _Applied(
        dataset,
        function,
        tf.raw_ops.MapDataset,
        use_inter_op_parallelism=False,
        preserve_cardinality=True,
    )


def parallel_map(
    dataset: tf.data.Dataset, function: Callable[..., Any], num_parallel_calls: int
) -> tf.data.Dataset:
    """Do as `dataset.map(function, num_parallel_calls, deterministic=True)`, but begin sooner."""
    return _Applied(
        dataset,
        function,
        tf.raw_ops.ParallelMapDatasetV2,
        num_parallel_calls=tf.constant(num_parallel_calls, tf.int64),
        deterministic="true",
        preserve_cardinality=True,
    )


def of_one_device() -> bool:
    """Tell whether what is traced now is of one device, which makes it another function."""
    return _of_one_device.get()


def without_state(function: Callable[..., Any], *specs: tf.TensorSpec) -> Callable[..., Any]:
    """Trace a function that takes an element out of a data set.

    TensorFlow takes `DatasetToSingleElement` for state, and neither warns of nor refuses to save
    an iterator only where all functions in it say that they have none. Reading a record leaves
    none, so the function traced here says so.

    Args:
      function: of tensors; it must capture none.
      specs: of these, of static shape.

    Returns:
      The function as a graph.

    Without it: `function`, and `experimental_external_state_policy = IGNORE`, which then hides the
    state of whatever is built on the data set too.
    """
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
    made = traced.structured_outputs
    return lambda *args: tf.nest.pack_sequence_as(made, pure.call_flat(*args))


def random_numbers() -> tf.data.Dataset:
    """Draw random int64: every iterator of one object has the next of a fixed series of streams.

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
    """A data set whose own iterators have options, and functions of one device.

    Nothing built on it gets either: the options are its author's to choose, and with the usual ones
    TensorFlow refuses functions of one device.

    Without it: `make().with_options(options)`, which holds for all that is built on it.
    """

    def __init__(self, make: Callable[[], tf.data.Dataset], options: tf.data.Options) -> None:
        """Make the data set.

        Args:
          make: makes it; called a second time if anything is built on it.
          options: of its own iterators.
        """
        token = _of_one_device.set(True)
        try:
            dataset = make()
        finally:
            _of_one_device.reset(token)
        self._make = make
        self._iterated = dataset.with_options(options)
        super().__init__(dataset, dataset._variant_tensor)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterated)

    @functools.cached_property
    def _built_on(self) -> tf.data.Dataset:
        with tf.init_scope():
            return self._make()

    @property
    def _variant_tensor(self) -> tf.Tensor:
        return self._built_on._variant_tensor
