"""The clips of a split, as a table: what they are, and where in the data set's files they stand."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from emotion_tfdata.dataset import raters
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.protocols import Corpora, Deal, sides
from emotion_tfdata.dataset.timebase import RATES_HZ
from emotion_tfdata.features import Features
from emotion_tfdata.labels import class_index


@dataclasses.dataclass(frozen=True)
class Table:
    """The clips of one split, one entry each in every array but `paths`, in the manifest's order.

    Attributes:
      example_ids: UTF-8 bytes `[N]`.
      keys: int64 `[N]`, what everything drawn for the clip hangs on.
      labels: int32 `[N]`, class indices, or float32 `[N, C]`, shares of the classes.
      audio_frames: int32 `[N]`.
      landmarks_frames: int32 `[N]`.
      shards: int32 `[N]`, places in `paths`.
      offsets: int64 `[N]`, in bytes.
      lengths: int64 `[N]`, of the payload in bytes.
      places: int64 `[N]`, of the clips in the data set's index.
      paths: text `[S]`, of all shards.
      rates_hz: frames a second of each modality.
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
    rates_hz: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(RATES_HZ))

    def __len__(self) -> int:
        return len(self.example_ids)

    def frames(self, modality: str) -> np.ndarray:
        """Return the number of rows of `audio` or of `landmarks`, int32 `[N]`."""
        return self.audio_frames if modality == "audio" else self.landmarks_frames

    def only(self, kept: np.ndarray) -> Table:
        """Return the entries for which `kept`, bool `[N]`, is true."""
        columns = {field.name for field in dataclasses.fields(self)} - {"paths", "rates_hz"}
        return dataclasses.replace(self, **{name: getattr(self, name)[kept] for name in columns})


def select(
    manifest: Manifest,
    data_dir: str,
    deal: Deal,
    cells: np.ndarray,
    features: Features,
    example_ids: Sequence[str] | None = None,
) -> Table:
    """Select the clips of some of a deal's cells that have a label.

    Args:
      manifest: of the data set.
      data_dir: its folder.
      deal: its clips, dealt.
      cells: bool `[K]`, those chosen.
      features: says which label, of how many classes.
      example_ids: only these of them; None for all.

    Raises:
      ValueError: for a number of classes or labels the data set was not built for, a choice that
        no clip is left of, or ids that are not in it.
    """
    index = manifest.index
    wanted = labels_of(manifest, data_dir, features)
    labelled = wanted >= 0 if wanted.ndim == 1 else wanted.any(axis=1)
    places = np.flatnonzero(cells[manifest.cells(deal)] & labelled)
    if not len(places):
        filled = ", ".join(map(str, filled_folds(manifest, deal)))
        raise ValueError(
            f"{data_dir}: no clip is in this split, of these corpora and classes; folds of "
            f"protocol {deal.protocol.name} with clips: {filled}"
        )
    none = np.zeros(len(index), np.int32)
    table = Table(
        example_ids=index.example_ids[places],
        keys=index.keys[places],
        labels=wanted[places],
        audio_frames=index.frames.get("audio", none)[places],
        landmarks_frames=index.frames.get("landmarks", none)[places],
        shards=index.shards[places],
        offsets=index.offsets[places],
        lengths=index.lengths[places],
        places=places,
        paths=np.array([os.path.join(data_dir, shard.name) for shard in manifest.shards]),
        rates_hz={**RATES_HZ, **{name: of.rate_hz for name, of in manifest.modalities.items()}},
    )
    return table if example_ids is None else table.only(_places_of(table, example_ids))


def labels_of(manifest: Manifest, data_dir: str, features: Features) -> np.ndarray:
    """Return the label of every record of a data set.

    Returns:
      int32 `[N]`, -1 for those that have none: of an emotion without a class, or tied among raters.
      Where `features.labels` is `"votes"` float32 `[N, C]`, zero for those.

    Raises:
      ValueError: for other classes than were built, or raters' labels where there are no raters.
    """
    index = manifest.index
    try:
        names = manifest.class_names(features.num_classes)
    except ValueError as error:
        raise ValueError(f"{data_dir}: {error}") from error
    classes = [class_index(name, names) for name in index.emotion_names]
    by_emotion = np.array([-1 if label is None else label for label in classes], np.int32)
    intended = by_emotion[index.emotions]
    if features.labels == "intended":
        return intended
    if raters.RATED not in index.corpus_names:
        raise ValueError(
            f"labels={features.labels!r} needs clips of {raters.RATED}, which alone have raters; "
            f"{data_dir} has {', '.join(index.corpus_names)}"
        )
    chosen = features.chosen([*manifest.modalities], data_dir)
    modalities = "both" if len(chosen) > 1 else chosen[0]
    ids = [example_id.decode() for example_id in index.example_ids.tolist()]
    targets = raters.targets(features.labels, ids, np.maximum(intended, 0), modalities, names)
    targets[intended < 0] = -1 if targets.ndim == 1 else 0
    return targets


def filled_folds(manifest: Manifest, deal: Deal, corpora: Corpora = None) -> list[int]:
    """Return the folds that hold a clip to test on."""
    _, tested = sides(corpora)
    there = np.bincount(manifest.cells(deal), minlength=len(deal.cells)) > 0
    of = [tested is None or corpus in tested for corpus, _ in deal.cells]
    return np.unique(deal.folds[there & (deal.folds >= 0) & np.array(of)]).tolist()


def _places_of(table: Table, example_ids: Sequence[str]) -> np.ndarray:
    """Return where in a table some clips are, bool `[N]`.

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
