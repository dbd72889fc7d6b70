"""A data set as its manifest tells of it: what is there, whether it is whole, and getting it to S3.

Knows the manifest's JSON alone: `format`, `version`, `provenance` and the `name`, `bytes` and
`sha256` of each of its `files` and `shards`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from launch.aws.session import Aws, LaunchError
from launch.s3 import Folder

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a data set.

    Attributes:
      name: within the data set.
      bytes: its size.
      sha256: in hex.
    """

    name: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set, on disk or in S3.

    Attributes:
      where: its folder.
      manifest: the manifest's bytes.
      provenance: what figures from it must be called; empty for real recordings.
      shards: its files, the index and statistics among them.
    """

    where: Path | Folder
    manifest: bytes
    provenance: str
    shards: tuple[Shard, ...]

    @property
    def sha256(self) -> str:
        """Of the manifest, and so of every byte of the data set."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)


def parse(manifest: bytes, where: Path | Folder) -> DataSet:
    """Reads a manifest.

    Raises:
      LaunchError: if it is not one.
    """
    try:
        content = json.loads(manifest)
        if (content["format"], content["version"]) != ("emotion_tfdata", 2):
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        files = [*content["files"], *content["shards"]]
        shards = tuple(Shard(s["name"], int(s["bytes"]), s["sha256"]) for s in files)
        provenance = content["provenance"]
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{where}/{MANIFEST}: not a data set's manifest ({error!r})") from error
    for shard in shards:
        if "/" in shard.name or shard.name in ("", ".", ".."):
            raise LaunchError(f"{where}/{MANIFEST}: {shard.name!r} is no file name")
    if not shards:
        raise LaunchError(f"{where}/{MANIFEST}: the data set is empty")
    return DataSet(where, manifest, provenance, shards)


def find(aws: Aws, data_dir: str) -> DataSet:
    """Finds a data set and checks that all its files are there at their sizes.

    Args:
      aws: to reach S3 with.
      data_dir: a local folder or `s3://BUCKET/PREFIX`.

    Raises:
      LaunchError: if there is none, or it is not whole.
    """
    where: Path | Folder
    if data_dir.startswith("s3://"):
        where = folder_of(aws, data_dir)
        manifest = where.read(MANIFEST)
        sizes = {found.name: found.bytes for found in where.objects()}
    else:
        where = Path(data_dir)
        path = where / MANIFEST
        manifest = path.read_bytes() if path.is_file() else None
        sizes = {p.name: p.stat().st_size for p in where.glob("*")} if where.is_dir() else {}
    if manifest is None:
        raise LaunchError(
            f"--data_dir={data_dir} holds no data set (no {MANIFEST}). Make one with: "
            "python -m preprocess.build_tfrecords --out_dir=..."
        )
    data = parse(manifest, where)
    for shard in data.shards:
        if sizes.get(shard.name) != shard.bytes:
            found = f"{sizes[shard.name]} bytes" if shard.name in sizes else "missing"
            raise LaunchError(
                f"{data_dir}/{shard.name}: {found}, the manifest says {shard.bytes} bytes. "
                "The data set is not whole; build it again."
            )
    return data


def folder_of(aws: Aws, url: str) -> Folder:
    """The folder that `s3://BUCKET/PREFIX` names.

    Raises:
      LaunchError: if it names none.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise LaunchError(f"{url!r}: give s3://BUCKET/PREFIX")
    return Folder(aws.s3, bucket, prefix.strip("/"))


def is_at(data: DataSet, target: Folder) -> bool:
    """Whether a data set was found in this very folder of S3."""
    where = data.where
    return isinstance(where, Folder) and str(where) == str(target)


def upload(data: DataSet, target: Folder, say: Callable[[str], None]) -> None:
    """Brings a data set into a folder of S3, its manifest last; what is there is skipped.

    Raises:
      LaunchError: if a shard is not what the manifest says.
      S3Error: if S3 refuses it.
    """
    if is_at(data, target):
        say(f"data is in place: {target}")
        return
    sent = 0
    for number, shard in enumerate(data.shards, 1):
        if target.has(shard.name, shard.bytes, shard.sha256):
            continue
        if isinstance(data.where, Folder):
            target.copy(data.where, shard.name, shard.name, shard.sha256)
        else:
            _put(data.where / shard.name, shard, target)
        sent += shard.bytes
        say(f"data {number}/{len(data.shards)}: {shard.name} ({shard.bytes / 1e6:.1f} MB)")
    target.put(MANIFEST, data.manifest)
    say(f"data is in {target}: {data.bytes / 1e6:.1f} MB, of which {sent / 1e6:.1f} MB were new")


def _put(path: Path, shard: Shard, target: Folder) -> None:
    target.put(shard.name, path)
    # S3 vouches for what it got; that must be what the manifest promised.
    if not target.has(shard.name, shard.bytes, shard.sha256):
        target.delete([shard.name])
        raise LaunchError(
            f"{path}: its SHA-256 is not the manifest's {shard.sha256}. The file is damaged; "
            "build the data set again."
        )
