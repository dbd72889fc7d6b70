"""Which clips are trained on, selected on and held out, and the streams of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from emotion_tfdata.dataset.index import Index, Record
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.storage import load_manifest
from emotion_tfdata.dataset.table import filled_folds, labels_of
from emotion_tfdata.features import MODALITIES, Features, Reading
from emotion_tfdata.training.settings import Settings


class DataError(ValueError):
    """A data set that this training cannot be done with."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of a data set's clips.

    Attributes:
      split: what `make_dataset` calls it.
      folds: that it is made of.
      index: of the data set.
      places: of its clips that have a class, in the index.
    """

    split: str
    folds: tuple[int, ...]
    index: Index
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @property
    def records(self) -> list[Record]:
        """The index's entries of the part's clips."""
        return [self.index.record(place) for place in self.places]

    @property
    def actors(self) -> list[str]:
        """The `corpus/actor` of everyone in the part, sorted."""
        actors = self.index.actor_keys
        return sorted("/".join(actors[code]) for code in np.unique(self.index.actors[self.places]))

    def about(self) -> dict[str, Any]:
        """Return clips, folds and actors, for the report."""
        return {
            "clips": len(self),
            "folds": list(self.folds),
            "num_actors": len(self.actors),
            "actors": self.actors,
        }


class Data:
    """A data set as one training sees it."""

    def __init__(
        self,
        data_dir: str,
        settings: Settings,
        num_threads: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Read the manifest and deal the folds.

        Args:
          data_dir: the data set.
          settings: of the training.
          num_threads: that read and augment; None for one a core.
          shard: (index, count), which of so many workers reads; the streams have its rows of every
            batch.

        Raises:
          ManifestError: if there is no data set.
          DataError: if it lacks what the settings ask for.
        """
        self.data_dir = data_dir
        self.settings = settings
        self.manifest = load_manifest(data_dir)
        self._num_threads = num_threads
        self._shard = shard
        self.validation_fold: int | None = None
        # Where the training's stream was made from last, and the stream.
        self._made: tuple[tuple[int, int] | None, Any] = (None, None)
        check_settings(self.manifest, data_dir, settings)

        try:
            self.deal = self.manifest.deal(settings.protocol)
            if settings.fold >= self.deal.num_folds:
                raise ValueError(
                    f"--fold={settings.fold}: protocol {settings.protocol} has folds 0 to "
                    f"{self.deal.num_folds - 1}"
                )
            filled = map(str, filled_folds(self.manifest, self.deal, settings.corpora))
            self._labels = labels_of(self.manifest, data_dir, self._hard)
            self.held_out = self._part("test")
        except ValueError as error:
            raise DataError(f"{data_dir}: {error}") from error
        if not len(self.held_out):
            raise DataError(
                f"{data_dir}: fold {settings.fold} of {self.deal.num_folds} ({settings.protocol} "
                f"protocol) holds no clip; folds with clips: {', '.join(filled) or 'none'}"
            )
        if settings.select_on == "inner":
            self.validation_fold = self._inner_fold()
        self.train = self._part("train")
        self.selection: Part | None = None
        if settings.select_on != "none":
            self.selection = self._part("validation") if self._has_inner else self.held_out
        if not len(self.train):
            raise DataError(
                f"{data_dir}: nothing is left to train on beside fold {settings.fold}. Use a "
                f"larger data set, or {self._way_out(False)}"
            )
        self._check_classes()

    @property
    def train_cells(self) -> np.ndarray:
        """Which cells of the deal are trained on; their statistics scale the features."""
        return self._cells("train")

    @property
    def ties(self) -> int:
        """How many clips are unused because their raters tied."""
        parts = ("train", "validation", "test") if self._has_inner else ("train", "test")
        cells = np.any([self._cells(split) for split in parts], axis=0)
        features = dataclasses.replace(self.settings.features, labels="intended")
        intended = labels_of(self.manifest, self.data_dir, features)
        there = cells[self.manifest.cells(self.deal)]
        return int(np.sum(there & (intended >= 0) & (self._labels < 0)))

    @property
    def _has_inner(self) -> bool:
        return self.validation_fold is not None

    @property
    def _hard(self) -> Features:
        """The features, labelled by what predictions are compared with: intended beside votes."""
        features = self.settings.features
        if features.labels != "votes":
            return features
        return dataclasses.replace(features, labels="intended")

    def _cells(self, split: str) -> np.ndarray:
        settings = self.settings
        return self.deal.part(split, settings.fold, self.validation_fold, settings.corpora)

    def _part(self, split: str) -> Part:
        cells = self._cells(split)
        places = np.flatnonzero(cells[self.manifest.cells(self.deal)] & (self._labels >= 0))
        folds = tuple(np.unique(self.deal.folds[cells]).tolist())
        return Part(split, folds, self.manifest.index, places)

    def _inner_fold(self) -> int:
        """Choose the next fold that can be selected on and leaves something to train on."""
        count, filled = self.deal.num_validation_folds, 0
        for step in range(count):
            self.validation_fold = (self.settings.fold + 1 + step) % count
            is_same = self.deal.validation_folds is self.deal.folds
            if is_same and self.validation_fold == self.settings.fold:
                continue
            if len(self._part("validation")):
                filled += 1
                if len(self._part("train")):
                    return self.validation_fold
        raise DataError(
            f"{self.data_dir}: --select_on=inner needs three folds with clips (to train on, to "
            f"select on, to hold out), here are {filled + 1}. Use a larger data set, or "
            f"{self._way_out(bool(filled))}"
        )

    def training_batches(self, epoch: int, start_batch: int) -> tuple[Any, int]:
        """Return the training part's batches from one of an epoch to the end of the last epoch.

        Returns:
          A `tf.data.Dataset`, and how many batches each epoch has.

        Raises:
          DataError: for settings that do not suit the data set.
        """
        place = epoch, start_batch
        if place != self._made[0]:
            self._made = place, self._training_batches(epoch, start_batch)
        return self._made[1]

    def _training_batches(self, epoch: int, start_batch: int) -> tuple[Any, int]:
        from emotion_tfdata.stream.batching import num_batches

        settings = self.settings
        dataset = self._dataset(
            self.train,
            settings.features,
            augment=settings.augment,
            shuffle=True,
            num_epochs=settings.epochs - epoch,
            start_epoch=epoch,
            start_batch=start_batch,
        )
        return dataset, num_batches(len(self.train), settings.augment, settings.batch_size)

    def batches_of(self, part: Part, num_epochs: int | None = 1) -> Any:
        """Return a part's clips as they are, each once an epoch, in the data set's order."""
        options: dict[str, Any] = {"augment": None, "shuffle": False, "num_epochs": num_epochs}
        return self._dataset(part, self._hard, **options)

    @property
    def calibration(self) -> Part | None:
        """What probabilities are calibrated on: the fold selected on, if it is a further one."""
        return self.selection if self.settings.select_on == "inner" else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.manifest.class_names(self.settings.features.num_classes)

    def class_weights(self) -> np.ndarray:
        """Return the weight of each class in the loss, float32 `[C]`.

        `balanced`: clips / (classes * clips of the class), over the training part, so that the mean
        weight of a clip is 1.
        """
        from emotion_tfdata.stream.pipeline import class_weights

        settings = self.settings
        if settings.class_weights == "none":
            return np.ones(len(self.class_names), np.float32)
        return class_weights(self.data_dir, features=settings.features, **self._held_out)

    @property
    def _held_out(self) -> dict[str, Any]:
        """Who is held out, as arguments of `make_dataset`."""
        return {
            "fold": self.settings.fold,
            "validation_fold": self.validation_fold,
            "protocol": self.settings.protocol,
            "corpora": self.settings.corpora,
        }

    def _dataset(self, part: Part, features: Features, **options: Any) -> Any:
        from emotion_tfdata.stream.pipeline import make_dataset

        settings = self.settings
        try:
            return make_dataset(
                self.data_dir,
                part.split,
                batch_size=settings.batch_size,
                seed=settings.seed,
                features=dataclasses.replace(features, with_ids=True),
                reading=Reading(num_threads=self._num_threads, shard=self._shard),
                **self._held_out,
                **options,
            )
        except ValueError as error:
            if type(error) is not ValueError:  # one that says itself what it is of
                raise
            raise DataError(f"{self.data_dir} cannot be served so: {error}") from error

    def _way_out(self, can_select_on_held_out: bool) -> str:
        """Say what helps a data set of few folds, and what is wrong with it."""
        if can_select_on_held_out:
            return "--select_on=held_out, which flatters the figures"
        if self.settings.protocol == "random":
            return "build it with fewer folds (--num_folds)"
        return "--protocol=random, which trains on the actors it tests on (leaky)"

    def _check_classes(self) -> None:
        names = self.class_names
        counts = np.bincount(self._labels[self.train.places], minlength=len(names))
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing:
            raise DataError(
                f"{self.data_dir}: no clip of {', '.join(missing)} is left to train on, in folds "
                f"{', '.join(map(str, self.train.folds))}"
            )


def check_settings(manifest: Manifest, data_dir: str, settings: Settings) -> None:
    """Check that a data set has what a training asks for.

    Raises:
      DataError: if it has not; the message says what there is.
    """
    features, built = settings.features, [*manifest.modalities]
    missing = [name for name in MODALITIES[features.modalities or "both"] if name not in built]
    if missing:
        raise DataError(
            f"{data_dir} was built without {' and '.join(missing)}; it has "
            f"{' and '.join(built)}: use --modalities={built[0]}"
        )
    try:
        manifest.class_names(features.num_classes)
    except ValueError as error:
        raise DataError(f"{data_dir}: {error}") from error


def with_ids_apart(batches: Iterable[Any]) -> Iterator[tuple[dict[str, Any], Any, list[str]]]:
    """Take the ids out of the features: yield features, labels, ids."""
    for features, labels in batches:
        ids = [example_id.decode() for example_id in features.pop("example_id").numpy()]
        yield features, labels, ids
