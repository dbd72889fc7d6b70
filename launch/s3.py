"""Files to and from one folder of S3, each whole and verified by its SHA-256, or not there at all.

Used on both sides, so it needs boto3 alone. S3 computes the checksum of what arrives and refuses an
upload that differs; a put is visible whole or not at all.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import urllib3.exceptions
from botocore.config import Config

# S3's limit for one put, and for the one checksum over the whole that comes with it.
MAX_OBJECT_BYTES = 5 * 1024**3
_PIECE_BYTES = 1024 * 1024
_ATTEMPTS = 8

# 5xx answers, throttling and lost connections are tried again by botocore, up to 20 s apart.
RETRIES = Config(
    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    connect_timeout=10,
    read_timeout=60,
)

# Raised while a body is read, where botocore has no more part in it.
_BROKEN_OFF = (
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.HTTPClientError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
)


class S3Error(RuntimeError):
    """A file that is not in S3 as it should be, or cannot get there."""


class ExistsError(S3Error):
    """An object of a name that was to be new is there already."""


@dataclasses.dataclass(frozen=True)
class Object:
    """What S3 says of an object.

    Attributes:
      name: within its folder.
      bytes: its size.
      sha256: in hex; empty where it was uploaded without one, or as listed.
      etag: of this version.
    """

    name: str
    bytes: int
    sha256: str
    etag: str


def sha256_of(source: Path | bytes) -> str:
    """SHA-256 of a file or of bytes, in hex."""
    digest = hashlib.sha256()
    if isinstance(source, bytes):
        digest.update(source)
    else:
        with open(source, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Folder:
    """A prefix of a bucket.

    Attributes:
      client: boto3's S3 client.
      bucket: its name.
      prefix: with no slash at either end; empty for the whole bucket.
    """

    client: Any
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def folder(self, name: str) -> Folder:
        """A folder within this one."""
        return dataclasses.replace(self, prefix=self.key(name))

    def key(self, name: str) -> str:
        """The key of an object in this folder."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def find(self, name: str) -> Object | None:
        """What S3 holds under a name, or None."""
        try:
            head = self.client.head_object(
                Bucket=self.bucket, Key=self.key(name), ChecksumMode="ENABLED"
            )
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return Object(name, head["ContentLength"], _hex(head.get("ChecksumSHA256")), head["ETag"])

    def has(self, name: str, size: int, sha256: str) -> bool:
        """Whether S3 holds this very content under a name."""
        found = self.find(name)
        return found is not None and (found.bytes, found.sha256) == (size, sha256)

    def put(self, name: str, source: Path | bytes, *, only_new: bool = False) -> bool:
        """Uploads a file or bytes, unless that content is there already.

        Args:
          name: of the object.
          source: what to upload.
          only_new: fail where an object of that name exists, whatever its content.

        Returns:
          Whether anything was sent.

        Raises:
          ExistsError: if `only_new` and it exists.
          S3Error: if it is too large, or S3 got another content than was read here.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > MAX_OBJECT_BYTES:
            raise S3Error(
                f"{name}: {size} bytes; one object takes 5 GiB at most. Build smaller shards."
            )
        sha256 = sha256_of(source)
        if not only_new and self.has(name, size, sha256):
            return False
        try:
            self._put(name, source, sha256, **({"IfNoneMatch": "*"} if only_new else {}))
        except botocore.exceptions.ClientError as error:
            if only_new and error.response["Error"]["Code"] == "PreconditionFailed":
                raise ExistsError(f"{self}/{name} exists") from error
            if error.response["Error"]["Code"] == "BadDigest":
                raise S3Error(
                    f"{source if isinstance(source, Path) else name}: changed while it was "
                    "uploaded, or was damaged on the way; S3 refused it. Try again."
                ) from error
            raise
        return True

    def send(self, name: str, content: bytes) -> None:
        """Uploads bytes without asking first what is there, which a narrow role may not."""
        self._put(name, content, sha256_of(content))

    def _put(self, name: str, source: Path | bytes, sha256: str, **more: str) -> None:
        arguments = {
            "Bucket": self.bucket,
            "Key": self.key(name),
            # S3 computes it too, and refuses what differs.
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            **more,
        }
        if isinstance(source, bytes):
            self.client.put_object(Body=source, **arguments)
            return
        with open(source, "rb") as file:
            self.client.put_object(Body=file, **arguments)

    def copy(self, source: Folder, source_name: str, name: str, sha256: str) -> None:
        """Copies an object of another folder within S3, and verifies what arrived.

        Raises:
          S3Error: if the content is another; nothing of it is left.
        """
        answer = self.client.copy_object(
            Bucket=self.bucket,
            Key=self.key(name),
            CopySource={"Bucket": source.bucket, "Key": source.key(source_name)},
            ChecksumAlgorithm="SHA256",
        )
        found = _hex(answer["CopyObjectResult"].get("ChecksumSHA256"))
        if found != sha256:
            self.delete([name])
            raise S3Error(f"{source}/{source_name}: SHA-256 is {found}, expected {sha256}")

    def read(self, name: str) -> bytes | None:
        """A small object's content, or None where there is none."""
        return self._read(name, ("NoSuchKey", "NoSuchBucket", "404"))

    def read_from(self, name: str, offset: int) -> bytes:
        """What an object holds from `offset` on; nothing where it is no longer, or not there."""
        nothing = ("NoSuchKey", "404", "InvalidRange", "416")
        return self._read(name, nothing, Range=f"bytes={offset}-") or b""

    def _read(self, name: str, nothing: tuple[str, ...], **more: str) -> bytes | None:
        """Content, read whole or asked for again; None where S3 answers a code of `nothing`."""
        for attempt in _attempts(f"{self}/{name}"):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self.key(name), **more)
            except botocore.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in nothing:
                    return None
                raise
            try:
                return answer["Body"].read()
            except _BROKEN_OFF as error:
                attempt(error)
        raise AssertionError("attempts end by raising")

    def download(self, name: str, path: Path, sha256: str = "") -> bool:
        """Brings an object to `path`, unless that content is there already.

        What a broken connection or an earlier call got is kept beside it and gone on from.

        Args:
          name: of the object.
          path: where to; its folder is made.
          sha256: what it must be, in hex; by default what S3 says it is.

        Returns:
          Whether anything was fetched.

        Raises:
          S3Error: if it is not there, or is another content than it should be.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in _attempts(f"{self}/{name}"):
            found = self.find(name)
            if found is None:
                raise S3Error(f"{self}/{name} is not there")
            wanted = sha256 or found.sha256
            same_size = path.is_file() and path.stat().st_size == found.bytes
            if wanted and same_size and sha256_of(path) == wanted:
                return False
            # Named for the version, so that two versions are never put together.
            part = path.with_name(f".{path.name}.{found.etag.strip(chr(34))[:16]}.part")
            for other in path.parent.glob(f".{path.name}.*.part"):
                if other != part:
                    other.unlink()
            try:
                self._go_on(found, part)
            except _BROKEN_OFF as error:
                attempt(error)
                continue
            except botocore.exceptions.ClientError as error:
                if error.response["Error"]["Code"] != "PreconditionFailed":
                    raise
                attempt(error)  # replaced by a newer version meanwhile
                continue
            got = sha256_of(part)
            if wanted and got != wanted:
                part.unlink()
                raise S3Error(f"{self}/{name}: SHA-256 is {got}, expected {wanted}")
            os.replace(part, path)
            return True
        raise AssertionError("attempts end by raising")

    def _go_on(self, found: Object, part: Path) -> None:
        with open(part, "ab") as file:
            if file.tell() > found.bytes:
                file.truncate(0)
            at = file.tell()
            if at == found.bytes:
                return
            answer = self.client.get_object(
                Bucket=self.bucket,
                Key=self.key(found.name),
                Range=f"bytes={at}-",
                IfMatch=found.etag,
            )
            for piece in answer["Body"].iter_chunks(_PIECE_BYTES):
                file.write(piece)
            if file.tell() != found.bytes:
                raise ConnectionError(f"{file.tell()} of {found.bytes} bytes arrived")

    def objects(self, beginning: str = "") -> list[Object]:
        """All objects in this folder and the folders within it, by name; without checksums.

        Args:
          beginning: of their names.
        """
        start = self.key("")
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.key(beginning)
        )
        return [
            Object(entry["Key"][len(start) :], entry["Size"], "", entry["ETag"])
            for page in pages
            for entry in page.get("Contents", [])
        ]

    def folders(self) -> list[str]:
        """Names of the folders directly in this one."""
        start = self.key("")
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=start, Delimiter="/"
        )
        return [
            entry["Prefix"][len(start) :].rstrip("/")
            for page in pages
            for entry in page.get("CommonPrefixes", [])
        ]

    def delete(self, names: list[str]) -> None:
        """Removes objects; those that are not there are no error.

        Raises:
          S3Error: naming the first that could not be removed.
        """
        for start in range(0, len(names), 1000):
            answer = self.client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": self.key(n)} for n in names[start : start + 1000]]},
            )
            for error in answer.get("Errors", []):
                raise S3Error(
                    f"s3://{self.bucket}/{error['Key']}: not removed ({error['Message']})"
                )


def _attempts(what: str) -> Iterator[Callable[[Exception], None]]:
    """Yields a function to call with the error that broke an attempt off; it waits, or gives up."""
    for number in range(_ATTEMPTS):

        def failed(error: Exception, number: int = number) -> None:
            if number + 1 == _ATTEMPTS:
                raise S3Error(f"{what}: broke off {_ATTEMPTS} times, last: {error}") from error
            time.sleep(min(0.2 * 2**number, 10))

        yield failed


def _hex(base64_text: str | None) -> str:
    return base64.b64decode(base64_text).hex() if base64_text else ""
