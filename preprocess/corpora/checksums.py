"""The corpora's own files, known by their SHA-256.

The lists hold all media of CREMA-D, as its repository states them, and the wavs of RAVDESS. Nobody
publishes checksums of RAVDESS's videos; those are not checked.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import importlib.resources
from collections.abc import Iterable
from pathlib import Path

from emotion_tfdata.dataset.atomic_file import digest_of

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
    """Return a corpus's published files by their names, which are unique in it.

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
    """Return the names of files whose content is not what the corpus published.

    Raises:
      OSError: if a file cannot be read.
    """
    official = official_files(corpus)
    known = [(path, official.get(path.stem + path.suffix.lower())) for path in paths]
    return tuple(path.name for path, file in known if file and not _is_official(path, file))


def _is_official(path: Path, official: OfficialFile) -> bool:
    return path.stat().st_size == official.bytes and digest_of(path) == official.sha256
