"""Records by their place: the manifest says where each one stands, so any one is read alone.

Reading by (shard, offset, length) costs a third more than reading a shard from end to end, and buys
an exact shuffle of the whole set, a start at any batch without reading what is skipped, and a
corrupt record that takes no other with it. TFRecord's own checksums are checked on every read.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops  # a dataset from a raw op has no public door

from emotion_tfdata import rng
from emotion_tfdata.labels import class_index, class_names
from emotion_tfdata.manifest import Manifest, Record, Shard
from emotion_tfdata.schema import ARRAY_FEATURES
from emotion_tfdata.splits import PROTOCOLS

_HEADER_BYTES, _FOOTER_BYTES = 12, 4  # TFRecord: length and its checksum; the content's checksum
_WHOLE, _NO_EXAMPLE, _UNREADABLE = 0, 1, 2
_SPLITS = ("train", "validation", "test", "all")


class CorruptDataError(ValueError):
    """A data set whose files are not what its manifest says."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The clips of one split, one entry each in every array, in the manifest's order.

    Attributes:
      example_ids: text `[N]`.
      keys: int64 `[N]`, what everything drawn for the clip hangs on.
      labels: int32 `[N]`, class indices.
      audio_frames: int32 `[N]`.
      landmarks_frames: int32 `[N]`.
      paths: text `[N]`, the shard's path.
      offsets: int64 `[N]`, in bytes.
      lengths: int64 `[N]`, of the payload in bytes.
    """

    example_ids: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    audio_frames: np.ndarray
    landmarks_frames: np.ndarray
    paths: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.example_ids)


def split_folds(
    manifest: Manifest, split: str, fold: int, validation_fold: int | None
) -> tuple[int, ...]:
    """The folds that a split consists of.

    `test` is `fold`; `validation` is `validation_fold`, or `fold` where none is given; `train` is
    all but those two; `all` is everything.

    Raises:
      ValueError: for an unknown split or a fold that the data set does not have.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
    folds = range(manifest.num_folds)
    for name, value in (("fold", fold), ("validation_fold", validation_fold)):
        if value is not None and value not in folds:
            raise ValueError(
                f"{name} must be in 0..{manifest.num_folds - 1}, this data set's folds, got {value}"
            )
    if validation_fold == fold:
        raise ValueError(f"validation_fold must differ from fold, both are {fold}")
    if split == "test":
        return (fold,)
    if split == "validation":
        return (fold if validation_fold is None else validation_fold,)
    held_out = {fold, validation_fold} if split == "train" else set()
    return tuple(k for k in folds if k not in held_out)


def select(
    manifest: Manifest, data_dir: str, protocol: str, folds: Sequence[int], num_classes: int
) -> Table:
    """The clips of some folds that have a class, as a table.

    Raises:
      ValueError: for an unknown protocol, a number of classes the data set was not built for, or a
        choice that no clip is left of.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    class_names(num_classes)
    if num_classes > manifest.num_classes:
        raise ValueError(
            f"num_classes={num_classes}, but {data_dir} was built with --num_classes="
            f"{manifest.num_classes}, which left the other emotions out; build it again with more"
        )

    def fold_of(shard: Shard, record: Record) -> int:
        return shard.fold if protocol == "actor" else record.random_fold

    chosen = [
        (shard, record, label)
        for shard, record in manifest.records
        if fold_of(shard, record) in folds
        and (label := class_index(record.emotion, num_classes)) is not None
    ]
    if not chosen:
        raise ValueError(
            f"{data_dir}: no clip in {protocol} fold(s) {', '.join(map(str, folds))}"
            + (
                "; it has fewer actors than folds: build with a smaller --num_folds, or choose "
                "another fold"
                if protocol == "actor"
                else ""
            )
        )
    shards, records, labels = zip(*chosen, strict=True)
    return Table(
        example_ids=np.array([record.example_id for record in records]),
        keys=np.array([rng.example_key(record.example_id) for record in records], np.int64),
        labels=np.array(labels, np.int32),
        audio_frames=np.array([record.audio_frames for record in records], np.int32),
        landmarks_frames=np.array([record.landmarks_frames for record in records], np.int32),
        paths=np.array([os.path.join(data_dir, shard.name) for shard in shards]),
        offsets=np.array([record.offset for record in records], np.int64),
        lengths=np.array([record.length for record in records], np.int64),
    )


def check_shards(manifest: Manifest, data_dir: str) -> None:
    """Compares the files with the manifest before anything is read from them.

    Raises:
      CorruptDataError: naming every shard that is missing, of another size, or not in the manifest.
    """
    problems = []
    for shard in manifest.shards:
        path = os.path.join(data_dir, shard.name)
        if not tf.io.gfile.exists(path):
            problems.append(f"{shard.name} is missing")
        elif (size := tf.io.gfile.stat(path).length) != shard.bytes:
            problems.append(f"{shard.name} has {size} bytes, the manifest says {shard.bytes}")
    known = {shard.name for shard in manifest.shards}
    for name in sorted(tf.io.gfile.listdir(data_dir)):
        if ".tfrecord" in name and name not in known:
            problems.append(f"{name} is not in the manifest")
    if problems:
        raise CorruptDataError(f"{data_dir}: " + "; ".join(problems))


def read_examples(
    paths: tf.Tensor,
    offsets: tf.Tensor,
    lengths: tf.Tensor,
    example_ids: tf.Tensor,
    names: Sequence[str],
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Reads records at their places, and parses and checks them. For use inside a graph.

    Args:
      paths: string `[B]`.
      offsets: int64 `[B]`, of the record's header.
      lengths: int64 `[B]`, of the payload.
      example_ids: string `[B]`, what the records must be.
      names: arrays wanted, of `schema.ARRAY_FEATURES`.

    Returns:
      For each name its bytes, string `[B]`, and shapes, int64 `[B, rank]`.

    Raises (when run):
      tf.errors.InvalidArgumentError: naming shard, record and, where it is one, feature: a record
        cut short, one whose bytes do not match their checksum, one that is no `tf.train.Example`,
        another one than the manifest says, an array without the bytes its shape needs.
    """
    spec: dict[str, tf.io.FixedLenFeature] = {"example_id": tf.io.FixedLenFeature([], tf.string)}
    for name in names:
        rank = len(ARRAY_FEATURES[name].shape)
        spec[name] = tf.io.FixedLenFeature([], tf.string)
        spec[f"{name}_shape"] = tf.io.FixedLenFeature([rank], tf.int64)
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

    places = tf.data.Dataset.from_tensor_slices((paths, offsets, lengths))
    records = places.flat_map(read_one).batch(tf.size(paths, tf.int64))
    parsed, state = records.get_single_element()

    def check(holds: tf.Tensor, problem: str) -> tf.Operation:
        return _assert(holds, paths, example_ids, problem)

    checks = [
        check(state != _UNREADABLE, "cut short, or its bytes do not match their checksum"),
        check(state != _NO_EXAMPLE, f"no tf.train.Example that has {', '.join(spec)}"),
    ]
    with tf.control_dependencies(checks):
        checks = [check(parsed["example_id"] == example_ids, "holds another record")]
    for name in names:
        wanted = tf.reduce_prod(parsed[f"{name}_shape"], axis=1)
        length = tf.cast(tf.strings.length(parsed[name]), tf.int64)
        fits = length == wanted * ARRAY_FEATURES[name].dtype.itemsize
        checks.append(check(fits, f"{name} does not have the bytes its shape needs"))
    with tf.control_dependencies(checks):
        return {name: (tf.identity(parsed[name]), parsed[f"{name}_shape"]) for name in names}


def assert_shapes(
    shapes: tf.Tensor,
    frames: tf.Tensor,
    rest: Sequence[int],
    paths: tf.Tensor,
    example_ids: tf.Tensor,
    name: str,
) -> tf.Operation:
    """Asserts that arrays have the frames the manifest says, int32 `[B]`, and the further sizes."""
    fits = (shapes[:, 0] == tf.cast(frames, tf.int64)) & tf.reduce_all(
        shapes[:, 1:] == tf.constant(rest, tf.int64), axis=1
    )
    return _assert(fits, paths, example_ids, f"{name} has another shape than the manifest says")


def _assert(
    holds: tf.Tensor, paths: tf.Tensor, example_ids: tf.Tensor, problem: str
) -> tf.Operation:
    bad = ~holds
    named = tf.strings.join(
        [tf.boolean_mask(paths, bad), ": record ", tf.boolean_mask(example_ids, bad), ": ", problem]
    )
    return tf.debugging.Assert(tf.reduce_all(holds), [named], summarize=5)
