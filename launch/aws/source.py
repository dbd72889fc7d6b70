"""The project's source as one file: what git tracks, as it is in the work tree."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

from launch.aws.session import LaunchError


@dataclasses.dataclass(frozen=True)
class Source:
    """A packed source.

    Attributes:
      content: a tar file; the same files give the same bytes.
      sha256: of it, in hex.
      files: paths in it.
    """

    content: bytes
    sha256: str
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name by content."""
        return f"{self.sha256}.tar"


def pack(project_dir: Path) -> Source:
    """Packs every file that git tracks.

    Untracked files, credentials among them, stay here.

    Raises:
      LaunchError: if that is not known.
    """
    files = tracked(project_dir)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in files:
            path = project_dir / name
            entry = tarfile.TarInfo(name)  # with no time, owner or group
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
                archive.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    content = buffer.getvalue()
    return Source(content, hashlib.sha256(content).hexdigest(), files)


def tracked(project_dir: Path) -> tuple[str, ...]:
    """Names of the files that git tracks and that are there, sorted.

    Raises:
      LaunchError: if git or its repository is not there.
    """
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached"],
            cwd=project_dir,
            capture_output=True,
            check=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise LaunchError("git is needed: the source to upload is what git tracks") from error
    except subprocess.CalledProcessError as error:
        raise LaunchError(
            f"{project_dir}: the source to upload is what git tracks, and git says: "
            f"{error.stderr.strip()}"
        ) from error
    names = sorted({name for name in done.stdout.split("\0") if name})
    there = tuple(name for name in names if os.path.lexists(project_dir / name))
    if "train.py" not in there:
        raise LaunchError(f"{project_dir}: git tracks no train.py there; git add it first")
    return there
