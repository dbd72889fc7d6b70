"""Shards: written under another name, read back, renamed; and what the manifest says of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from emotion_tfdata import schema
from emotion_tfdata.manifest import Moments, Record, Shard
from emotion_tfdata.schema import Example
from preprocess.facts import ClipFacts

# TFRecord puts a length and two checksums around a record.
_FRAME_BYTES = 16
# Upper bound of what a record holds beside its arrays.
_TEXT_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """What one shard is to hold.

    Attributes:
      name: its file name.
      fold: the actor fold of all its clips.
      example_ids: in order.
    """

    name: str
    fold: int
    example_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """A shard that is whole, and the sums over its records.

    Attributes:
      shard: for the manifest.
      moments: random fold -> modality -> moments of the shard's rows, as stored.
      facts: example id -> what was measured of the clip.
    """

    shard: Shard
    moments: Mapping[int, Mapping[str, Moments]]
    facts: Mapping[str, ClipFacts] = dataclasses.field(default_factory=dict)


def plan_shards(
    clips: Sequence[tuple[str, int, int]],
    num_folds: int,
    max_shard_bytes: int,
    random_folds: Mapping[str, int] | None = None,
) -> list[ShardPlan]:
    """Deals clips to shards: each shard one fold, filled in order of the ids up to a size.

    Args:
      clips: (example id, actor fold, bytes of its arrays).
      num_folds: folds, also those without clips.
      max_shard_bytes: largest shard; a single clip may be larger.
      random_folds: example id -> fold of the random protocol, to keep these apart as well; a shard
        then belongs wholly to one fold of either protocol.
    """
    parts: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for example_id, fold, array_bytes in sorted(clips):
        part = fold, -1 if random_folds is None else random_folds[example_id]
        parts.setdefault(part, []).append((example_id, array_bytes))
    plans = []
    for (fold, random_fold), members in sorted(parts.items()):
        groups: list[list[str]] = []
        size = max_shard_bytes
        for example_id, array_bytes in members:
            record_bytes = array_bytes + _TEXT_BYTES + _FRAME_BYTES
            if size + record_bytes > max_shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append(example_id)
            size += record_bytes
        for index, group in enumerate(groups):
            folds = f"fold-{fold}-of-{num_folds}"
            if random_folds is not None:
                folds += f"-random-{random_fold}-of-{num_folds}"
            name = f"{folds}.tfrecord-{index:05d}-of-{len(groups):05d}"
            plans.append(ShardPlan(name, fold, tuple(group)))
    return plans


def write_shard(
    out_dir: Path,
    plan: ShardPlan,
    load: Callable[[str], Example],
    random_folds: Mapping[str, int],
    modalities: Sequence[str],
) -> WrittenShard:
    """Writes one shard, whole or not at all, holding one example at a time.

    Args:
      out_dir: the data set's folder.
      plan: what it is to hold.
      load: example id -> example.
      random_folds: example id -> fold of the random protocol.
      modalities: whose moments are wanted.

    Raises:
      schema.SchemaError: for an example that cannot be stored.
      OSError: if it cannot be written, or does not read back as it was written.
    """
    import tensorflow as tf

    path = out_dir / plan.name
    temporary = out_dir / f".{plan.name}.{os.getpid()}.tmp"
    records: list[Record] = []
    digests: list[bytes] = []
    moments: dict[int, dict[str, Moments]] = {}
    offset = 0
    try:
        try:
            with tf.io.TFRecordWriter(str(temporary)) as file:
                for example_id in plan.example_ids:
                    example = load(example_id)
                    payload = schema.encode(example)
                    file.write(payload)
                    fold = random_folds[example_id]
                    records.append(_record(example, fold, offset, len(payload)))
                    digests.append(hashlib.sha256(payload).digest())
                    offset += len(payload) + _FRAME_BYTES
                    _add_moments(moments.setdefault(fold, {}), payload, example_id, modalities)
            _read_back(temporary, digests)
        except tf.errors.OpError as error:
            raise OSError(f"{temporary.name}: {error.message}") from error
        shard = Shard(
            plan.name, plan.fold, temporary.stat().st_size, _sha256(temporary), tuple(records)
        )
        if shard.bytes != offset:
            raise OSError(f"{path} has {shard.bytes} bytes, {offset} were written")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return WrittenShard(shard, moments)


def statistics(
    shards: Iterable[WrittenShard], num_folds: int, modalities: Sequence[str]
) -> dict[str, tuple[dict[str, Moments], ...]]:
    """Moments of every fold of both protocols, as the manifest holds them.

    The shards' order fixes the rounding: the same shards give the same numbers.
    """
    sums: dict[tuple[str, int, str], Moments] = {}

    def add(protocol: str, fold: int, modality: str, moments: Moments) -> None:
        key = (protocol, fold, modality)
        sums[key] = sums[key] + moments if key in sums else moments

    for written in shards:
        for fold, by_modality in sorted(written.moments.items()):
            for modality, moments in by_modality.items():
                add("actor", written.shard.fold, modality, moments)
                add("random", fold, modality, moments)
    shapes = {modality: moments.mean.shape for (_, _, modality), moments in sums.items()}
    return {
        protocol: tuple(
            {
                modality: sums.get((protocol, fold, modality), Moments.zero(*shapes[modality]))
                for modality in modalities
            }
            for fold in range(num_folds)
        )
        for protocol in ("actor", "random")
    }


def _record(example: Example, random_fold: int, offset: int, length: int) -> Record:
    return Record(
        example_id=example.example_id,
        corpus=example.corpus,
        actor=example.actor,
        emotion=example.emotion,
        intensity=example.intensity,
        sentence=example.sentence,
        audio_frames=len(example.audio),
        landmarks_frames=len(example.landmarks),
        faces_frames=int(example.landmarks_valid.sum()),
        random_fold=random_fold,
        offset=offset,
        length=length,
    )


def _add_moments(
    sums: dict[str, Moments], payload: bytes, example_id: str, modalities: Sequence[str]
) -> None:
    """Adds a record's rows, as a reader gets them; of the landmarks, those with a face."""
    example = schema.decode(payload, example_id)
    rows = {"audio": example.audio, "landmarks": example.landmarks[example.landmarks_valid]}
    for modality in modalities:
        moments = Moments.of(rows[modality])
        sums[modality] = sums[modality] + moments if modality in sums else moments


def _read_back(path: Path, digests: Sequence[bytes]) -> None:
    """Checks that a file holds exactly the records that were written."""
    import tensorflow as tf

    count = 0
    for count, payload in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), 1):
        if count > len(digests) or hashlib.sha256(payload).digest() != digests[count - 1]:
            raise OSError(f"{path}: record {count - 1} does not read back as it was written")
    if count != len(digests):
        raise OSError(f"{path}: {count} records read back of {len(digests)} written")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
    return digest.hexdigest()
