"""The project's source as one file: what git tracks, checked where it is unpacked again."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from launch.aws import LaunchError

_CODE = ("*.py", "*.flags", "launch/*.lock")


@dataclasses.dataclass(frozen=True)
class Source:
    """A packed source: a tar file, the same bytes for the same files, and its SHA-256 in hex."""

    content: bytes
    sha256: str


def pack(project_dir: Path, command: str, say: Callable[[str], None]) -> Source:
    """Packs every file that git tracks; untracked files, credentials among them, stay here.

    Args:
      project_dir: the project's top folder.
      command: that is to run in it, checked as far as can be without running it.
      say: told of code that git does not track, which the machine will not have.

    Raises:
      LaunchError: if git does not say, or the command cannot run on what is packed.
    """
    names = sorted(
        name
        for name in _git(project_dir, "ls-files", "-z", "--cached").split("\0")
        if name and os.path.lexists(project_dir / name)
    )
    others = _git(project_dir, "ls-files", "-z", "--others", "--exclude-standard", *_CODE)
    if untracked := sorted(filter(None, others.split("\0"))):
        more = f" and {len(untracked) - 5} more" if len(untracked) > 5 else ""
        say(f"not tracked by git, so not on the machine: {', '.join(untracked[:5])}{more}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
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
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(unpacked, filter="tar")
        _check(Path(unpacked), shlex.split(command), untracked)
    return Source(content, hashlib.sha256(content).hexdigest())


def _check(project_dir: Path, command: list[str], untracked: list[str]) -> None:
    """What can be known before a machine costs money, of `python FILE` and `python -m MODULE`."""
    if command[:1] != ["python"] or len(command) < 2:
        return
    hint = f"; git does not track {', '.join(untracked)}" if untracked else ""
    if command[1] == "-m" and len(command) > 2:
        places = [f"{command[2].replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
    else:
        places = [command[1]]
    if not any((project_dir / place).is_file() for place in places):
        raise LaunchError(f"{' or '.join(places)} is not among the files that git tracks{hint}")
    if command[1] == "train.py":
        arguments = [one for one in command[2:] if "{data}" not in one and "{out}" not in one]
        done = subprocess.run(
            [sys.executable, "train.py", *arguments, "--only_check_args"],
            cwd=project_dir,
            env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise LaunchError(f"train.py does not take {shlex.join(arguments)}: {said}{hint}")


def _git(project_dir: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=project_dir, capture_output=True, check=True, text=True
        )
    except FileNotFoundError as error:
        raise LaunchError("git is needed: the source to upload is what git tracks") from error
    except subprocess.CalledProcessError as error:
        raise LaunchError(
            f"{project_dir}: the source to upload is what git tracks, and git says: "
            f"{error.stderr.strip()}"
        ) from error
    return done.stdout
