"""The clips of a split, as a table: what they are, and where in the data set's files they stand."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from emotion_tfdata import rng
from emotion_tfdata.labels import class_index, class_names
from emotion_tfdata.manifest import Manifest, Record, Shard
from emotion_tfdata.splits import PROTOCOLS

_SPLITS = ("train", "validation", "test", "all")


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

    def frames(self, modality: str) -> np.ndarray:
        """Rows of `audio` or of `landmarks`, int32 `[N]`."""
        return self.audio_frames if modality == "audio" else self.landmarks_frames

    def only(self, kept: np.ndarray) -> Table:
        """The entries that `kept`, bool `[N]`, is true for."""
        fields = dataclasses.fields(self)
        return Table(**{field.name: getattr(self, field.name)[kept] for field in fields})


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


def places_of(table: Table, example_ids: Sequence[str]) -> np.ndarray:
    """Where in a table some clips are, bool `[N]`.

    Raises:
      ValueError: for ids that it does not have.
    """
    missing = sorted(set(example_ids) - set(table.example_ids))
    if missing:
        raise ValueError(
            f"not in this split: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; "
            f"its ids look like {table.example_ids[0]}"
        )
    return np.isin(table.example_ids, list(example_ids))


def shard_problems(manifest: Manifest, data_dir: str) -> list[str]:
    """Compares the files with the manifest, by name and size: each difference, in words."""
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
    return problems
