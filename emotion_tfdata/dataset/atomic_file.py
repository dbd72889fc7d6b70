"""Writes files whole or not at all, and digests them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name to write to; the file then takes the place of `path` on the disk.

    Whoever fails meanwhile leaves what was there before; a process that dies leaves `.NAME.*.tmp`,
    which no other process's is called, on this machine or any other.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def digest_of(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Return the digest of a file, in hex.

    Args:
      path: the file.
      algorithm: `hashlib`'s name of it.

    Raises:
      OSError: if it cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
