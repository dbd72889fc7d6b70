"""Checks a data set against its manifest, byte for byte and record for record.

  python -m preprocess.verify --data_dir=D

Ends with status 1 and a line a problem if anything is not as the manifest says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.atomic_file import digest_of
from emotion_tfdata.dataset.index import Record, example_key
from emotion_tfdata.dataset.manifest import (
    INDEX_NAME,
    STATISTICS_NAME,
    Manifest,
    ManifestError,
    Shard,
)
from emotion_tfdata.dataset.statistics import GroupSums, Statistics
from emotion_tfdata.dataset.tfrecord import FOOTER_BYTES, HEADER_BYTES, read_record
from preprocess import cli
from preprocess.builder import writer

_FLOAT16_SPACING = 32.0  # between the largest numbers that it has


def verify(data_dir: Path) -> Iterator[str]:
    """Yield what is wrong with a data set, in words that name shard and record.

    Checked are the shards' sizes and SHA-256, each record's place, checksums, texts, shapes and
    finiteness, what the index says of all of them, and that no shard lies there that the manifest
    does not know. Where every record is sound, the statistics are computed again.

    Raises:
      ManifestError: if there is no manifest, or it, the index or the statistics cannot be read.
    """
    manifest = Manifest.load(str(data_dir))
    index = manifest.index
    ids, counts = np.unique(index.example_ids, return_counts=True)
    for example_id, count in zip(ids[counts > 1], counts[counts > 1], strict=True):
        yield f"{INDEX_NAME}: {example_id.decode()} stands {count} times in it"
    for file in manifest.files:
        try:
            if digest_of(data_dir / file.name) != file.sha256:
                yield f"{file.name}: its SHA-256 is not the manifest's"
        except OSError as error:
            yield f"{file.name}: cannot be read ({error.strerror})"
    known = {shard.name for shard in manifest.shards}
    for path in sorted(data_dir.iterdir()):
        if writer.SHARD_NAME.fullmatch(path.name) and path.name not in known:
            yield f"{path.name}: not in the manifest"
    for name, modality in manifest.modalities.items():
        stated, most = modality.largest_error, (modality.array.step or _FLOAT16_SPACING) / 2
        # Float32's own rounding is the rest.
        if stated is not None and not 0 <= stated <= most * (1 + 1e-2):
            yield f"{name}: values off by {stated:g}, more than the {most:g} of their format"
    ends = np.cumsum([shard.records for shard in manifest.shards])
    sums, sound = GroupSums(), True
    for shard, end in zip(manifest.shards, ends.tolist(), strict=True):
        of_shard = yield from _check_shard(data_dir, shard, manifest, end - shard.records)
        if of_shard is None:
            sound = False
        else:
            sums.merge(of_shard)
    shapes = {name: modality.array.shape for name, modality in manifest.modalities.items()}
    if sound:
        computed = Statistics.of(
            sums, index.actor_keys, index.corpus_names, manifest.num_folds, shapes
        )
        yield from _check_statistics(manifest, computed)


def _check_statistics(manifest: Manifest, computed: Statistics) -> Iterator[str]:
    """Yield where the statistics are not those of the records' own rows."""
    stated, found = manifest.statistics.to_arrays(), computed.to_arrays()
    for name, wanted in found.items():
        # Sums round; the absolute part is below any step of the fixed point.
        close = np.isclose(stated[name], wanted, rtol=1e-6, atol=1e-9)
        if not close.all():
            at = tuple(int(i) for i in np.argwhere(~close)[0])
            grouping, modality, measure = name.split(".")
            where = (
                "/".join(manifest.index.actor_keys[at[0]])
                if grouping == "by_actor"
                else f"{manifest.index.corpus_names[at[0]]}, random fold {at[1]}"
            )
            yield (
                f"{STATISTICS_NAME}: {measure} of {modality}, {where}, at {list(at)} is "
                f"{stated[name][at]:.9g}, the records' is {wanted[at]:.9g}"
            )


def _check_shard(
    data_dir: Path, shard: Shard, manifest: Manifest, first: int
) -> Generator[str, None, GroupSums | None]:
    """Yield what is wrong with a shard, whose records begin at the index's entry `first`.

    Returns:
      Sums over the shard's rows; None if a record is not sound.
    """
    path = data_dir / shard.name
    try:
        size = path.stat().st_size
        intact = digest_of(path) == shard.sha256
    except OSError as error:
        yield f"{shard.name}: cannot be read ({error.strerror})"
        return None
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
    elif not intact:
        yield f"{shard.name}: its SHA-256 is not the manifest's"
    records = [manifest.index.record(first + number) for number in range(shard.records)]
    end = sum(record.length + HEADER_BYTES + FOOTER_BYTES for record in records)
    if end != shard.bytes:
        yield f"{shard.name}: its records take {end} bytes, the manifest says {shard.bytes}"
    sums = GroupSums()
    sound = True
    with open(path, "rb") as file:
        for number, record in enumerate(records):
            where = f"{shard.name}: record {number} ({record.example_id})"
            try:
                if record.offset + HEADER_BYTES + record.length + FOOTER_BYTES > size:
                    raise ValueError("cut short")  # before so much memory is asked for
                payload = read_record(file, record.offset, record.length)
                example = schema.decode(payload, stored=manifest.modalities)
                _check_record(example, record, manifest)
                if manifest.index.keys[first + number] != example_key(record.example_id):
                    raise ValueError(f"its key in {INDEX_NAME} is not that of its id")
            except ValueError as error:
                sound = False
                yield f"{where}: {error}"
            else:
                writer.add_rows(sums, example, record.random_fold, manifest.modalities)
    return sums if sound else None


def _check_record(example: schema.Example, record: Record, manifest: Manifest) -> None:
    """Compare a record with its entry in the index.

    Raises:
      ValueError: where they differ.
    """
    for name in schema.TEXT_FEATURES:
        if getattr(example, name) != getattr(record, name):
            raise ValueError(f"{name} is {getattr(example, name)!r}, not {getattr(record, name)!r}")
    for name, modality in manifest.modalities.items():
        arrays = {name: modality.array, **modality.beside}
        for array_name, array in arrays.items():
            values = getattr(example, array_name)
            shape = (record.frames[name], *array.shape)
            if values.shape != shape:
                raise ValueError(f"{array_name} has shape {values.shape}, the index says {shape}")
            if not np.isfinite(values).all():
                at = np.argwhere(~np.isfinite(values))[0]
                raise ValueError(f"{array_name} is not finite at {at}")
        if f"{name}_valid" in modality.beside:
            valid = getattr(example, f"{name}_valid")
            if (found := int(valid.sum())) != record.valid_frames[name]:
                wanted = record.valid_frames[name]
                raise ValueError(f"{found} rows hold {name}, the index says {wanted}")
            if getattr(example, name)[~valid].any():
                raise ValueError(f"{name} are not zero where there are none")


def define_flags() -> None:
    """Define this command's flags, which must not happen at import."""
    flags.DEFINE_string("data_dir", None, "The data set's folder.")


def main(argv: Sequence[str]) -> int:
    """Verify a data set; return the exit status: 1 if anything is wrong."""
    if len(argv) > 1 or not flags.FLAGS.data_dir:
        cli.fail("give --data_dir=D and nothing else")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    data_dir = Path(flags.FLAGS.data_dir)
    count = 0
    try:
        for problem in verify(data_dir):
            print(problem, flush=True)
            count += 1
        manifest = Manifest.load(str(data_dir))
    except ManifestError as error:
        cli.fail(str(error))
    if count:
        print(
            f"{data_dir}: {count} problem{'s' * (count != 1)}. Build it again with --overwrite, "
            "or copy the named shards from where they are whole",
            file=sys.stderr,
        )
        return 1
    size_mb = sum(shard.bytes for shard in manifest.shards) / 1e6
    print(
        f"{data_dir}: whole. {len(manifest.index)} records in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    define_flags()
    cli.run(main)
