"""Data sets behind a URL: fetched by fsspec into a cache folder, resumed, verified, then read.

A file has its name in the cache only when its SHA-256 was the manifest's. Its time of modification
is then made a function of that SHA-256: whoever writes to it changes the time, and it is hashed
again before it is used.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from typing import IO, Any

from emotion_tfdata.dataset.atomic_file import digest_of
from emotion_tfdata.dataset.manifest import MANIFEST_NAME, File, Manifest, ManifestError

CACHE_VARIABLE = "EMOTION_TFDATA_CACHE"
_CONNECTIONS = 8
_BLOCK_BYTES = 4 << 20
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2


class StorageError(RuntimeError):
    """A place that cannot be read with what is installed, or at all."""


def cache_folder() -> str:
    """Return the cache's folder: `$EMOTION_TFDATA_CACHE`, or one below the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get(CACHE_VARIABLE) or os.path.join(base, "emotion_tfdata")


class Source:
    """A data set behind a URL, and its folder in the cache.

    Attributes:
      url: of the data set's folder.
      folder: in the cache, by the manifest's SHA-256; empty before the manifest is loaded.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.folder = ""
        self._files, self._path = _file_system(self.url)

    def load_manifest(self) -> Manifest:
        """Read the manifest from the URL, the index and the statistics by way of the cache.

        Raises:
          ManifestError: if there is no data set, or the files are not a data set's.
          StorageError: if the URL does not answer, or the cache cannot be written.
        """

        def read(name: str) -> bytes:
            if name == MANIFEST_NAME:
                content = self._small(name)
                digest = hashlib.sha256(content).hexdigest()
                self.folder = os.path.join(cache_folder(), digest[:32])
                return content
            with open(os.path.join(self.folder, name), "rb") as file:
                return file.read()

        return Manifest.read(read, self.url, self.fetch)

    def fetch(self, files: Sequence[File]) -> None:
        """Fetch files into the cache, several at a time, except those that are there.

        Raises:
          StorageError: for the first that cannot be fetched or kept; what has come of the others is
            kept too.
        """
        missing = [file for file in files if not self._stands(file)]
        if not missing:
            return
        with _named(self.folder):
            os.makedirs(self.folder, exist_ok=True)
            needed = sum(file.bytes for file in missing) - sum(
                os.path.getsize(path) for path in map(self._part, missing) if os.path.exists(path)
            )
            if shutil.disk_usage(self.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
            fetches = [pool.submit(self._fetch, file) for file in missing]
            try:
                for fetch in concurrent.futures.as_completed(fetches):
                    fetch.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _small(self, name: str) -> bytes:
        for attempt in range(_ATTEMPTS):
            try:
                content: bytes = self._files.cat_file(f"{self._path}/{name}")
                return content
            except FileNotFoundError as error:
                raise ManifestError(f"{self.url} holds no data set (no {name})") from error
            except ImportError as error:
                raise _missing(self.url, error) from error
            except Exception as error:
                if attempt == _ATTEMPTS - 1:
                    raise StorageError(f"{self.url}/{name}: cannot be read ({_said(error)})") from (
                        error
                    )
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError

    def _part(self, file: File) -> str:
        return os.path.join(self.folder, f"{file.name}.part")

    def _stands(self, file: File) -> bool:
        """Tell whether a file is in the cache.

        Raises:
          StorageError: if another one is there under its name.
        """
        path = os.path.join(self.folder, file.name)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if status.st_size == file.bytes and status.st_mtime_ns == _stamp_ns(file):
            return True
        if status.st_size != file.bytes or digest_of(path) != file.sha256:
            raise StorageError(
                f"{path} holds other bytes than the manifest states; delete it, and it is fetched "
                "again"
            )
        with contextlib.suppress(OSError):  # read only: hashed again the next time
            os.utime(path, ns=(_stamp_ns(file), _stamp_ns(file)))
        return True

    def _fetch(self, file: File) -> None:
        with _named(self.folder), open(self._part(file), "ab") as part:
            # One process at a time; who waited finds the file.
            fcntl.flock(part, fcntl.LOCK_EX)
            if self._stands(file):
                return
            self._fill(file, part)
            if digest_of(part.name) != file.sha256:
                part.truncate(0)
                raise StorageError(
                    f"{self.url}/{file.name}: its SHA-256 is not the manifest's; the copy behind "
                    "the URL is damaged, or changes while it is read"
                )
            os.fsync(part.fileno())
            os.utime(part.name, ns=(_stamp_ns(file), _stamp_ns(file)))
            os.replace(part.name, os.path.join(self.folder, file.name))

    def _fill(self, file: File, part: IO[bytes]) -> None:
        """Append to a partial file what it lacks, over as many connections as that takes."""
        failures = most = 0
        in_one_go = False
        while (have := part.seek(0, os.SEEK_END)) < file.bytes:
            error: Exception | None = None
            try:
                self._append(file, part, have, in_one_go)
            except ImportError as found:
                raise _missing(self.url, found) from found
            except FileNotFoundError as found:
                raise StorageError(f"{self.url}/{file.name} is missing") from found
            except Exception as found:
                if isinstance(found, OSError) and found.errno in _OF_THE_CACHE:
                    raise
                error = found
                # fsspec's word for a server that gives no part of a file.
                in_one_go = in_one_go or isinstance(found, ValueError)
            part.flush()
            if (have := part.seek(0, os.SEEK_END)) > most:
                failures, most = 0, have
                continue
            failures += 1
            if failures == _ATTEMPTS:
                raise StorageError(
                    f"{self.url}/{file.name}: interrupted after {part.tell()} of {file.bytes} "
                    f"bytes, {_ATTEMPTS} times ({_said(error)}); the same call resumes there"
                )
            time.sleep(_FIRST_PAUSE_S * 2**failures)
        if part.tell() > file.bytes:
            part.truncate(0)
            raise StorageError(
                f"{self.url}/{file.name} is larger than the {file.bytes} bytes of the manifest"
            )

    def _append(self, file: File, part: IO[bytes], have: int, in_one_go: bool) -> None:
        """Copy from a byte on, or again in one go, until the end or a broken connection."""
        options = {"block_size": 0} if in_one_go else {"block_size": _BLOCK_BYTES}
        path = f"{self._path}/{file.name}"
        with self._files.open(path, "rb", cache_type="none", **options) as source:
            if in_one_go:
                part.truncate(0)
            elif have:
                source.seek(have)
            while content := source.read(_BLOCK_BYTES):
                part.write(content)


_OF_THE_CACHE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@contextlib.contextmanager
def _named(folder: str) -> Any:
    """Raise errors of the cache folder as ones that say what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{folder}: the cache cannot be written ({error.strerror or error}). Make room or mend "
            f"it, or name another folder: {CACHE_VARIABLE}=/path"
        ) from error


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise StorageError(
            f"{url}: URLs are read by fsspec: pip install 'emotion_tfdata[remote]'"
        ) from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise _missing(url, error) from error
    except ValueError as error:
        raise StorageError(f"{url}: {error}") from error
    return files, path


def _missing(url: str, error: ImportError) -> StorageError:
    return StorageError(f"{url}: {error}")


def _said(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _stamp_ns(file: File) -> int:
    """Return a time between 2001 and 2035 that stands for a file's SHA-256."""
    return (10**9 + int(file.sha256[:16], 16) % (1 << 30)) * 10**9
