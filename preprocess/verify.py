"""Checks a data set against its manifest, byte for byte and record for record.

  python -m preprocess.verify --data_dir=D

Ends with status 1 and a line a problem if anything is not as the manifest says.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from absl import app, flags

from emotion_tfdata import schema
from emotion_tfdata.labels import class_names
from emotion_tfdata.manifest import Manifest, ManifestError, Moments, Record, Shard
from emotion_tfdata.splits import PROTOCOLS
from emotion_tfdata.tfrecord import FOOTER_BYTES, HEADER_BYTES, checksum
from preprocess import cli, writer
from preprocess.checksums import sha256_of

_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "Mapping[str, Any]": (dict, "an object"),
}


def verify(data_dir: Path) -> Iterator[str]:
    """Yields what is wrong with a data set, in words that name shard and record.

    Checked are the manifest's form, and if it has that, the shards' sizes and SHA-256, each
    record's place, checksums, facts, shapes and finiteness, the manifest's own counts, and that no
    shard lies there that the manifest does not know. Where every record is sound, the statistics
    are computed again.

    Raises:
      ManifestError: if there is no manifest, or it cannot be read.
    """
    manifest = Manifest.load(str(data_dir))
    malformed = list(_check_form(manifest))
    if malformed:  # nothing can be compared with it
        yield from malformed
        return
    yield from _check_records(manifest)
    known = {shard.name for shard in manifest.shards}
    for path in sorted(data_dir.iterdir()):
        if writer.SHARD_NAME.fullmatch(path.name) and path.name not in known:
            yield f"{path.name}: not in the manifest"
    summed = []
    for shard in manifest.shards:
        moments = yield from _check_shard(data_dir / shard.name, shard, manifest)
        if moments is not None:
            summed.append(writer.WrittenShard(shard, moments, {}))
    statistics = None
    if len(summed) == len(manifest.shards):
        statistics = writer.statistics(summed, manifest.num_folds, manifest.modalities)
    yield from _check_statistics(manifest, statistics)


def _check_form(manifest: Manifest) -> Iterator[str]:
    """Yields what in a manifest is of the wrong type or shape, or not there."""
    yield from _misfits("manifest", manifest)
    try:
        class_names(manifest.num_classes)
    except ValueError as error:
        yield f"manifest: {error}"
    for shard in manifest.shards:
        yield from _misfits(f"manifest: shard {shard.name!r}", shard)
        if not writer.SHARD_NAME.fullmatch(str(shard.name)):
            yield f"manifest: {shard.name!r} is not the name of a shard"
        for record in shard.records:
            yield from _misfits(f"manifest: record {record.example_id!r}", record)
    if not any(shard.records for shard in manifest.shards):
        yield "manifest: it has no record"
    shapes = {
        "audio": (manifest.num_audio_features,),
        "landmarks": (manifest.num_landmarks, 3),
    }
    for modality in manifest.modalities:
        if modality not in list(shapes):
            yield f"manifest: modality {modality!r} is none of {', '.join(shapes)}"
    for protocol in PROTOCOLS:
        folds = manifest.statistics.get(protocol, ())
        if len(folds) != manifest.num_folds:
            yield (
                f"manifest: statistics of {len(folds)} {protocol} folds, "
                f"it has {manifest.num_folds!r}"
            )
        for fold, by_modality in enumerate(folds):
            where = f"{protocol} fold {fold}"
            if sorted(by_modality) != sorted(map(str, manifest.modalities)):
                yield (
                    f"manifest: statistics of {', '.join(by_modality) or 'nothing'}, {where}, "
                    f"it has {', '.join(map(str, manifest.modalities))}"
                )
            for modality, moments in by_modality.items():
                about = f"manifest: statistics of {modality}, {where}"
                yield from _misfits(about, moments)
                for name in ("mean", "m2"):
                    array = getattr(moments, name)
                    if array.dtype.kind not in "fiu":
                        yield f"{about}: {name} does not hold numbers alone"
                    elif array.shape != shapes.get(modality):
                        yield f"{about}: {name} has shape {array.shape}"


def _misfits(where: str, entry: Manifest | Shard | Record | Moments) -> Iterator[str]:
    """Yields which simple fields of an entry are not what its class says."""
    for field in dataclasses.fields(entry):
        kind, called = _KINDS.get(str(field.type), (object, ""))
        value = getattr(entry, field.name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            yield f"{where}: {field.name} is {value!r}, not {called}"
        elif isinstance(value, int) and value < 0:
            yield f"{where}: {field.name} is {value}, less than 0"


def _check_records(manifest: Manifest) -> Iterator[str]:
    """Yields where the manifest's records contradict each other or the number of folds."""
    records = [record for _, record in manifest.records]
    for example_id, count in Counter(record.example_id for record in records).items():
        if count > 1:
            yield f"manifest: {example_id} stands {count} times in it"
    for shard, record in manifest.records:
        for protocol, fold in (("actor", shard.fold), ("random", record.random_fold)):
            if fold >= manifest.num_folds:
                yield f"manifest: {record.example_id} is in {protocol} fold {fold} of a smaller set"


def _check_statistics(
    manifest: Manifest, computed: Mapping[str, Sequence[Mapping[str, Moments]]] | None
) -> Iterator[str]:
    """Yields where the manifest's statistics are not those of its records.

    Args:
      manifest: of the right form.
      computed: of the records' own rows; None where not all could be read.
    """
    frames: Counter[tuple[str, int, str]] = Counter()
    for shard, record in manifest.records:
        for protocol, fold in (("actor", shard.fold), ("random", record.random_fold)):
            frames[protocol, fold, "audio"] += record.audio_frames
            frames[protocol, fold, "landmarks"] += record.faces_frames
    for protocol in PROTOCOLS:
        for fold, by_modality in enumerate(manifest.statistics[protocol]):
            for modality, moments in by_modality.items():
                where = f"manifest: statistics of {modality}, {protocol} fold {fold}"
                if moments.count != frames[protocol, fold, modality]:
                    wanted = frames[protocol, fold, modality]
                    yield f"{where}, count {moments.count} rows, the records have {wanted}"
                elif not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all()):
                    yield f"{where}, are not finite"
                elif computed is not None:
                    own = computed[protocol][fold][modality]
                    for name in ("mean", "m2"):
                        stated, wanted = getattr(moments, name), getattr(own, name)
                        # Sums round; the absolute part is below any step of the fixed point.
                        close = np.isclose(stated, wanted, rtol=1e-6, atol=1e-9)
                        if not close.all():
                            at = tuple(int(i) for i in np.argwhere(~close)[0])
                            yield (
                                f"{where}, {name} at {at} is {stated[at]:.9g}, "
                                f"the records' is {wanted[at]:.9g}"
                            )


def _check_shard(
    path: Path, shard: Shard, manifest: Manifest
) -> Generator[str, None, dict[int, dict[str, Moments]] | None]:
    """Yields what is wrong with a shard.

    Returns:
      Random fold -> modality -> moments of the shard's rows; None if a record is not sound.
    """
    try:
        size = path.stat().st_size
        intact = sha256_of(path) == shard.sha256
    except OSError as error:
        yield f"{shard.name}: cannot be read ({error.strerror})"
        return None
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
    elif not intact:
        yield f"{shard.name}: its SHA-256 is not the manifest's"
    end = sum(record.length + HEADER_BYTES + FOOTER_BYTES for record in shard.records)
    if end != shard.bytes:
        yield f"{shard.name}: its records take {end} bytes, the manifest says {shard.bytes}"
    moments: dict[int, dict[str, Moments]] = {}
    sound = True
    with open(path, "rb") as file:
        for index, record in enumerate(shard.records):
            where = f"{shard.name}: record {index} ({record.example_id})"
            try:
                example = schema.decode(_read(file, record, size))
                _check_record(example, record, manifest)
            except ValueError as error:
                sound = False
                yield f"{where}: {error}"
            else:
                sums = moments.setdefault(record.random_fold, {})
                writer.add_moments(sums, example, manifest.modalities)
    return moments if sound else None


def _read(file: BinaryIO, record: Record, size: int) -> bytes:
    """A record's payload, compared with its own checksum.

    Raises:
      ValueError: if it does not stand where it should, or is damaged.
    """
    if record.offset + HEADER_BYTES + record.length + FOOTER_BYTES > size:
        raise ValueError("cut short")
    file.seek(record.offset)
    header = file.read(HEADER_BYTES)
    payload = file.read(record.length)
    footer = file.read(FOOTER_BYTES)
    length = struct.pack("<Q", record.length)
    if header != length + checksum(length):
        raise ValueError("no record of its length begins where it should")
    if footer != checksum(payload):
        raise ValueError("its bytes do not match their checksum")
    return payload


def _check_record(example: schema.Example, record: Record, manifest: Manifest) -> None:
    """Compares a record with its entry in the manifest.

    Raises:
      ValueError: where they differ.
    """
    for name in schema.TEXT_FEATURES:
        if getattr(example, name) != getattr(record, name):
            raise ValueError(f"{name} is {getattr(example, name)!r}, not {getattr(record, name)!r}")
    shapes = {
        "audio": (record.audio_frames, manifest.num_audio_features),
        "landmarks": (record.landmarks_frames, manifest.num_landmarks, 3),
        "landmarks_valid": (record.landmarks_frames,),
        "head": (record.landmarks_frames, 4),
    }
    for name, shape in shapes.items():
        array = getattr(example, name)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, the manifest says {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite at {np.argwhere(~np.isfinite(array))[0]}")
    faces = int(example.landmarks_valid.sum())
    if faces != record.faces_frames:
        raise ValueError(f"{faces} rows with a face, the manifest says {record.faces_frames}")
    if example.landmarks[~example.landmarks_valid].any():
        raise ValueError("landmarks are not zero where no face was found")


def define_flags() -> None:
    """Defines this command's flags; who only imports the module must not get them."""
    flags.DEFINE_string("data_dir", None, "The data set's folder.")


def main(argv: Sequence[str]) -> int:
    """Verifies a data set; returns the exit status: 1 if anything is not as it should be."""
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
        f"{data_dir}: whole. {len(manifest.records)} records in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
