"""Records by their place: the manifest says where each one stands, so any one is read alone.

Reading by (shard, offset, length) costs a third more than reading a shard from end to end, and buys
an exact shuffle of the whole set, a start at any batch without reading what is skipped, and a
corrupt record that takes no other with it. TFRecord's own checksums are checked on every read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops  # a dataset from a raw op has no public door

from emotion_tfdata.schema import ARRAY_FEATURES
from emotion_tfdata.table import Table

_HEADER_BYTES, _FOOTER_BYTES = 12, 4  # TFRecord: length and its checksum; the content's checksum
_WHOLE, _NO_EXAMPLE, _UNREADABLE = 0, 1, 2
_READ_AT_ONCE = 32

# Arrays wanted: name -> (modality whose frames it has, sizes beyond the frames).
Wanted = Mapping[str, tuple[str, tuple[int, ...]]]


class CorruptDataError(ValueError):
    """A data set whose files are not what its manifest says."""


def read_examples(
    table: Table, clips: tf.Tensor, wanted: Wanted
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Reads and parses records, and compares them with the manifest. For use inside a graph.

    Args:
      table: of the split.
      clips: int32 `[B]`, which of its entries.
      wanted: the arrays wanted.

    Returns:
      The bytes of each array, string `[B]`, and what is wrong with each record, string `[B]`: it is
      cut short or does not match its checksum, is no `tf.train.Example` with these arrays, is
      another one than the manifest says, or has an array of another shape; empty if nothing is.
      Without the last, the bytes of an array are as many as its shape needs.
    """
    spec: dict[str, tf.io.FixedLenFeature] = {"example_id": tf.io.FixedLenFeature([], tf.string)}
    for name, (_, sizes) in wanted.items():
        spec[name] = tf.io.FixedLenFeature([], tf.string)
        spec[f"{name}_shape"] = tf.io.FixedLenFeature([1 + len(sizes)], tf.int64)
    blank = {name: tf.zeros(feature.shape, feature.dtype) for name, feature in spec.items()}

    def read_one(path: tf.Tensor, offset: tf.Tensor, length: tf.Tensor) -> tf.data.Dataset:
        from_here = dataset_ops._VariantDataset(
            tf.raw_ops.TFRecordDatasetV2(
                filenames=path[None],
                compression_type="",
                buffer_size=length + _HEADER_BYTES + _FOOTER_BYTES,
                byte_offsets=offset[None],
            ),
            tf.TensorSpec([], tf.string),
        )
        # An error ends this record's own data set and no other; a stand-in then tells which it was.
        record = from_here.take(1).ignore_errors()
        example = record.map(lambda s: (tf.io.parse_single_example(s, spec), _WHOLE))
        unparsed = record.map(lambda s: (blank, _NO_EXAMPLE))
        unread = tf.data.Dataset.from_tensors((blank, _UNREADABLE))
        return example.ignore_errors().concatenate(unparsed).concatenate(unread).take(1)

    places = [tf.gather(values, clips) for values in (table.paths, table.offsets, table.lengths)]
    records = tf.data.Dataset.from_tensor_slices(tuple(places)).flat_map(read_one)
    parsed, state = records.batch(tf.size(clips, tf.int64)).get_single_element()

    problems = [
        (state == _UNREADABLE, "cut short, or its bytes do not match their checksum"),
        (state == _NO_EXAMPLE, f"no tf.train.Example that has {', '.join(spec)}"),
        (parsed["example_id"] != tf.gather(table.example_ids, clips), "holds another record"),
    ]
    for name, (modality, sizes) in wanted.items():
        frames = tf.gather(table.frames(modality), clips)
        rest = tf.tile(np.array(sizes, np.int32)[None, :], [tf.size(clips), 1])
        shape = tf.concat([frames[:, None], rest], axis=1)
        same = tf.reduce_all(parsed[f"{name}_shape"] == tf.cast(shape, tf.int64), axis=1)
        problems.append((~same, f"{name} has another shape than the manifest says"))
        length = tf.reduce_prod(shape, axis=1) * ARRAY_FEATURES[name].dtype.itemsize
        fits = tf.strings.length(parsed[name]) == length
        problems.append((~fits, f"{name} does not have the bytes its shape needs"))
    problem = tf.fill(tf.shape(clips), "")
    for holds, words in reversed(problems):  # the first that holds explains the others
        problem = tf.where(holds, words, problem)
    contents = {name: tf.ensure_shape(parsed[name], [None]) for name in wanted}
    return contents, tf.ensure_shape(problem, [None])


def assert_sound(table: Table, clips: tf.Tensor, problem: tf.Tensor) -> tf.Operation:
    """Fails with shard, record and problem of those that have one. For use inside a graph.

    Raises (when run):
      tf.errors.InvalidArgumentError: naming up to five.
    """
    bad = problem != ""
    named = _named(table, tf.boolean_mask(clips, bad), tf.boolean_mask(problem, bad))
    return tf.debugging.Assert(~tf.reduce_any(bad), [named], summarize=5)


def read_all(
    table: Table, wanted: Wanted, num_threads: int
) -> tuple[dict[str, tf.Tensor], np.ndarray, list[str]]:
    """Reads every record of a table.

    Returns:
      The bytes of each array wanted, string `[N]`; whether each record is sound, bool `[N]`; and
      shard, record and problem of those that are not.
    """
    places = tf.data.Dataset.range(len(table), output_type=tf.int32).batch(_READ_AT_ONCE)

    def read(clips: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        contents, problem = read_examples(table, clips, wanted)
        return contents, problem, _named(table, clips, problem)

    parts = list(places.map(read, num_parallel_calls=num_threads))
    contents = {name: tf.concat([part[0][name] for part in parts], axis=0) for name in wanted}
    sound = np.concatenate([part[1].numpy() == b"" for part in parts])
    named = np.concatenate([part[2].numpy() for part in parts])
    return contents, sound, [words.decode() for words in named[~sound]]


def _named(table: Table, clips: tf.Tensor, problem: tf.Tensor) -> tf.Tensor:
    paths, example_ids = tf.gather(table.paths, clips), tf.gather(table.example_ids, clips)
    return tf.strings.join([paths, ": record ", example_ids, ": ", problem])
