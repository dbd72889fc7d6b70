"""Files of clips: on this machine, or behind a URL that fsspec opens."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_CONNECTIONS = 16


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file behind a URL.

    Attributes:
      url: that fsspec opens.
      size: its bytes, as its server says; -1 where it does not.
      version: what tells its content from another under the same URL (fsspec's `ukey`).
    """

    url: str
    size: int = -1
    version: str = ""

    @property
    def name(self) -> str:
        """The URL's last part, without query."""
        return posixpath.basename(urlsplit(self.url).path)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return posixpath.splitext(self.name)[1]


File = Path | Remote


def is_url(text: str) -> bool:
    """Tell whether a text is a URL rather than a path."""
    return "://" in text


def identity(file: File) -> list[Any]:
    """Return what tells a file from another of its name: size, and time of change or version.

    Raises:
      OSError: if it is not there.
    """
    if isinstance(file, Remote):
        return [file.size, file.version]
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]


def look_up(urls: Iterable[str]) -> Mapping[str, Remote | OSError]:
    """Ask the servers of some URLs for their files, several at a time; errors are returned."""
    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        urls = list(dict.fromkeys(urls))
        return dict(zip(urls, pool.map(_look_up, urls), strict=True))


def _look_up(url: str) -> Remote | OSError:
    try:
        files, path = _open(url)
        info = files.info(path)
        if info.get("type") == "directory":
            return OSError(errno.EISDIR, "a folder, not a file", url)
        size = info.get("size")
        return Remote(url, -1 if size is None else int(size), str(files.ukey(path)))
    except FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "is not there", url)
    except OSError as error:
        return error
    except Exception as error:  # of the many libraries behind fsspec, each has errors of its own
        return OSError(errno.ECONNABORTED, f"{type(error).__name__}: {error}", url)


@contextlib.contextmanager
def local(files: Iterable[File], kept_in: Path | None = None) -> Iterator[list[Path]]:
    """Bring files to this machine for as long as they are read.

    Args:
      files: each once.
      kept_in: folder where what is behind a URL is kept for others that read it too, whatever
        process they are; None for one that is removed afterwards.

    Yields:
      Their paths.

    Raises:
      OSError: for one that cannot be fetched.
    """
    files = list(files)
    with contextlib.ExitStack() as stack:
        paths: dict[File, Path] = {}
        for number, file in enumerate(dict.fromkeys(files)):
            if isinstance(file, Path):
                paths[file] = file
                continue
            if kept_in:
                paths[file] = _fetch_once(file, kept_in)
                continue
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clip_")))
            paths[file] = folder / f"{number}{file.suffix}"
            _fetch(file, paths[file])
        yield [paths[file] for file in files]


def kept_path(file: Remote, folder: Path) -> Path:
    """Return where `local` keeps a file: content that changes under a URL is another file."""
    name = hashlib.sha256(f"{file.url} {file.size} {file.version}".encode()).hexdigest()
    return folder / f"{name}{file.suffix}"


def forget(file: Remote, folder: Path) -> None:
    """Remove what `local` keeps of a file."""
    path = kept_path(file, folder)
    for each in (path, path.with_suffix(".lock")):
        each.unlink(missing_ok=True)


def _fetch_once(file: Remote, folder: Path) -> Path:
    """Return the kept file; whoever asks for it first fetches it, the others wait."""
    folder.mkdir(exist_ok=True)
    path = kept_path(file, folder)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_suffix(".part")
            _fetch(file, part)
            os.replace(part, path)
    return path


def _fetch(file: Remote, path: Path) -> None:
    try:
        files, remote_path = _open(file.url)
        with files.open(remote_path, "rb") as source, open(path, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except OSError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise OSError(errno.ECONNABORTED, reason, file.url) from error
    if file.size not in (-1, path.stat().st_size):
        reason = f"{path.stat().st_size} of {file.size} bytes came"
        raise OSError(errno.ECONNABORTED, reason, file.url)


def _open(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise OSError(
            errno.ENOPKG, "URLs are read by fsspec: pip install 'emotion_tfdata[remote]'", url
        ) from error
    files, path = fsspec.core.url_to_fs(url)
    return files, path
