"""What a data set holds: shards and their checksums, records and where they stand, statistics.

The manifest is written last, by rename. A folder without one is not a data set, whatever shards lie
in it: TFRecord itself cannot tell a shard cut at a record's boundary from a whole one.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import numpy as np

from emotion_tfdata.splits import PROTOCOLS

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


class ManifestError(ValueError):
    """A data set's manifest that is missing, unreadable or of another format."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One clip's entry: its facts, its length, and where its bytes stand.

    Attributes:
      example_id, corpus, actor, emotion, intensity, sentence: as in the record itself.
      audio_frames: rows of `audio`, 0 without sound.
      landmarks_frames: rows of `landmarks`, 0 without a picture.
      faces_frames: how many of those rows have a face.
      random_fold: fold under the random protocol; the actor fold is the shard's.
      offset: where the record begins in its shard, in bytes, TFRecord's 12-byte header included.
      length: the record's payload in bytes, without TFRecord's 16 bytes of framing.
    """

    example_id: str
    corpus: str
    actor: str
    emotion: str
    intensity: str
    sentence: str
    audio_frames: int
    landmarks_frames: int
    faces_frames: int
    random_fold: int
    offset: int
    length: int

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Record:
        """From the JSON values of its fields; texts that records share are held once."""
        shared: dict[str, Any] = {
            name: sys.intern(value) if isinstance(value, str) else value
            for name, value in content.items()
        }
        return cls(**shared)


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """One file of records, all of one actor fold.

    Attributes:
      name: file name inside the data set.
      fold: actor fold of all its records.
      bytes: size of the file.
      sha256: of the whole file, in hex.
      records: in the file's order.
    """

    name: str
    fold: int
    bytes: int
    sha256: str
    records: tuple[Record, ...]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations, feature by feature: they add up over folds.

    Attributes:
      count: rows seen.
      mean: float64 `[...]`.
      m2: float64 `[...]`, sum of squared deviations from the mean.
    """

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def zero(cls, *shape: int) -> Moments:
        """Of no rows at all."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """Of `rows` `[N, ...]`, over the first axis."""
        rows = np.asarray(rows, np.float64)
        if not len(rows):
            return cls.zero(*rows.shape[1:])
        mean = rows.mean(axis=0)
        return cls(len(rows), mean, np.square(rows - mean).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        """Of both sets of rows. Chan, Golub and LeVeque 1979, equation 2.1."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count),
        )

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation (of the population), float64 `[...]`; zero for no rows."""
        return np.sqrt(self.m2 / max(self.count, 1))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A whole data set.

    Attributes:
      settings: every setting of the build that its bytes depend on.
      provenance: what figures made from this data must be called, e.g. 'drawn clips'; empty for
        real recordings.
      modalities: of `audio` and `landmarks`, those that were built.
      num_audio_features: `M` of the feature table.
      num_landmarks: `L` of the feature table.
      num_classes: 6 or 8: which emotions were kept.
      num_folds: how many folds either protocol has.
      shards: in order.
      statistics: protocol -> one mapping a fold, modality -> `Moments` of the fold's rows (of
        landmarks, the rows with a face), in dB and distances between the eyes.
      left_out: one mapping a clip that is not in the data set: `path`, `kind` and `reason`.
    """

    settings: Mapping[str, Any]
    provenance: str
    modalities: tuple[str, ...]
    num_audio_features: int
    num_landmarks: int
    num_classes: int
    num_folds: int
    shards: tuple[Shard, ...]
    statistics: Mapping[str, tuple[Mapping[str, Moments], ...]]
    left_out: tuple[Mapping[str, str], ...]

    @property
    def records(self) -> list[tuple[Shard, Record]]:
        """All records with their shards, in order."""
        return [(shard, record) for shard in self.shards for record in shard.records]

    def moments(self, modality: str, protocol: str, folds: Iterable[int]) -> Moments:
        """Moments of one modality over some folds of a protocol."""
        shape = (self.num_audio_features,) if modality == "audio" else (self.num_landmarks, 3)
        total = Moments.zero(*shape)
        for fold in sorted(folds):
            total = total + self.statistics[protocol][fold][modality]
        return total

    def check_statistics(self) -> None:
        """Checks what features are scaled by.

        Raises:
          ManifestError: unless every fold of either protocol has finite moments of the right shape.
        """
        shapes = {"audio": (self.num_audio_features,), "landmarks": (self.num_landmarks, 3)}
        for protocol in PROTOCOLS:
            folds = self.statistics.get(protocol, ())
            if len(folds) != self.num_folds:
                raise ManifestError(
                    f"{MANIFEST_NAME}: statistics of {len(folds)} {protocol} folds, not "
                    f"{self.num_folds}; build the data set again"
                )
            for fold, modality in itertools.product(range(self.num_folds), self.modalities):
                moments = folds[fold].get(modality, Moments.zero())
                for name in ("mean", "m2"):
                    values = getattr(moments, name)
                    if values.shape != shapes[modality] or not np.isfinite(values).all():
                        raise ManifestError(
                            f"{MANIFEST_NAME}: {name} of {modality} in {protocol} fold {fold} is "
                            f"not {shapes[modality]} finite numbers; build the data set again"
                        )

    def write_json(self, file: TextIO) -> None:
        """Writes the manifest as text; the same manifest gives the same text."""
        content = {"format": "emotion_tfdata", "version": FORMAT_VERSION, **vars(self)}
        # Entry by entry: the whole text at once would be most of a build's memory.
        json.dump(content, file, indent=1, default=_plain)
        file.write("\n")

    def to_json(self) -> str:
        """What `write_json` writes."""
        text = io.StringIO()
        self.write_json(text)
        return text.getvalue()

    @classmethod
    def from_json(cls, text: str, where: str = MANIFEST_NAME) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
          ManifestError: if it is not that; `where` names it.
        """
        try:
            content = json.loads(text)
            kind, version = content.pop("format"), content.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ManifestError(f"{where}: not a manifest of this library ({error!r})") from error
        if (kind, version) != ("emotion_tfdata", FORMAT_VERSION):
            raise ManifestError(
                f"{where}: format {kind!r} version {version!r}; this release reads version "
                f"{FORMAT_VERSION}. Build the data set again."
            )
        try:
            content["modalities"] = tuple(content["modalities"])
            content["left_out"] = tuple(content["left_out"])
            content["shards"] = tuple(
                Shard(**{**shard, "records": tuple(map(Record.of, shard["records"]))})
                for shard in content["shards"]
            )
            content["statistics"] = {
                protocol: tuple(
                    {
                        modality: Moments(m["count"], np.array(m["mean"]), np.array(m["m2"]))
                        for modality, m in fold.items()
                    }
                    for fold in folds
                )
                for protocol, folds in content["statistics"].items()
            }
            return cls(**content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ManifestError(f"{where}: a field is missing or malformed ({error!r})") from error

    def save(self, data_dir: str) -> None:
        """Writes the manifest, whole or not at all. Local folders only."""
        path = os.path.join(data_dir, MANIFEST_NAME)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                self.write_json(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)

    @classmethod
    def load(cls, data_dir: str) -> Manifest:
        """Reads a data set's manifest from a local folder.

        Raises:
          ManifestError: if there is none, or it cannot be read.
        """
        path = os.path.join(data_dir, MANIFEST_NAME)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError as error:
            missing = "holds no data set" if os.path.isdir(data_dir) else "does not exist"
            raise ManifestError(
                f"{data_dir} {missing} (no {MANIFEST_NAME}, which a build writes last). "
                f"Make one with: python -m preprocess.build_tfrecords --out_dir={data_dir} ..."
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path}: cannot be read ({error})") from error
        return cls.from_json(text, path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Shard | Record | Moments):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no place in a manifest")
