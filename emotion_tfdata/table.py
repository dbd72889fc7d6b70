"""The clips of a split, as a table: what they are, and where in the data set's files they stand."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from emotion_tfdata.labels import class_index, class_names
from emotion_tfdata.manifest import Manifest

_SPLITS = ("train", "validation", "test", "all")


@dataclasses.dataclass(frozen=True)
class Table:
    """The clips of one split, one entry each in every array but `paths`, in the manifest's order.

    Attributes:
      example_ids: UTF-8 bytes `[N]`.
      keys: int64 `[N]`, what everything drawn for the clip hangs on.
      labels: int32 `[N]`, class indices.
      audio_frames: int32 `[N]`.
      landmarks_frames: int32 `[N]`.
      shards: int32 `[N]`, places in `paths`.
      offsets: int64 `[N]`, in bytes.
      lengths: int64 `[N]`, of the payload in bytes.
      places: int64 `[N]`, of the clips in the data set's index.
      paths: text `[S]`, of all shards.
    """

    example_ids: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    audio_frames: np.ndarray
    landmarks_frames: np.ndarray
    shards: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.example_ids)

    def frames(self, modality: str) -> np.ndarray:
        """Rows of `audio` or of `landmarks`, int32 `[N]`."""
        return self.audio_frames if modality == "audio" else self.landmarks_frames

    def only(self, kept: np.ndarray) -> Table:
        """The entries that `kept`, bool `[N]`, is true for."""
        columns = {field.name for field in dataclasses.fields(self)} - {"paths"}
        return dataclasses.replace(self, **{name: getattr(self, name)[kept] for name in columns})


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
    class_names(num_classes)
    if num_classes > manifest.num_classes:
        raise ValueError(
            f"num_classes={num_classes}, but {data_dir} was built with --num_classes="
            f"{manifest.num_classes}, which left the other emotions out; build it again with more"
        )
    index = manifest.index
    labels = class_of_emotions(manifest, num_classes)[index.emotions]
    places = np.flatnonzero(np.isin(manifest.folds(protocol), list(folds)) & (labels >= 0))
    if not len(places):
        raise ValueError(
            f"{data_dir}: no clip in {protocol} fold(s) {', '.join(map(str, folds))}"
            + (
                "; it has fewer actors than folds: build with a smaller --num_folds, or choose "
                "another fold"
                if protocol == "actor"
                else ""
            )
        )
    none = np.zeros(len(index), np.int32)
    return Table(
        example_ids=index.example_ids[places],
        keys=index.keys[places],
        labels=labels[places],
        audio_frames=index.frames.get("audio", none)[places],
        landmarks_frames=index.frames.get("landmarks", none)[places],
        shards=index.shards[places],
        offsets=index.offsets[places],
        lengths=index.lengths[places],
        places=places,
        paths=np.array([os.path.join(data_dir, shard.name) for shard in manifest.shards]),
    )


def class_of_emotions(manifest: Manifest, num_classes: int) -> np.ndarray:
    """Class index of each name in the index's `emotion_names`, int32; -1 for those without."""
    classes = [class_index(name, num_classes) for name in manifest.index.emotion_names]
    return np.array([-1 if index is None else index for index in classes], np.int32)


def places_of(table: Table, example_ids: Sequence[str]) -> np.ndarray:
    """Where in a table some clips are, bool `[N]`.

    Raises:
      ValueError: for ids that it does not have.
    """
    wanted = np.array([example_id.encode() for example_id in set(example_ids)])
    missing = np.sort(wanted[~np.isin(wanted, table.example_ids)])
    if len(missing):
        few = b", ".join(missing[:5]).decode()
        raise ValueError(
            f"not in this split: {few}{' ...' if len(missing) > 5 else ''}; "
            f"its ids look like {table.example_ids[0].decode()}"
        )
    return np.isin(table.example_ids, wanted)
