"""The records of a data set, column by column: a million of them are read in under a second.

Texts that records share are codes, with their names beside them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emotion_tfdata.dataset.statistics import Actor


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A clip's entry in the index.

    Attributes:
      example_id, corpus, actor, emotion, intensity, sentence: as in the record itself.
      frames: modality -> rows, 0 where the clip has none of it.
      valid_frames: modality -> how many of them hold something, for modalities that can miss in a
        frame (landmarks: rows with a face).
      random_fold: fold under the random protocol.
      offset: where the record begins in its shard, in bytes, TFRecord's 12-byte header included.
      length: the record's payload in bytes, without TFRecord's 16 bytes of framing.
    """

    example_id: str
    corpus: str
    actor: str
    emotion: str
    intensity: str
    sentence: str
    frames: Mapping[str, int]
    valid_frames: Mapping[str, int]
    random_fold: int
    offset: int
    length: int


# Columns of whole numbers, `[N]` each, and the tables that their codes point into.
_COLUMNS = {
    "keys": np.int64,
    "actors": np.int32,
    "emotions": np.int32,
    "intensities": np.int32,
    "sentences": np.int32,
    "random_folds": np.int32,
    "shards": np.int32,
    "offsets": np.int64,
    "lengths": np.int64,
}
_NAMES = {
    "emotions": "emotion_names",
    "intensities": "intensity_names",
    "sentences": "sentence_names",
}


@dataclasses.dataclass(frozen=True)
class Index:
    """All records of a data set, one entry each in every column, in the order of the shards.

    Attributes:
      example_ids: UTF-8 bytes `[N]`.
      keys: int64 `[N]`, `example_key` of each id.
      actors, emotions, intensities, sentences: int32 `[N]`, codes: places in `actor_names` etc.
      random_folds: int32 `[N]`, fold under the random protocol.
      shards: int32 `[N]`, place of the shard in the manifest.
      offsets, lengths: int64 `[N]`, as in `Record`.
      frames: modality -> int32 `[N]`, rows.
      valid_frames: modality -> int32 `[N]`, as in `Record`.
      corpus_names: `[C]`, sorted.
      actor_names: `[A]`, each corpus's own, sorted by corpus and name.
      actor_corpora: int32 `[A]`, codes of corpora.
      actor_folds: int32 `[A]`, fold under the actor protocol.
      emotion_names, intensity_names, sentence_names: sorted.
    """

    example_ids: np.ndarray
    keys: np.ndarray
    actors: np.ndarray
    emotions: np.ndarray
    intensities: np.ndarray
    sentences: np.ndarray
    random_folds: np.ndarray
    shards: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    frames: Mapping[str, np.ndarray]
    valid_frames: Mapping[str, np.ndarray]
    corpus_names: tuple[str, ...]
    actor_names: tuple[str, ...]
    actor_corpora: np.ndarray
    actor_folds: np.ndarray
    emotion_names: tuple[str, ...]
    intensity_names: tuple[str, ...]
    sentence_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.example_ids)

    @property
    def corpora(self) -> np.ndarray:
        """Code of each record's corpus, int32 `[N]`."""
        return self.actor_corpora[self.actors]

    @property
    def folds(self) -> np.ndarray:
        """Fold of each record under the actor protocol, int32 `[N]`."""
        return self.actor_folds[self.actors]

    @property
    def actor_keys(self) -> list[Actor]:
        """The (corpus, actor) of each actor."""
        corpora = (self.corpus_names[code] for code in self.actor_corpora)
        return list(zip(corpora, self.actor_names, strict=True))

    def example_id(self, place: int) -> str:
        """Return the id of one record."""
        return self.example_ids[place].decode()

    def record(self, place: int) -> Record:
        """Return the entry of one record."""
        actor = self.actors[place]
        return Record(
            example_id=self.example_id(place),
            corpus=self.corpus_names[self.actor_corpora[actor]],
            actor=self.actor_names[actor],
            emotion=self.emotion_names[self.emotions[place]],
            intensity=self.intensity_names[self.intensities[place]],
            sentence=self.sentence_names[self.sentences[place]],
            frames={name: int(column[place]) for name, column in self.frames.items()},
            valid_frames={name: int(column[place]) for name, column in self.valid_frames.items()},
            random_fold=int(self.random_folds[place]),
            offset=int(self.offsets[place]),
            length=int(self.lengths[place]),
        )

    @property
    def records(self) -> list[Record]:
        """The entries of all records, half a kilobyte each."""
        return [self.record(place) for place in range(len(self))]

    @classmethod
    def of(cls, shards: Iterable[Sequence[Record]], actor_folds: Mapping[Actor, int]) -> Index:
        """Make an index of the records of each shard, of which there must be at least one.

        Args:
          shards: the records of each, in order.
          actor_folds: fold of every (corpus, actor).
        """
        records: list[Record] = []
        places: list[int] = []
        for place, members in enumerate(shards):
            records += members
            places += [place] * len(members)
        actors = sorted({(record.corpus, record.actor) for record in records})
        corpora = sorted({corpus for corpus, _ in actors})
        coded: dict[str, Any] = {}
        for column, text in (
            ("emotions", "emotion"),
            ("intensities", "intensity"),
            ("sentences", "sentence"),
        ):
            names = sorted({getattr(record, text) for record in records})
            codes = {name: code for code, name in enumerate(names)}
            coded[_NAMES[column]] = tuple(names)
            coded[column] = np.array([codes[getattr(r, text)] for r in records], np.int32)
        codes_of_actors = {actor: code for code, actor in enumerate(actors)}
        ids = [record.example_id for record in records]
        return cls(
            example_ids=_encoded(ids),
            keys=np.array([example_key(example_id) for example_id in ids], np.int64),
            actors=np.array([codes_of_actors[r.corpus, r.actor] for r in records], np.int32),
            random_folds=np.array([record.random_fold for record in records], np.int32),
            shards=np.array(places, np.int32),
            offsets=np.array([record.offset for record in records], np.int64),
            lengths=np.array([record.length for record in records], np.int64),
            frames=_columns(record.frames for record in records),
            valid_frames=_columns(record.valid_frames for record in records),
            corpus_names=tuple(corpora),
            actor_names=tuple(name for _, name in actors),
            actor_corpora=np.array([corpora.index(corpus) for corpus, _ in actors], np.int32),
            actor_folds=np.array([actor_folds[actor] for actor in actors], np.int32),
            **coded,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the index as the arrays that a file holds."""
        arrays = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                arrays[field.name] = _encoded(value)
            elif isinstance(value, Mapping):
                arrays |= {f"{field.name}.{name}": column for name, column in value.items()}
            else:
                arrays[field.name] = value
        return arrays

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], shard_sizes: Sequence[int], num_folds: int
    ) -> Index:
        """Read what `to_arrays` gave.

        Args:
          arrays: by name.
          shard_sizes: records of each shard.
          num_folds: of either protocol.

        Raises:
          KeyError: for a column that is missing.
          ValueError: for one that contradicts the others, or the arguments.
        """
        ids = arrays["example_ids"]
        if ids.dtype.kind != "S" or ids.ndim != 1:
            raise ValueError(f"example_ids is {ids.dtype} {list(ids.shape)}, not bytes [N]")
        values: dict[str, Any] = {"example_ids": ids}
        for name in ("corpus_names", "actor_names", *_NAMES.values()):
            values[name] = tuple(text.decode() for text in arrays[name].tolist())
        for name in ("frames", "valid_frames"):
            values[name] = {
                key.partition(".")[2]: _whole(key, column, np.int32, len(ids))
                for key, column in arrays.items()
                if key.startswith(f"{name}.")
            }
        actors, corpora = len(values["actor_names"]), len(values["corpus_names"])
        limits: dict[str, int] = {name: len(values[names]) for name, names in _NAMES.items()}
        limits |= {"actors": actors, "random_folds": num_folds, "shards": len(shard_sizes)}
        for name, dtype in _COLUMNS.items():
            values[name] = _whole(name, arrays[name], dtype, len(ids), limits.get(name))
        for name, limit in (("actor_corpora", corpora), ("actor_folds", num_folds)):
            values[name] = _whole(name, arrays[name], np.int32, actors, limit)
        counts = np.repeat(np.arange(len(shard_sizes), dtype=np.int32), shard_sizes)
        if not np.array_equal(values["shards"], counts):
            raise ValueError("shards do not hold as many records as the manifest says")
        return cls(**values)


def example_key(example_id: str) -> int:
    """Return the key of an example, in `[0, 2**63)`, from its id alone."""
    digest = hashlib.blake2b(example_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _encoded(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], np.bytes_)


def _columns(entries: Iterable[Mapping[str, int]]) -> dict[str, np.ndarray]:
    columns: dict[str, list[int]] = {}
    for entry in entries:
        for name, value in entry.items():
            columns.setdefault(name, []).append(value)
    return {name: np.array(column, np.int32) for name, column in columns.items()}


def _whole(
    name: str, column: np.ndarray, dtype: type, length: int, limit: int | None = None
) -> np.ndarray:
    """Return a column checked to hold whole numbers from 0 on, below `limit`.

    Raises:
      ValueError: if it is not that.
    """
    if column.dtype != dtype or column.shape != (length,):
        raise ValueError(
            f"{name} is {column.dtype} {list(column.shape)}, not {np.dtype(dtype)} [{length}]"
        )
    if length and (column.min() < 0 or (limit is not None and column.max() >= limit)):
        most = "" if limit is None else f" or {limit} and more"
        raise ValueError(f"{name} holds values below 0{most}")
    return column
