"""Files over HTTP: whole, checked and resumed, with retries where a server fails or stalls."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emotion_tfdata.dataset.atomic_file import digest_of

_BLOCK_BYTES = 1 << 18
_SOCKET_TIMEOUT_S = 60.0
_RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_PART = ".part"


class FetchError(Exception):
    """A file that could not be fetched; says which, why and what to do."""


class StoppedError(Exception):
    """The fetch was told to stop; what it has so far stays."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a server that fails is asked again.

    Attributes:
      attempts: without a byte of progress, before it is given up.
      first_wait_s: after the first failure; doubled after each further one.
      longest_wait_s: also of what the server itself asks for.
    """

    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0

    def wait_s(self, failures: int, asked_s: float | None) -> float:
        """Return the wait after so many failures in a row, or what the server asked for."""
        wanted_s = self.first_wait_s * 2 ** (failures - 1) if asked_s is None else asked_s
        return min(wanted_s, self.longest_wait_s)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
      url: where it is.
      path: where it goes.
      bytes: its size.
      algorithm: `md5` or `sha256`.
      digest: in hex.
      headers: to send along.
    """

    url: str
    path: Path
    bytes: int
    algorithm: str
    digest: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Fetcher:
    """Fetches files; may be used by several threads at once.

    Args:
      patience: with failing servers.
      on_bytes: called with the number of bytes that came in; negative where some are thrown away.
    """

    def __init__(
        self, patience: Patience | None = None, on_bytes: Callable[[int], None] = lambda count: None
    ) -> None:
        self._patience = patience or Patience()
        self._on_bytes = on_bytes
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make all fetches end soon."""
        self._stopped.set()

    def fetch(self, wanted: Wanted) -> None:
        """Fetch a file; it gets its name once it is whole and its digest is right.

        A part from an earlier attempt or process is resumed.

        Raises:
          FetchError: if the server has not got it, keeps failing, or keeps sending other bytes.
          StoppedError: if told to.
          OSError: if it cannot be written.
        """
        wanted.path.parent.mkdir(parents=True, exist_ok=True)
        part = wanted.path.with_name(wanted.path.name + _PART)
        wrong = 0
        while True:
            self._fill(wanted, part)
            whole = part.stat().st_size == wanted.bytes
            if whole and digest_of(part, wanted.algorithm) == wanted.digest:
                os.replace(part, wanted.path)
                return
            self._discard(part)
            wrong += 1
            if wrong == 2:
                raise FetchError(
                    f"{wanted.path.name}: {_plain(wanted.url)} sent other bytes than published "
                    f"({wanted.algorithm} differs), twice. Nothing of it was kept; try again later"
                )

    def get_json(self, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """Request JSON, by POST if there is a `body`.

        Raises:
          FetchError: if it cannot be had.
          StoppedError: if told to.
        """
        data = None if body is None else json.dumps(body).encode()
        failures = 0
        while True:
            try:
                with self._open(url, headers or {}, data) as response:
                    return json.loads(response.read())
            except ValueError as error:
                raise FetchError(f"{_plain(url)}: the answer is not JSON ({error})") from error
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                self._endure(error, _plain(url), failures)

    def _fill(self, wanted: Wanted, part: Path) -> None:
        """Fetch what a partial file lacks."""
        failures = 0
        while True:
            have = part.stat().st_size if part.exists() else 0
            if have > wanted.bytes:
                have = self._discard(part)
            if have == wanted.bytes:
                part.touch()
                return
            try:
                self._receive(wanted, part, have)
                if part.stat().st_size < wanted.bytes:
                    raise urllib.error.URLError("the connection ended early")
                return
            except urllib.error.HTTPError as error:
                if error.code == 416:  # what is here is not a part of what is there
                    self._discard(part)
                failure: Exception = error
            except (urllib.error.URLError, http.client.HTTPException) as error:
                failure = error
            grown = part.exists() and part.stat().st_size > have
            failures = 1 if grown else failures + 1
            self._endure(failure, wanted.path.name, failures)

    def _receive(self, wanted: Wanted, part: Path, have: int) -> None:
        headers = dict(wanted.headers)
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._open(wanted.url, headers, None) as response:
            if have and not _begins_at(response, have):
                have = self._discard(part)  # the server knows no ranges and starts again
            with open(part, "ab") as file:
                while have < wanted.bytes:
                    with _network():
                        block = response.read(min(_BLOCK_BYTES, wanted.bytes - have))
                    if not block:
                        return
                    file.write(block)
                    have += len(block)
                    self._on_bytes(len(block))
                    if self._stopped.is_set():
                        raise StoppedError

    def _open(self, url: str, headers: Mapping[str, str], data: bytes | None) -> Any:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise FetchError(f"{_plain(url)}: neither http nor https")
        if self._stopped.is_set():
            raise StoppedError
        request = urllib.request.Request(url, data, {"User-Agent": "emotion_tfdata", **headers})
        with _network():
            return urllib.request.urlopen(request, timeout=_SOCKET_TIMEOUT_S)

    def _endure(self, error: Exception, what: str, failures: int) -> None:
        """Wait before the next attempt.

        Raises:
          FetchError: if there is to be none.
          StoppedError: if told to meanwhile.
        """
        asked_s = None
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f"HTTP status {error.code}"
            if error.code not in (*_RETRIED_STATUSES, 416):
                raise FetchError(f"{what}: {reason} from {_plain(error.url)}") from error
            asked = error.headers.get("Retry-After", "")
            asked_s = float(asked) if re.fullmatch(r"\d+", asked) else None
        if failures >= self._patience.attempts:
            raise FetchError(
                f"{what}: {reason}, {failures} times one after the other. The same command resumes"
            ) from error
        if self._stopped.wait(self._patience.wait_s(failures, asked_s)):
            raise StoppedError

    def _discard(self, part: Path) -> int:
        if part.exists():
            self._on_bytes(-part.stat().st_size)
            part.unlink()
        return 0


def part_bytes(path: Path) -> int:
    """Return how many bytes of a file an earlier fetch has left."""
    part = path.with_name(path.name + _PART)
    return part.stat().st_size if part.exists() else 0


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Tell the network's errors from the disk's: both are `OSError`, these alone are retried."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except OSError as error:
        raise urllib.error.URLError(error) from error


def _begins_at(response: Any, offset: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found[1]) == offset


def _plain(url: str) -> str:
    """Return a URL without its query, which may hold what is not for logs."""
    return url.split("?", 1)[0]
