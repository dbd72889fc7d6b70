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


class FileError(RuntimeError):
    """A file that is not what it should be; the message says which and what to do."""


def s3_client(session: Any, owner: str = "") -> Any:
    """A client of S3 whose every request names the account that must own the bucket, if given."""
    client = session.client("s3", config=RETRIES)

    def name_owner(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
        is_taken = owner and "ExpectedBucketOwner" in model.input_shape.members
        return params | {"ExpectedBucketOwner": owner} if is_taken else params

    client.meta.events.register("provide-client-params.s3", name_owner)
    return client


@dataclasses.dataclass(frozen=True)
class Object:
    """What S3 lists: name within its folder, size, and when it was put, in seconds since 1970."""

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
        """A folder within this one."""
        return dataclasses.replace(self, prefix=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def objects(self, beginning: str = "") -> list[Object]:
        """Objects in this folder and below whose names begin so, by name; none of no bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._key(beginning)
        )
        start = len(self._key(""))
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
        """A JSON object; empty where there is none."""
        return json.loads(self.read(name) or b"{}")

    def put(self, name: str, content: Any) -> None:
        """Uploads bytes or an open file in one request."""
        self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content)

    def upload(self, name: str, path: Path) -> None:
        """Uploads a file that nobody changes meanwhile, in parts where it is large."""
        self.client.upload_file(str(path), self.bucket, self._key(name))

    def download_all(self, to: Path) -> Iterator[tuple[Path, bool]]:
        """Brings all objects to a folder, whole; yields each and whether it was not there yet.

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
        """Removes all objects; returns how many there were.

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
    """Names and SHA-256 of the files that a data set's manifest names, whatever its version."""
    found = {}

    def note(entry: dict[str, Any]) -> dict[str, Any]:
        if {"name", "sha256"} <= entry.keys():
            found[entry["name"]] = entry["sha256"]
        return entry

    json.loads(manifest or b"{}", object_hook=note)
    return found


def check_data(folder: Path) -> str:
    """Compares a data set with its manifest; returns what was found.

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
