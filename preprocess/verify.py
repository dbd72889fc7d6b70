"""Checks a data set against its manifest, byte for byte and record for record.

  python -m preprocess.verify --data_dir=D

Ends with status 1 and a line a problem if anything is not as the manifest says.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from absl import app, flags

from emotion_tfdata import schema
from emotion_tfdata.manifest import Manifest, ManifestError, Record, Shard
from emotion_tfdata.splits import PROTOCOLS
from emotion_tfdata.tfrecord import FOOTER_BYTES, HEADER_BYTES, checksum
from preprocess import cli
from preprocess.checksums import sha256_of
from preprocess.workspace import SHARD_NAME


def verify(data_dir: Path) -> Iterator[str]:
    """Yields what is wrong with a data set, in words that name shard and record.

    Checked are the shards' sizes and SHA-256, each record's place, checksums, facts, shapes and
    finiteness, the manifest's own counts and statistics, and that no shard lies there that the
    manifest does not know.

    Raises:
      ManifestError: if there is no manifest, or it cannot be read.
    """
    manifest = Manifest.load(str(data_dir))
    yield from _check_manifest(manifest)
    known = {shard.name for shard in manifest.shards}
    for path in sorted(data_dir.iterdir()):
        if SHARD_NAME.fullmatch(path.name) and path.name not in known:
            yield f"{path.name}: not in the manifest"
    for shard in manifest.shards:
        yield from _check_shard(data_dir / shard.name, shard, manifest)


def _check_manifest(manifest: Manifest) -> Iterator[str]:
    records = [record for _, record in manifest.records]
    for example_id, count in Counter(record.example_id for record in records).items():
        if count > 1:
            yield f"manifest: {example_id} stands {count} times in it"
    frames: Counter[tuple[str, int, str]] = Counter()
    for shard, record in manifest.records:
        for protocol, fold in (("actor", shard.fold), ("random", record.random_fold)):
            frames[protocol, fold, "audio"] += record.audio_frames
            frames[protocol, fold, "landmarks"] += record.faces_frames
            if not 0 <= fold < manifest.num_folds:
                yield f"manifest: {record.example_id} is in {protocol} fold {fold} of a smaller set"
    for protocol in PROTOCOLS:
        for fold, by_modality in enumerate(manifest.statistics[protocol]):
            for modality, moments in by_modality.items():
                where = f"manifest: statistics of {modality}, {protocol} fold {fold}"
                if moments.count != frames[protocol, fold, modality]:
                    wanted = frames[protocol, fold, modality]
                    yield f"{where}, count {moments.count} rows, the records have {wanted}"
                if not (np.isfinite(moments.mean).all() and np.isfinite(moments.m2).all()):
                    yield f"{where}, are not finite"


def _check_shard(path: Path, shard: Shard, manifest: Manifest) -> Iterator[str]:
    try:
        size = path.stat().st_size
        intact = sha256_of(path) == shard.sha256
    except OSError as error:
        yield f"{shard.name}: cannot be read ({error.strerror})"
        return
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
    elif not intact:
        yield f"{shard.name}: its SHA-256 is not the manifest's"
    end = sum(record.length + HEADER_BYTES + FOOTER_BYTES for record in shard.records)
    if end != shard.bytes:
        yield f"{shard.name}: its records take {end} bytes, the manifest says {shard.bytes}"
    with open(path, "rb") as file:
        for index, record in enumerate(shard.records):
            where = f"{shard.name}: record {index} ({record.example_id})"
            try:
                payload = _read(file, record)
                _check_record(schema.decode(payload), record, manifest)
            except ValueError as error:
                yield f"{where}: {error}"


def _read(file: BinaryIO, record: Record) -> bytes:
    """A record's payload, compared with its own checksum.

    Raises:
      ValueError: if it does not stand where it should, or is damaged.
    """
    file.seek(record.offset)
    header = file.read(HEADER_BYTES)
    payload = file.read(record.length)
    footer = file.read(FOOTER_BYTES)
    if len(footer) < FOOTER_BYTES:
        raise ValueError("cut short")
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
