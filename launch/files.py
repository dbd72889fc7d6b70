"""Copy files to and from a folder of S3, here and on the machine. Needs boto3 alone.

boto3 and S3 compare a checksum at every upload and download; an object is stored whole or not at
all.
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


class FileError(RuntimeError):
    """A file that is missing or damaged; the message says which and what to do."""


def s3_client(session: Any, bucket: str, owner: str) -> Any:
    """Make a client of S3 that names the owner, an account, in every request to the bucket."""
    client = session.client("s3", config=RETRIES)

    def name_owner(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        takes_owner = "ExpectedBucketOwner" in model.input_shape.members
        is_own = params.get("Bucket") == bucket and takes_owner
        return params | {"ExpectedBucketOwner": owner} if is_own else params

    client.meta.events.register("provide-client-params.s3", name_owner)
    return client


@dataclasses.dataclass(frozen=True)
class Object:
    """An object of S3: name within its folder, size, and when it was put, in s since 1970."""

    name: str
    bytes: int
    modified: float


@dataclasses.dataclass(frozen=True)
class Folder:
    """A prefix of a bucket, with no slash at either end."""

    client: Any
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def folder(self, name: str) -> Folder:
        """Return a folder within this one."""
        return dataclasses.replace(self, prefix=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def objects(self, beginning: str = "") -> list[Object]:
        """List the objects whose names begin so, sorted; none if there is no bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._key(beginning)
        )
        start = len(self._key(""))
        try:
            return [
                Object(one["Key"][start:], one["Size"], one["LastModified"].timestamp())
                for one in pages.search("Contents[]")
                if one  # None of an empty page
            ]
        except self.client.exceptions.NoSuchBucket:
            return []

    def read(self, name: str, offset: int = 0) -> bytes | None:
        """Return a small object's content from `offset` on, or None if there is no object."""
        more = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name), **more)
        except botocore.exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":
                return b""
            if code in ("NoSuchKey", "NoSuchBucket"):
                return None
            raise
        return answer["Body"].read()

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON object; empty if there is none."""
        return json.loads(self.read(name) or b"{}")

    def put(self, name: str, content: Any) -> None:
        """Upload bytes or an open file in one request."""
        self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content)

    def upload(self, name: str, path: Path) -> None:
        """Upload a file that does not change meanwhile, in parts if it is large."""
        self.client.upload_file(str(path), self.bucket, self._key(name))

    def download_all(self, to: Path) -> Iterator[tuple[Path, bool]]:
        """Download all objects to a folder; yield each path, and whether it was downloaded now.

        Raises:
          FileError: if a name leads out of the folder.
        """
        for found in self.objects():
            if found.name.endswith("/") or not found.name:
                continue  # a console's idea of a folder
            path = to / found.name
            if not path.resolve().is_relative_to(to.resolve()):
                raise FileError(f"{self}/{found.name}: the name leads out of {to}; not fetched")
            here = path.stat() if path.is_file() else None
            is_new = not here or (here.st_size, here.st_mtime) != (found.bytes, found.modified)
            if is_new:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.client.download_file(self.bucket, self._key(found.name), str(path))
                os.utime(path, (found.modified, found.modified))
            yield path, is_new

    def delete_all(self) -> int:
        """Delete all objects; return how many there were.

        Raises:
          FileError: naming the first that could not be removed.
        """
        names = [one.name for one in self.objects()]
        for start in range(0, len(names), 1000):
            keys = [{"Key": self._key(name)} for name in names[start : start + 1000]]
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys})
            for error in answer.get("Errors", []):
                raise FileError(f"{self.bucket}/{error['Key']}: not removed ({error['Message']})")
        return len(names)


def named_by(manifest: bytes) -> dict[str, str]:
    """Return names and SHA-256 of the files in a data set's manifest of any version."""
    found = {}

    def note(entry: dict[str, Any]) -> dict[str, Any]:
        if {"name", "sha256"} <= entry.keys():
            found[entry["name"]] = entry["sha256"]
        return entry

    json.loads(manifest or b"{}", object_hook=note)
    return found


def check_data(folder: Path) -> str:
    """Compare a data set with its manifest; return the result in words.

    Raises:
      FileError: naming the file that is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        return "no manifest to compare with"
    files = named_by((folder / MANIFEST).read_bytes())
    for name, wanted in files.items():
        if not (folder / name).is_file():
            raise FileError(f"{folder / name}: missing; the manifest names it")
        with open(folder / name, "rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != wanted:
            raise FileError(f"{folder / name}: SHA-256 is not the one that the manifest says")
    return f"{len(files)} files are what the manifest says"
