"""What a data set holds: its shards and their checksums, its records, the statistics of its rows.

`manifest.json` is small and for people too; the index of records and the statistics are numpy files
beside it, whose SHA-256 it states. It is written last, by rename. A folder without one is not a
data set, whatever shards lie in it: TFRecord itself cannot tell a shard cut at a record's boundary
from a whole one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emotion_tfdata.dataset import tfds
from emotion_tfdata.dataset.atomic_file import digest_of, replacing
from emotion_tfdata.dataset.index import Index, Record
from emotion_tfdata.dataset.protocols import Deal, deal
from emotion_tfdata.dataset.statistics import Actor, GroupSums, Moments, Statistics
from emotion_tfdata.labels import class_names

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.npz"
STATISTICS_NAME = "statistics.npz"
FORMAT = "emotion_tfdata"
FORMAT_VERSION = 2


class ManifestError(ValueError):
    """A data set's manifest that is missing, unreadable or of another format."""


@dataclasses.dataclass(frozen=True)
class Array:
    """How the rows of an array are stored.

    Attributes:
      shape: sizes beyond the frames.
      dtype: numpy's name of the stored number.
      step: what one unit of the stored whole number stands for; None where numbers are as they are.
      unit: of the values, in words.
    """

    shape: tuple[int, ...]
    dtype: str
    step: float | None
    unit: str


@dataclasses.dataclass(frozen=True)
class Modality:
    """One kind of series that every record has.

    Attributes:
      rate_hz: frames a second.
      array: its own, of the modality's name in a record.
      beside: further arrays of as many rows, by their names in a record. `<modality>_valid` says
        which rows hold something; without it all do.
      largest_error: of its values as they are stored, over all clips, in its unit; None where it is
        not known.
    """

    rate_hz: float
    array: Array
    beside: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    largest_error: float | None = None


@dataclasses.dataclass(frozen=True)
class File:
    """A file of the data set.

    Attributes:
      name: inside the data set's folder.
      bytes: its size.
      sha256: of its content, in hex.
    """

    name: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard(File):
    """One file of records.

    Attributes:
      records: how many.
    """

    records: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set holds, and how it was built.

    Attributes:
      provenance: what figures made from this data must be called, e.g. 'drawn clips'; empty for
        real recordings.
      classes: names of the emotions that were kept, in the order of their class indices.
      num_folds: how many folds either protocol has.
      modalities: by name, those that were built.
      settings: every setting of the build that its bytes depend on.
      shards: in order.
      skipped: one mapping a clip that is not in the data set: `path`, `kind` and `reason`.
      index: the records.
      statistics: of their rows, in the units of the modalities.
      processors: kinds of processors that the build ran on, as
        `preprocess.builder.processor` describes them; empty where it is not known.
      files: that lie beside the manifest: the index, the statistics, and what TensorFlow Datasets
        reads. Empty before it is saved.
      sha256: of `manifest.json`, and so of every byte of the data set. Empty before it is saved.
    """

    provenance: str
    classes: tuple[str, ...]
    num_folds: int
    modalities: Mapping[str, Modality]
    settings: Mapping[str, Any]
    shards: tuple[Shard, ...]
    skipped: tuple[Mapping[str, str], ...]
    index: Index
    statistics: Statistics
    processors: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    sha256: str = ""

    @classmethod
    def of(
        cls,
        records: Iterable[Sequence[Record]],
        actor_folds: Mapping[Actor, int],
        sums: GroupSums,
        **fields: Any,
    ) -> Manifest:
        """Make a manifest, with the index and the statistics computed.

        Args:
          records: of each shard.
          actor_folds: fold of every (corpus, actor).
          sums: over the records' rows.
          **fields: the others.
        """
        index = Index.of(records, actor_folds)
        shapes = {name: modality.array.shape for name, modality in fields["modalities"].items()}
        statistics = Statistics.of(
            sums, index.actor_keys, index.corpus_names, fields["num_folds"], shapes
        )
        return cls(**fields, index=index, statistics=statistics)

    @property
    def num_classes(self) -> int:
        """How many emotions were kept."""
        return len(self.classes)

    def class_names(self, num_classes: int | None = None) -> tuple[str, ...]:
        """Return the names of a task's classes, in the order of their indices.

        Args:
          num_classes: 6 where the data set was built with 8; None for all that it has.

        Raises:
          ValueError: if it was not built with them.
        """
        if num_classes is None:
            return self.classes
        names = class_names(num_classes)
        if self.classes[:num_classes] != names:
            raise ValueError(
                f"num_classes={num_classes}, but it was built with {self.num_classes} classes "
                f"({', '.join(self.classes)}), without the clips of others"
            )
        return names

    def check_log_mel(self, effect: str) -> None:
        """Refuse an effect that needs log-mel energies where the audio is something else.

        Raises:
          ValueError: if it is.
        """
        name = (self.settings.get("extractor") or {}).get("name", "logmel")
        if name != "logmel":
            raise ValueError(f"{effect} needs log-mel energies, and this data set has {name}")

    @property
    def num_audio_features(self) -> int:
        """`M` of the feature table; 0 without audio."""
        return self.modalities["audio"].array.shape[0] if "audio" in self.modalities else 0

    @property
    def num_landmarks(self) -> int:
        """`L` of the feature table, or the width of other face features; 0 without either."""
        return self.modalities["landmarks"].array.shape[0] if "landmarks" in self.modalities else 0

    def deal(self, protocol: str) -> Deal:
        """Deal the clips to folds by a protocol.

        Raises:
          ProtocolError: for an unknown protocol, or one that does not suit the data set.
        """
        actors = dict(zip(self.index.actor_keys, self.index.actor_folds.tolist(), strict=True))
        return deal(protocol, actors, self.num_folds)

    def cells(self, deal: Deal) -> np.ndarray:
        """Return which of a deal's cells each record is of, int64 `[N]`."""
        index = self.index
        return index.corpora * self.num_folds + index.random_folds if deal.by_clip else index.actors

    def folds(self, protocol: str) -> np.ndarray:
        """Return the fold of each record under a protocol, int64 `[N]`; -1 for those in none.

        Raises:
          ProtocolError: as `deal`.
        """
        dealt = self.deal(protocol)
        return dealt.folds[self.cells(dealt)]

    def moments(self, modality: str, protocol: str, folds: Iterable[int]) -> Moments:
        """Return the moments of one modality over some folds of a protocol.

        Raises:
          ProtocolError: as `deal`.
        """
        dealt = self.deal(protocol)
        return self.moments_of(modality, dealt, np.isin(dealt.folds, list(folds)))

    def moments_of(self, modality: str, deal: Deal, cells: np.ndarray) -> Moments:
        """Return the moments of one modality over some of a deal's cells, bool `[K]`."""
        if deal.by_clip:
            table = self.statistics.by_random_fold[modality]
            return table.total(cells.reshape(table.count.shape))
        return self.statistics.by_actor[modality].total(cells)

    def save(self, data_dir: str) -> Manifest:
        """Write the index, the statistics and, last, the manifest; each whole or not at all.

        Local folders only. The same manifest gives the same bytes.

        Returns:
          The manifest with its SHA-256.
        """
        files = tuple(
            _write(data_dir, name, functools.partial(_pack, of.to_arrays()))
            for name, of in ((INDEX_NAME, self.index), (STATISTICS_NAME, self.statistics))
        )
        for name, readable in tfds.contents(self.modalities, self.shards, self.provenance).items():
            files += (_write(data_dir, name, _writer_of(readable)),)
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "provenance": self.provenance,
            "classes": self.classes,
            "num_folds": self.num_folds,
            "modalities": {
                name: dataclasses.asdict(modality) for name, modality in self.modalities.items()
            },
            "settings": self.settings,
            "processors": self.processors,
            "files": [dataclasses.asdict(file) for file in files],
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "skipped": self.skipped,
        }
        text = json.dumps(content, indent=1) + "\n"
        file = _write(data_dir, MANIFEST_NAME, _writer_of(text.encode()))
        return dataclasses.replace(self, files=files, sha256=file.sha256)

    @classmethod
    def load(cls, data_dir: str) -> Manifest:
        """Read a data set's manifest from a local folder.

        Raises:
          ManifestError: if there is none, or it cannot be read.
        """

        def read(name: str) -> bytes:
            with open(os.path.join(data_dir, name), "rb") as file:
                return file.read()

        try:
            return cls.read(read, data_dir)
        except FileNotFoundError as error:
            if os.path.exists(os.path.join(data_dir, "build.json")):
                raise ManifestError(
                    f"{data_dir} holds an unfinished build (no {MANIFEST_NAME}, which is written "
                    "last). Run the command that began it again; it resumes"
                ) from error
            missing = "holds no data set" if os.path.isdir(data_dir) else "does not exist"
            raise ManifestError(
                f"{data_dir} {missing} (no {MANIFEST_NAME}, which a build writes last). "
                f"Make one with: python -m preprocess.build_tfrecords --out_dir={data_dir} ..."
            ) from error

    @classmethod
    def read(
        cls,
        read: Callable[[str], bytes],
        where: str,
        fetch: Callable[[Sequence[File]], None] = lambda files: None,
    ) -> Manifest:
        """Read a data set's manifest, index and statistics.

        Args:
          read: content of a file of the data set, by its name.
          where: the data set's place, for errors.
          fetch: called with the files beside the manifest before they are read.

        Raises:
          FileNotFoundError: if there is no manifest; whatever else `read` raises for it that is no
            OSError.
          ManifestError: if any of them cannot be read, or does not fit the others.
        """
        path = os.path.join(where, MANIFEST_NAME)
        try:
            text = read(MANIFEST_NAME)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({error})") from error
        content = parse(text, path)
        try:
            values = {
                "provenance": _typed(content, "provenance", str),
                "classes": tuple(map(str, content["classes"])),
                "num_folds": _typed(content, "num_folds", int),
                "modalities": {
                    name: Modality(
                        **{
                            **modality,
                            "array": _array(modality["array"]),
                            "beside": {k: _array(a) for k, a in modality["beside"].items()},
                        }
                    )
                    for name, modality in content["modalities"].items()
                },
                "settings": _typed(content, "settings", dict),
                "shards": tuple(_file(Shard, shard) for shard in content["shards"]),
                "skipped": tuple(content["skipped"]),
                "processors": tuple(map(str, content.get("processors", ()))),
            }
            files = {file["name"]: _file(File, file) for file in content["files"]}
            index_file, statistics_file = files[INDEX_NAME], files[STATISTICS_NAME]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ManifestError(f"{path}: a field is missing or malformed ({error!r})") from error
        fetch([index_file, statistics_file])
        num_folds, modalities = values["num_folds"], values["modalities"]
        index = _load(
            read,
            where,
            index_file,
            lambda arrays: Index.from_arrays(
                arrays, [shard.records for shard in values["shards"]], num_folds
            ),
        )
        statistics = _load(
            read,
            where,
            statistics_file,
            lambda arrays: Statistics.from_arrays(
                arrays,
                len(index.actor_names),
                len(index.corpus_names),
                num_folds,
                {name: modality.array.shape for name, modality in modalities.items()},
            ),
        )
        for name, modality in modalities.items():
            if name not in index.frames or (
                f"{name}_valid" in modality.beside and name not in index.valid_frames
            ):
                raise ManifestError(f"{where}/{INDEX_NAME}: it has no frames of {name}")
        sha256 = hashlib.sha256(text).hexdigest()
        beside = tuple(files.values())
        return cls(**values, index=index, statistics=statistics, files=beside, sha256=sha256)


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Parse the JSON object of a manifest of this format.

    Raises:
      ManifestError: if it is none; `where` names it.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        kind, version = content["format"], content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{where}: not a manifest of this library ({error!r})") from error
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise ManifestError(
            f"{where}: format {kind!r} version {version!r}; this release reads version "
            f"{FORMAT_VERSION}. Build the data set again: python -m preprocess.build_tfrecords "
            "with its flags and --overwrite"
        )
    return content


def _array(content: Mapping[str, Any]) -> Array:
    array = Array(**{**content, "shape": tuple(int(size) for size in content["shape"])})
    np.dtype(array.dtype)
    return array


def _file(kind: type[File], content: Mapping[str, Any]) -> Any:
    for field in dataclasses.fields(kind):
        _typed(content, field.name, str if field.type == "str" else int)
    name = content["name"]
    if os.path.basename(name) != name or name.startswith(".") or "\\" in name:
        raise ValueError(f"{name!r} is no name of a file of a data set")
    return kind(**content)


def _typed(content: Mapping[str, Any], name: str, kind: type) -> Any:
    value = content[name]
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or (isinstance(value, int) and value < 0)
    ):
        wanted = {str: "a text", int: "a whole number from 0 on", dict: "an object"}[kind]
        raise ValueError(f"{name} is {value!r}, not {wanted}")
    return value


def _load(
    read: Callable[[str], bytes], where: str, file: File, use: Callable[[Mapping[str, Any]], Any]
) -> Any:
    """Load what one of the files beside the manifest holds.

    Raises:
      ManifestError: if it cannot be read, or is not the one that the manifest states.
    """
    path = os.path.join(where, file.name)
    try:
        content = read(file.name)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ManifestError(
            f"{path}: its SHA-256 is not the manifest's; copy it again from where it is whole, or "
            "build the data set again"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return use({name: arrays[name] for name in arrays.files})
    except (ValueError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{path}: {error}; build the data set again") from error


def _pack(arrays: Mapping[str, np.ndarray], out: Any) -> None:
    """Write arrays as `numpy.savez` does: the same arrays give the same bytes at any time."""
    with zipfile.ZipFile(out, "w") as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, version=(1, 0), allow_pickle=False)


def _writer_of(content: bytes) -> Callable[[Any], Any]:
    return lambda out: out.write(content)


def _write(data_dir: str, name: str, write: Callable[[Any], Any]) -> File:
    """Write a file, whole or not at all."""
    with replacing(os.path.join(data_dir, name)) as temporary:
        with open(temporary, "wb") as file:
            write(file)
        return File(name, temporary.stat().st_size, digest_of(temporary))
