"""Pack the project's source, the files that git tracks, and check it where it is unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from launch.aws import LaunchError, say


def pack(project_dir: Path, command: str) -> tuple[bytes, str]:
    """Pack every file that git tracks; untracked files, such as credentials, stay here.

    Args:
      project_dir: the project's top folder.
      command: that is to run in it, checked as far as can be without running it.

    Returns:
      A tar file, the same bytes for the same files, and its SHA-256 in hex.

    Raises:
      LaunchError: if git does not say, or the command cannot run on what is packed.
    """
    code = ("*.py", "*.flags", "launch/*.lock")
    untracked = _git(project_dir, "--others", "--exclude-standard", *code)
    if untracked:
        more = f" and {len(untracked) - 5} more" if len(untracked) > 5 else ""
        say(f"not tracked by git, so not on the machine: {', '.join(untracked[:5])}{more}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in _git(project_dir, "--cached"):
            if os.path.lexists(project_dir / name):
                archive.add(project_dir / name, name, recursive=False, filter=_anonymous)
    content = buffer.getvalue()
    with tempfile.TemporaryDirectory() as unpacked:
        buffer.seek(0)
        with tarfile.open(fileobj=buffer) as archive:
            archive.extractall(unpacked, filter="tar")
        _check(Path(unpacked), shlex.split(command), untracked)
    return content, hashlib.sha256(content).hexdigest()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove time and owner, which differ where the files do not."""
    mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry.replace(mtime=0, mode=mode, uid=0, gid=0, uname="", gname="", deep=False)


def _check(project_dir: Path, command: list[str], untracked: list[str]) -> None:
    """Check `python FILE` or `python -m MODULE` as far as can be without running it."""
    if command[:1] != ["python"] or len(command) < 2:
        return
    hint = f"; git does not track {', '.join(untracked)}" if untracked else ""
    places = [command[1]]
    if command[1] == "-m" and len(command) > 2:
        places = [f"{command[2].replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
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


def _git(project_dir: Path, *which: str) -> list[str]:
    """Return the sorted names that `git ls-files` prints."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", *which], cwd=project_dir, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise LaunchError("git is needed: the source to upload is what git tracks") from error
    if done.returncode:
        raise LaunchError(
            f"{project_dir}: the source to upload is what git tracks, and git says: "
            f"{done.stderr.strip()}"
        )
    return sorted(filter(None, done.stdout.split("\0")))
