"""A data set as a sequence of numpy arrays, for loops and frameworks without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from emotion_tfdata.dataset import schema, storage, tfrecord
from emotion_tfdata.dataset import table as table_lib
from emotion_tfdata.dataset.protocols import Corpora
from emotion_tfdata.dataset.tfrecord import CorruptDataError
from emotion_tfdata.features import META, Features
from emotion_tfdata.stream.scaling import Scaling, make_scaling

Clip = dict[str, Any]


class Records(Sequence[Clip]):
    """The clips of a split, one by one, as `make_dataset` serves them without augmentation.

    Holds no open file and can be pickled, so workers of a `torch.utils.data.DataLoader` read side
    by side.

    A clip is a dict: `audio` float32 `[Ta, M]` at 100 frames/s, `audio_mask` bool `[Ta]`,
    `landmarks` float32 `[Tv, L, 3]` at 30 frames/s, `landmarks_mask` bool `[Tv]`, those of the
    modalities chosen; `head` float32 `[Tv, 4]`, `example_id`, `corpus`, `actor`, `intensity` and
    `sentence` (texts) if `features` asks for them; `label` int, the class, or with votes
    float32 `[C]`. What the masks leave out is zero.

    Attributes:
      labels: int32 `[N]`, class indices, or float32 `[N, C]` with votes.
      class_names: of the class indices.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        *,
        fold: int = 0,
        validation_fold: int | None = None,
        protocol: str = "actor",
        corpora: Corpora = None,
        example_ids: Sequence[str] | None = None,
        features: Features = Features(),  # noqa: B008 (frozen)
    ) -> None:
        """Read the manifest and the index; `make_dataset` explains the arguments.

        What lies behind a URL is fetched into the cache folder first.

        Raises:
          manifest.ManifestError: if the folder holds no data set, or damaged files beside the
            manifest.
          storage.StorageError: for a place that cannot be read with what is installed.
          ValueError: for an argument that is not allowed or does not suit the data set.
        """
        data_dir = os.fspath(data_dir)
        data = storage.open_data_set(data_dir, with_tensorflow=False)
        manifest = data.manifest
        deal = manifest.deal(protocol)
        train, cells = (
            deal.part(each, fold, validation_fold, corpora) for each in ("train", split)
        )
        table = table_lib.select(manifest, data_dir, deal, cells, features, example_ids)
        self._scalings: dict[str, tuple[Scaling, tuple[int, ...]]] = {
            modality: make_scaling(manifest, modality, deal, train, features)
            for modality in features.chosen([*manifest.modalities], data_dir)
        }
        self._modalities = manifest.modalities
        self._features = features
        self._table = data.fetch(table)
        self.labels = table.labels
        self.class_names = manifest.class_names(features.num_classes)

    @property
    def example_ids(self) -> list[str]:
        """The ids of all clips, in order."""
        return [example_id.decode() for example_id in self._table.example_ids.tolist()]

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, place: int) -> Clip: ...
    @overload
    def __getitem__(self, place: slice) -> list[Clip]: ...
    def __getitem__(self, place: int | slice) -> Clip | list[Clip]:
        """Return one clip, or a list of them.

        Raises:
          CorruptDataError: for a record that is missing, cut short, or not the one that the index
            states; it names shard and record.
        """
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]
        example = self._read(index)
        clip: Clip = {}
        for modality, (scaling, indices) in self._scalings.items():
            clip[modality], clip[f"{modality}_mask"] = self._serve(
                example, modality, scaling, indices
            )
        if self._features.head:
            clip["head"] = np.where(example.landmarks_valid[:, None], example.head, np.float32(0))
        names = (("example_id",) if self._features.with_ids else ()) + (
            META if self._features.with_meta else ()
        )
        clip |= {name: getattr(example, name) for name in names}
        label = self.labels[index]
        clip["label"] = label if label.ndim else int(label)
        return clip

    def _read(self, index: int) -> schema.Example:
        table = self._table
        path, example_id = table.paths[table.shards[index]], table.example_ids[index].decode()
        try:
            with open(path, "rb") as file:
                payload = tfrecord.read_record(
                    file, int(table.offsets[index]), int(table.lengths[index])
                )
            example = schema.decode(payload, example_id, self._modalities)
            if example.example_id != example_id:
                raise ValueError(f"holds another record, {example.example_id}")
            for modality in self._scalings:
                rows = len(getattr(example, modality))
                if rows != (wanted := table.frames(modality)[index]):
                    raise ValueError(f"{modality} has {rows} rows, the index says {wanted}")
        except (OSError, ValueError) as error:
            raise CorruptDataError(f"{path}: record {example_id}: {error}") from error
        return example

    def _serve(
        self, example: schema.Example, modality: str, scaling: Scaling, indices: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one modality, float32 `[T, ...]`, and which rows hold something, bool `[T]`."""
        series = getattr(example, modality)
        features, step = self._features, np.float32(self._modalities[modality].array.step or 1.0)
        if f"{modality}_valid" in self._modalities[modality].beside:
            mask = getattr(example, f"{modality}_valid")
        else:
            mask = np.ones(len(series), bool)
        if modality == "audio" and features.trim_silence_db is not None and mask.any():
            loudest = series.max(axis=1)
            loud = np.flatnonzero(loudest >= loudest.max() - features.trim_silence_db)
            mask = np.zeros(len(series), bool)
            mask[loud[0] : loud[-1] + 1] = True
        if indices:
            series = series[:, list(indices)]
        shape = series.shape
        # `step` is a power of two: the units as they are stored, exactly.
        series = series.reshape(len(series), -1) / step
        if modality == "audio" and features.relative_level and mask.any():
            series = series - np.float32(series[mask].mean(dtype=np.float64))
        series = series * scaling.gain + scaling.offset
        series[~mask] = 0
        return series.reshape(shape), mask
