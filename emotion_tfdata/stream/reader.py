"""Records by their place: the manifest says where each one stands, so any one is read alone.

Reading by (shard, offset) costs little more than reading a shard from end to end, and buys an exact
shuffle of the whole set, a start at any batch without reading what is skipped, and a corrupt record
that takes no other with it. TFRecord's own checksums are checked on every read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.dataset.schema import ARRAY_FEATURES
from emotion_tfdata.dataset.table import Table
from emotion_tfdata.dataset.tfrecord import FOOTER_BYTES, HEADER_BYTES, CorruptDataError
from emotion_tfdata.stream import tf_internals

__all__ = ["CorruptDataError", "assert_sound", "read_all", "read_examples"]

_WHOLE, _NO_EXAMPLE, _UNREADABLE = 0, 1, 2
_READ_AT_ONCE, _OPENED_AT_ONCE = 32, 8

# Arrays wanted: name -> (modality whose frames it has, sizes beyond the frames).
Wanted = Mapping[str, tuple[str, tuple[int, ...]]]


def read_examples(
    table: Table, clips: tf.Tensor, wanted: Wanted
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Read and parse records and compare them with the manifest, inside a graph.

    Args:
      table: of the split, of arrays or of tensors.
      clips: int32 `[B]`, which of its entries; `B` is known when the graph is made.
      wanted: the arrays wanted.

    Returns:
      The bytes of each array, string `[B]`, and what is wrong with each record, string `[B]`: it is
      missing, cut short or does not match its checksum, is no `tf.train.Example` with these arrays,
      is another one than the manifest says, or has an array of another shape; empty if nothing is.
      Without the last, the bytes of an array are as many as its shape needs.
    """
    # From a disk a record is read right into its place; from afar, length and content in one
    # request.
    shards = tf.gather(table.shards, clips)
    is_remote = np.array(["://" in path for path in table.paths], np.int64)
    whole = tf.gather(table.lengths, clips) + (HEADER_BYTES + FOOTER_BYTES)
    buffer_bytes = whole * tf.gather(is_remote, shards)
    paths, offsets = tf.gather(table.paths, shards), tf.gather(table.offsets, clips)
    places = (tf.expand_dims(paths, 1), tf.expand_dims(offsets, 1), buffer_bytes)
    ranks = tuple((name, 1 + len(sizes)) for name, (_, sizes) in wanted.items())
    read = _reading(*clips.shape, ranks, tf_internals.of_one_device())
    return _check(table, clips, wanted, *read(*places))


@functools.cache
def _reading(
    count: int, ranks: tuple[tuple[str, int], ...], of_one_device: bool
) -> Callable[..., Any]:
    """Make the function that reads records, whose tracing takes a third of a data set's time.

    Args:
      count: of the records.
      ranks: of the arrays, by name.
      of_one_device: of the data set's functions; asked for to keep the two kinds apart.
    """
    spec: dict[str, tf.io.FixedLenFeature] = {"example_id": tf.io.FixedLenFeature([], tf.string)}
    for name, rank in ranks:
        spec[name] = tf.io.FixedLenFeature([], tf.string)
        spec[f"{name}_shape"] = tf.io.FixedLenFeature([rank], tf.int64)

    def read(*places: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = _parse_together(places, spec).concatenate(_parse_one_by_one(places, spec))
        return parsed.take(1).get_single_element()

    place = [tf.TensorSpec([count, 1], tf.string), tf.TensorSpec([count, 1], tf.int64)]
    return tf_internals.without_state(read, *place, tf.TensorSpec([count], tf.int64))


def _check(
    table: Table, clips: tf.Tensor, wanted: Wanted, parsed: dict[str, tf.Tensor], state: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Return the bytes of the arrays, and what is wrong with each record, in words."""
    names = ", ".join(name for array in wanted for name in (array, f"{array}_shape"))
    problems = [
        (state == _UNREADABLE, "missing, cut short, or its bytes do not match their checksum"),
        (state == _NO_EXAMPLE, f"no tf.train.Example that has example_id, {names}"),
        (parsed["example_id"] != tf.gather(table.example_ids, clips), "holds another record"),
    ]
    for name, (modality, sizes) in wanted.items():
        frames = tf.gather(table.frames(modality), clips)
        # `[B, 1 + rank]`: the frames, then the sizes of each frame.
        shape = tf.pad(tf.cast(tf.expand_dims(frames, 1), tf.int64), [[0, 0], [0, len(sizes)]])
        other = tf.reduce_any(parsed[f"{name}_shape"] != shape + [0, *sizes], axis=1)
        problems.append((other, f"{name} has another shape than the manifest says"))
        length = frames * (math.prod(sizes) * ARRAY_FEATURES[name].dtype.itemsize)
        unfit = tf.strings.length(parsed[name]) != length
        problems.append((unfit, f"{name} does not have the bytes its shape needs"))
    problem = tf.fill(tf.shape(clips), "")
    for holds, words in reversed(problems):  # the first that holds explains the others
        problem = tf.where(holds, words, problem)
    contents = {name: tf.ensure_shape(parsed[name], [None]) for name in wanted}
    return contents, tf.ensure_shape(problem, [None])


Spec = Mapping[str, tf.io.FixedLenFeature]
# Of some records: path and offset, each `[B, 1]`, and size of the buffer, `[B]`.
Places = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _record_at(path: tf.Tensor, offset: tf.Tensor, buffer_bytes: tf.Tensor) -> tf.data.Dataset:
    from_there = tf.raw_ops.TFRecordDatasetV2(
        filenames=path,
        compression_type="",
        buffer_size=buffer_bytes,
        byte_offsets=offset,
    )
    return tf_internals.dataset_of(from_there, tf.TensorSpec([], tf.string)).take(1)


def _parse_together(places: Places, spec: Spec) -> tf.data.Dataset:
    """Parse all records as one element, or none if any cannot be read or parsed."""
    (count,) = places[-1].shape
    # Some in one call of a function: a call for each would cost more than reading it.
    some = max(size for size in range(1, _OPENED_AT_ONCE + 1) if count % size == 0)
    grouped = tf.data.Dataset.from_tensor_slices(
        tuple(tf.reshape(column, [-1, some, *column.shape[1:]]) for column in places)
    )

    def open_some(*places: tf.Tensor) -> tf.data.Dataset:
        each = zip(*map(tf.unstack, places), strict=True)
        return _one_after_the_other([_record_at(*place) for place in each])

    # Parsed on the thread that reads, which is handed nothing over; and not by `parse_example`,
    # which leaves it to TensorFlow's own threads, where a training's products wait.
    parsed = tf_internals.map_inline(
        tf_internals.flat_map(grouped, open_some),
        lambda record: tf.io.parse_single_example(record, spec),
    )
    # A file that cannot be opened fails as often as it is asked, and errors that are ignored would
    # never end: beside them runs a count, which every attempt takes one of.
    attempts = tf.data.Dataset.range(count)
    found = tf.data.Dataset.zip(attempts, parsed).ignore_errors().batch(count, drop_remainder=True)
    return tf_internals.map_inline(
        found, lambda numbers, arrays: (arrays, tf.fill(tf.shape(numbers), _WHOLE))
    )


def _one_after_the_other(parts: list[tf.data.Dataset]) -> tf.data.Dataset:
    """Join the parts as a tree, so that an element passes few of its nodes."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    first, second = parts[:middle], parts[middle:]
    return _one_after_the_other(first).concatenate(_one_after_the_other(second))


def _parse_one_by_one(places: Places, spec: Spec) -> tf.data.Dataset:
    """Parse records `[B]` one by one: blanks where one cannot be, and which those are."""
    blank = {name: tf.zeros(feature.shape, feature.dtype) for name, feature in spec.items()}

    def parse_one(*place: tf.Tensor) -> tf.data.Dataset:
        # An error ends this record's own data set and no other; a stand-in then tells which it was.
        once = tf.data.Dataset.zip(tf.data.Dataset.range(1), _record_at(*place)).ignore_errors()
        record = tf_internals.map_inline(once, lambda _, record: record)
        example = tf_internals.map_inline(
            record, lambda s: (tf.io.parse_single_example(s, spec), _WHOLE)
        )
        unparsed = tf_internals.map_inline(record, lambda s: (blank, _NO_EXAMPLE))
        unread = tf.data.Dataset.from_tensors((blank, _UNREADABLE))
        return example.ignore_errors().concatenate(unparsed).concatenate(unread).take(1)

    found = tf_internals.flat_map(tf.data.Dataset.from_tensor_slices(places), parse_one)
    return found.batch(places[-1].shape[0], drop_remainder=True)


def assert_sound(table: Table, clips: tf.Tensor, problem: tf.Tensor) -> tf.Operation:
    """Fail inside a graph with shard, record and problem of those that have one.

    Raises (when run):
      tf.errors.InvalidArgumentError: naming up to five.
    """
    bad = problem != ""
    named = tf.boolean_mask(_named(table, clips, problem), bad)
    return tf.debugging.Assert(~tf.reduce_any(bad), [named], summarize=5)


def read_all(
    table: Table, wanted: Wanted, num_threads: int
) -> tuple[dict[str, tf.Tensor], np.ndarray, list[str]]:
    """Read every record of a table.

    Returns:
      The bytes of each array wanted, string `[N]`; whether each record is sound, bool `[N]`; and
      shard, record and problem of those that are not.
    """
    # Parts of one size; what the last one lacks is read as the last record, and not returned.
    places = np.arange(-(-len(table) // _READ_AT_ONCE) * _READ_AT_ONCE, dtype=np.int32)
    places = np.minimum(places, len(table) - 1).reshape(-1, _READ_AT_ONCE)

    def read(clips: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        contents, problem = read_examples(table, clips, wanted)
        return contents, problem, _named(table, clips, problem)

    dataset = tf.data.Dataset.from_tensor_slices(places)
    parts = list(tf_internals.parallel_map(dataset, read, num_threads))
    contents = {
        name: tf.concat([part[0][name] for part in parts], axis=0)[: len(table)] for name in wanted
    }
    sound = np.concatenate([part[1].numpy() == b"" for part in parts])[: len(table)]
    named = np.concatenate([part[2].numpy() for part in parts])[: len(table)]
    return contents, sound, [words.decode() for words in named[~sound]]


def _named(table: Table, clips: tf.Tensor, problem: tf.Tensor) -> tf.Tensor:
    example_ids = tf.gather(table.example_ids, clips)
    return tf.strings.join([_paths(table, clips), ": record ", example_ids, ": ", problem])


def _paths(table: Table, clips: tf.Tensor) -> tf.Tensor:
    return tf.gather(table.paths, tf.gather(table.shards, clips))
