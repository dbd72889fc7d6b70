"""Keeps a copy of the training's folder in S3, and brings it back."""

from __future__ import annotations

import os
from pathlib import Path

from launch.s3 import Folder

# What says that a training is finished is uploaded last, so that it never lies.
_LAST = "report.json"


class Mirror:
    """A folder's files in S3, each as it was at some moment.

    The trainer replaces its files by rename and lets event files grow: what is read from an open
    file up to its size is a whole file either way.
    """

    def __init__(self, local: Path, folder: Folder) -> None:
        self._local = local
        self._folder = folder
        self._sent: dict[str, tuple[int, int, int]] = {}

    def push(self) -> int:
        """Uploads what has changed; returns the number of files.

        Raises:
          botocore.exceptions.BotoCoreError, ClientError: if S3 does not take a file. What was
            uploaded counts; the next call goes on.
        """
        sent = 0
        for name in self._names():
            try:
                with open(self._local / name, "rb") as file:
                    status = os.fstat(file.fileno())
                    version = (status.st_ino, status.st_size, status.st_mtime_ns)
                    if self._sent.get(name) == version:
                        continue
                    content = file.read(status.st_size)
            except FileNotFoundError:
                continue  # replaced or removed meanwhile: the next call sees what it is now
            self._folder.send(name, content)
            self._sent[name] = version
            sent += 1
        return sent

    def _names(self) -> list[str]:
        names = [
            path.relative_to(self._local).as_posix()
            for path in self._local.rglob("*")
            if path.is_file() and not _is_temporary(path.relative_to(self._local))
        ]
        return sorted(
            names, key=lambda name: (Path(name).name == _LAST, name.count("/") * -1, name)
        )


def _is_temporary(path: Path) -> bool:
    """Whether it is being written, or lies in a folder that is."""
    return any(part.startswith(".") or part.endswith(".tmp") for part in path.parts)


def pull(folder: Folder, local: Path) -> int:
    """Brings all files of a folder here, each verified; returns their number."""
    found = folder.objects()
    for entry in found:
        folder.download(entry.name, local / entry.name)
    return len(found)
