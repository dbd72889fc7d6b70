"""The corpora's own files, known by their SHA-256.

The lists hold all media of CREMA-D, as its repository states them, and the wavs of RAVDESS. Nobody
publishes checksums of RAVDESS's videos; those are not checked.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import hashlib
import importlib.resources
import os
from collections.abc import Iterable
from pathlib import Path

CHECKSUMS = ("warn", "require", "off")


@dataclasses.dataclass(frozen=True)
class OfficialFile:
    """One file of a corpus, as its makers published it.

    Attributes:
      path: below the corpus's folder, with `/`; of RAVDESS the name alone.
      sha256: of its content, in hex.
      bytes: its size.
    """

    path: str
    sha256: str
    bytes: int


@functools.cache
def official_files(corpus: str) -> dict[str, OfficialFile]:
    """A corpus's published files by their names, which are unique in it.

    Args:
      corpus: `ravdess` or `crema_d`.
    """
    source = importlib.resources.files("preprocess") / "official" / f"{corpus}_sha256.csv.gz"
    with source.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as text:
        files = {}
        for row in csv.DictReader(text):
            path = row["path"] if "path" in row else row["name"]
            files[path.rsplit("/", 1)[-1]] = OfficialFile(path, row["sha256"], int(row["size"]))
        return files


def altered(corpus: str, paths: Iterable[Path]) -> tuple[str, ...]:
    """Names of those files whose content is not what the corpus published under that name.

    Raises:
      OSError: if a file cannot be read.
    """
    official = official_files(corpus)
    known = [(path, official.get(path.stem + path.suffix.lower())) for path in paths]
    return tuple(path.name for path, file in known if file and not _is_official(path, file))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex.

    Raises:
      OSError: if it cannot be read.
    """
    return digest_of(path, "sha256")


def digest_of(path: str | os.PathLike[str], algorithm: str) -> str:
    """Digest of a file, in hex.

    Args:
      path: the file.
      algorithm: `hashlib`'s name of it.

    Raises:
      OSError: if the file cannot be read.
    """
    # Systems that forbid MD5 do so for security; here it tells of damage.
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_official(path: Path, official: OfficialFile) -> bool:
    return path.stat().st_size == official.bytes and sha256_of(path) == official.sha256
