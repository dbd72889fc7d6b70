"""Files to and from a folder of S3, on the caller's side and on the machine's. Needs boto3 alone.

boto3 sends a checksum with every upload, which S3 compares, and compares that of every download;
what is put is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
from botocore.config import Config

# Throttling, 5xx answers and lost connections are retried by botocore, up to 20 s apart.
RETRIES = Config(
    retries={"mode": "standard", "total_max_attempts": 8}, connect_timeout=10, read_timeout=60
)
MANIFEST = "manifest.json"
_MISSING = ("NoSuchKey", "NoSuchBucket", "404")


class FileError(RuntimeError):
    """A file that is not what it should be; the message says which and what to do."""


@dataclasses.dataclass(frozen=True)
class Object:
    """What S3 lists: name within its folder, size, and when it was put, in seconds since 1970."""

    name: str
    bytes: int
    modified: float


@dataclasses.dataclass(frozen=True)
class Folder:
    """A prefix of a bucket.

    Attributes:
      client: boto3's S3 client.
      bucket: its name.
      prefix: with no slash at either end.
      owner: account that must own the bucket, sent with every request; empty for any.
    """

    client: Any
    bucket: str
    prefix: str
    owner: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def folder(self, name: str) -> Folder:
        """A folder within this one."""
        return dataclasses.replace(self, prefix=self.key(name))

    def key(self, name: str) -> str:
        """The key of an object in this folder."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def objects(self, beginning: str = "") -> list[Object]:
        """Objects in this folder and below whose names begin so, by name; none of no bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.key(beginning), **self._owned
        )
        start = len(self.key(""))
        try:
            return [
                Object(entry["Key"][start:], entry["Size"], entry["LastModified"].timestamp())
                for page in pages
                for entry in page.get("Contents", [])
            ]
        except self.client.exceptions.NoSuchBucket:
            return []

    def read(self, name: str, offset: int = 0) -> bytes | None:
        """A small object's content from `offset` on, or None where there is none."""
        more = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self.client.get_object(
                Bucket=self.bucket, Key=self.key(name), **more, **self._owned
            )
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":
                return b""
            if code in _MISSING:
                return None
            raise
        return answer["Body"].read()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where there is none."""
        content = self.read(name)
        return {} if content is None else json.loads(content)

    def put(self, name: str, content: Any) -> None:
        """Uploads bytes or an open file in one request."""
        self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=content, **self._owned)

    def upload(self, name: str, path: Path) -> None:
        """Uploads a file that nobody changes meanwhile, in parts where it is large."""
        self.client.upload_file(
            str(path), self.bucket, self.key(name), ExtraArgs=self._owned or None
        )

    def download(self, found: Object, path: Path) -> bool:
        """Brings an object here whole, unless it is here; returns whether it was fetched."""
        if path.is_file():
            status = path.stat()
            if (status.st_size, status.st_mtime) == (found.bytes, found.modified):
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        self.client.download_file(
            self.bucket, self.key(found.name), str(path), ExtraArgs=self._owned or None
        )
        os.utime(path, (found.modified, found.modified))
        return True

    def download_all(self, to: Path) -> Iterator[tuple[Path, Object, bool]]:
        """Brings all objects to a folder; yields each and whether it was fetched.

        Raises:
          FileError: if a name leads out of the folder.
        """
        for found in self.objects(""):
            if found.name.endswith("/") or not found.name:
                continue  # a console's idea of a folder
            path = to / found.name
            if not path.resolve().is_relative_to(to.resolve()):
                raise FileError(f"{self}/{found.name}: the name leads out of {to}; not fetched")
            yield path, found, self.download(found, path)

    def delete(self, names: list[str]) -> None:
        """Removes objects; those that are not there are no error.

        Raises:
          FileError: naming the first that could not be removed.
        """
        for start in range(0, len(names), 1000):
            keys = [{"Key": self.key(name)} for name in names[start : start + 1000]]
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": keys}, **self._owned
            )
            for error in answer.get("Errors", []):
                raise FileError(f"{self.bucket}/{error['Key']}: not removed ({error['Message']})")

    def delete_all(self, last: str = "") -> int:
        """Removes all objects, one of them last; returns how many there were."""
        names = [one.name for one in self.objects("") if one.name != last]
        self.delete(names)
        self.delete([last] if last else [])
        return len(names)

    @property
    def _owned(self) -> dict[str, str]:
        return {"ExpectedBucketOwner": self.owner} if self.owner else {}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def named_by(manifest: bytes) -> dict[str, str]:
    """Names and SHA-256 of the files that a data set's manifest names, whatever its version."""

    def walk(node: Any) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if isinstance(node.get("name"), str) and isinstance(node.get("sha256"), str):
                yield node["name"], node["sha256"]
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                yield from walk(one)

    return dict(walk(json.loads(manifest)))


def check_data(folder: Path, sha256: str) -> str:
    """Compares a data set with its manifest, and that with its SHA-256; returns what was found.

    Raises:
      FileError: naming the file that is missing or differs.
    """
    path = folder / MANIFEST
    if not sha256:
        return "no manifest to compare with"
    if not path.is_file() or sha256_of(path) != sha256:
        raise FileError(f"{path}: missing, or not the one that the run was deployed with")
    files = named_by(path.read_bytes())
    for name, wanted in files.items():
        if not (folder / name).is_file():
            raise FileError(f"{folder / name}: missing; the manifest names it")
        if (found := sha256_of(folder / name)) != wanted:
            raise FileError(f"{folder / name}: SHA-256 is {found}, the manifest says {wanted}")
    return f"{len(files)} files are what the manifest says"
