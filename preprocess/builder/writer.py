"""Shards: written under another name, read back, renamed; and what the manifest says of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.atomic_file import digest_of, replacing
from emotion_tfdata.dataset.index import Record
from emotion_tfdata.dataset.manifest import Manifest, Modality, Shard
from emotion_tfdata.dataset.schema import Example
from emotion_tfdata.dataset.statistics import GroupSums, Moments
from emotion_tfdata.dataset.tfrecord import FOOTER_BYTES, HEADER_BYTES, frame
from preprocess.builder.written_shard import WrittenShard
from preprocess.clip.measurements import Measurements

# Of finished ones and of those still written.
SHARD_NAME = re.compile(r"\.?fold-\d+-of-\d+(-part-\d+)?\.tfrecord-\d{5}-of-\d{5}(\.[\w-]+\.tmp)?")
_FRAME_BYTES = HEADER_BYTES + FOOTER_BYTES
# Upper bound of what a record holds beside its arrays.
_TEXT_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """What one shard is to hold.

    Attributes:
      name: its file name.
      fold: the actor fold of all its clips.
      example_ids: in order.
      random_folds: each clip's.
    """

    name: str
    fold: int
    example_ids: tuple[str, ...]
    random_folds: tuple[int, ...]


def plan_shards(
    clips: Iterable[tuple[str, int, int, int]],
    num_folds: int,
    max_shard_bytes: int,
    apart: Mapping[str, int] | None = None,
) -> list[ShardPlan]:
    """Deal clips to shards: one fold each, filled in order of the ids up to a size.

    Args:
      clips: (example id, actor fold, random fold, bytes of its arrays).
      num_folds: folds, also those without clips.
      max_shard_bytes: largest shard; a single clip may be larger.
      apart: example id -> a number; clips of different ones have different shards as well.
    """
    parts: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
    for example_id, fold, random_fold, array_bytes in sorted(clips):
        part = fold, apart[example_id] if apart else -1
        parts.setdefault(part, []).append((example_id, random_fold, array_bytes))
    plans = []
    for (fold, part_number), members in sorted(parts.items()):
        groups: list[list[tuple[str, int]]] = []
        size = max_shard_bytes
        for example_id, random_fold, array_bytes in members:
            record_bytes = array_bytes + _TEXT_BYTES + _FRAME_BYTES
            if size + record_bytes > max_shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append((example_id, random_fold))
            size += record_bytes
        for index, group in enumerate(groups):
            folds = f"fold-{fold}-of-{num_folds}"
            if apart:
                folds += f"-part-{part_number}"
            name = f"{folds}.tfrecord-{index:05d}-of-{len(groups):05d}"
            example_ids, random_folds = zip(*group, strict=True)
            plans.append(ShardPlan(name, fold, example_ids, random_folds))
    return plans


def write_shard(
    out_dir: Path,
    plan: ShardPlan,
    load: Callable[[str], tuple[Example, Measurements]],
    modalities: Mapping[str, Modality],
) -> WrittenShard:
    """Write one shard, whole or not at all, holding one example at a time.

    Args:
      out_dir: the data set's folder.
      plan: what it is to hold.
      load: example id -> example and what was measured of it.
      modalities: of the data set.

    Raises:
      schema.SchemaError: for an example that cannot be stored.
      OSError: if it cannot be written, or does not read back as it was written.
    """
    path = out_dir / plan.name
    records: list[Record] = []
    measurements: dict[str, Measurements] = {}
    sums = GroupSums()
    digest = hashlib.sha256()
    offset = 0
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for example_id, fold in zip(plan.example_ids, plan.random_folds, strict=True):
                example, measurements[example_id] = load(example_id)
                payload = schema.encode(example, modalities)
                record = frame(payload)
                file.write(record)
                digest.update(record)
                entry = schema.record_of(example, modalities, fold, offset, len(payload))
                records.append(entry)
                offset += len(record)
                add_rows(sums, schema.decode(payload, example_id, modalities), fold, modalities)
            file.flush()
            os.fsync(file.fileno())
        if digest_of(temporary) != digest.hexdigest():
            raise OSError(f"{temporary} does not read back as it was written")
    shard = Shard(plan.name, offset, digest.hexdigest(), len(records))
    return WrittenShard(shard, plan.fold, tuple(records), sums, measurements)


def make_manifest(shards: Sequence[WrittenShard], **fields: Any) -> Manifest:
    """Make the manifest of some shards.

    The shards' order fixes the rounding of the statistics: the same shards give the same numbers.

    Args:
      shards: at least one.
      **fields: what else a `Manifest` has.
    """
    sums, actor_folds = GroupSums(), {}
    for written in shards:
        sums.merge(written.sums)
        for record in written.records:
            actor_folds[record.corpus, record.actor] = written.fold
    return Manifest.of(
        [written.records for written in shards],
        actor_folds,
        sums,
        shards=tuple(written.shard for written in shards),
        **fields,
    )


def add_rows(
    sums: GroupSums, example: Example, random_fold: int, modalities: Mapping[str, Modality]
) -> None:
    """Add a record's rows as a reader gets them; of the landmarks, those with a face."""
    rows = schema.valid_rows(example, modalities)
    moments = {modality: Moments.of(each) for modality, each in rows.items()}
    sums.add(example.corpus, example.actor, random_fold, moments)
