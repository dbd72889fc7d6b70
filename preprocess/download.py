"""Fetches a corpus from where its makers published it.

  python -m preprocess.download --corpus=ravdess|crema_d --out_dir=D [--parts=video,audio,...]

The same command resumes where it stopped. Every file is compared with its published checksum.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags

from preprocess import cli
from preprocess.builder import lock
from preprocess.corpora.checksums import official_files
from preprocess.corpora.fetch import Fetcher, FetchError, Patience, StoppedError, Wanted, part_bytes
from preprocess.reports.summary import clock

BASE_URLS = {
    "ravdess": "https://zenodo.org",
    "crema_d": "https://github.com/CheyneyComputerScience/CREMA-D.git/info/lfs",
}
TERMS = {
    "ravdess": (
        "RAVDESS is under CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/): "
        "not for commercial use; name its makers; share alike.\n"
        "Livingstone and Russo 2018, PLoS ONE 13(5): e0196391. "
        "https://zenodo.org/records/1188976"
    ),
    "crema_d": (
        "CREMA-D is under the Open Database License 1.0, its contents under the Database Contents "
        "License 1.0 (https://opendatacommons.org/licenses/).\n"
        "Cao et al. 2014, IEEE Transactions on Affective Computing 5(4). "
        "https://github.com/CheyneyComputerScience/CREMA-D"
    ),
}
# Of RAVDESS: record and the beginning of the zips' names. Of CREMA-D: folder.
_RAVDESS_PARTS = {
    "video": ("1188976", "Video_Speech_Actor_"),
    "audio": ("1188976", "Audio_Speech_Actors_"),
    "tracking": ("3255102", "FacialTracking_Actors_"),
}
_CREMA_D_PARTS = {"video": "VideoFlash/", "audio": "AudioWAV/", "mp3": "AudioMP3/"}
# MD5 of zips known beforehand; of the others Zenodo tells it.
_KNOWN_MD5 = {
    "Audio_Speech_Actors_01-24.zip": "bc696df654c87fed845eb13823edef8a",
    "FacialTracking_Actors_01-24.zip": "5753bbc64a9a790f8a8d3e03cba526ee",
}
# What a zip unpacks to, in sizes of the zip: video does not compress, text does well.
_UNPACKED = {"video": 1.05, "audio": 3.0, "tracking": 6.0}
_LOCK_NAME = ".download.lock"
_BATCH = 100  # objects a request: what GitHub takes
_LFS_JSON = "application/vnd.git-lfs+json"


def download(
    corpus: str,
    out_dir: Path,
    *,
    parts: Sequence[str] = ("video",),
    base_url: str | None = None,
    num_connections: int = 4,
    patience: Patience | None = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Download what is missing.

    Args:
      corpus: `ravdess` or `crema_d`.
      out_dir: where to.
      parts: which of its media.
      base_url: of another server with the same interface.
      num_connections: at once.
      patience: with failing servers.
      tell: gets lines for the user.

    Returns:
      How many files (of RAVDESS, zips) were fetched.

    Raises:
      FetchError: if a file cannot be had, the disk is too small, or another process is at it.
      OSError: if one cannot be written.
    """
    known = _RAVDESS_PARTS if corpus == "ravdess" else _CREMA_D_PARTS
    parts = [*dict.fromkeys(parts)]
    for part in parts or [""]:
        if part not in known:
            raise FetchError(f"{corpus} has the parts {', '.join(known)}, not {part!r}")
    tell(TERMS[corpus])
    out_dir.mkdir(parents=True, exist_ok=True)
    base_url = (base_url or BASE_URLS[corpus]).rstrip("/")
    with contextlib.ExitStack() as stack:
        try:  # two would write into the same parts
            stack.enter_context(lock.held(out_dir / _LOCK_NAME))
        except BlockingIOError as error:
            raise FetchError(f"{out_dir}: another download is writing here; let it end") from error
        return _download(corpus, out_dir, parts, base_url, num_connections, patience, tell)


def _download(
    corpus: str,
    out_dir: Path,
    parts: Sequence[str],
    base_url: str,
    num_connections: int,
    patience: Patience | None,
    tell: Callable[[str], None],
) -> int:
    progress = _Progress(tell)
    fetcher = Fetcher(patience, progress.add)
    if corpus == "ravdess":
        zips = _missing_zips(fetcher, base_url, out_dir, parts)
        lacking = [_lacking(wanted) for _, wanted in zips]
        # Unpacked, a zip is removed: at once there are as many as are fetched at once.
        needed = sum(wanted.bytes * _UNPACKED[part] for part, wanted in zips)
        needed += sum(sorted(lacking)[-num_connections:])
        jobs: Iterator[Callable[[], None]] = (
            lambda wanted=wanted: _fetch_zip(fetcher, wanted)  # type: ignore[misc]
            for _, wanted in zips
        )
        sizes = lacking
        there = sum(_is_there(wanted.path, wanted.bytes) for _, wanted in zips)
    else:
        missing = [
            (file.path, file.sha256, file.bytes)
            for file in official_files("crema_d").values()
            if file.path.startswith(tuple(_CREMA_D_PARTS[part] for part in parts))
            and not _is_there(out_dir / file.path, file.bytes)
        ]
        sizes = [size - part_bytes(out_dir / path) for path, _, size in missing]
        needed = sum(sizes)
        there = 0
        jobs = (
            lambda wanted=wanted: fetcher.fetch(wanted)  # type: ignore[misc]
            for wanted in _lfs_objects(fetcher, base_url, out_dir, missing)
        )
    free = shutil.disk_usage(out_dir).free
    if needed > free:
        raise FetchError(
            f"{out_dir} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed"
        )
    if not sizes:
        tell(f"everything is in {out_dir} already")
        return 0
    progress.start(len(sizes), sum(sizes), there)
    _run(jobs, fetcher, num_connections, progress)
    return len(sizes) - there


def _run(
    jobs: Iterator[Callable[[], None]], fetcher: Fetcher, num_connections: int, progress: _Progress
) -> None:
    """Run the jobs, a few at once; new ones only as old ones end, since URLs expire."""
    with concurrent.futures.ThreadPoolExecutor(num_connections) as pool:
        running: set[concurrent.futures.Future[None]] = set()
        try:
            while True:
                for job in itertools.islice(jobs, num_connections - len(running)):
                    running.add(pool.submit(job))
                if not running:
                    return
                done, running = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    future.result()
                    progress.file_done()
        finally:  # in the good case there is nothing left to stop
            fetcher.stop()


def _is_there(path: Path, size: int) -> bool:
    """Tell whether a file is there (checked files alone have the name), and no Git LFS pointer."""
    return path.is_file() and path.stat().st_size == size


def _missing_zips(
    fetcher: Fetcher, base_url: str, out_dir: Path, parts: Sequence[str]
) -> list[tuple[str, Wanted]]:
    found = []
    for part in parts:
        record, prefix = _RAVDESS_PARTS[part]
        answer = fetcher.get_json(f"{base_url}/api/records/{record}")
        try:
            files = [
                (str(file["key"]), int(file["size"]), str(file["checksum"]))
                for file in answer["files"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise FetchError(f"{base_url}: record {record} has no list of files") from error
        names = [name for name, _, _ in files if name.startswith(prefix) and name.endswith(".zip")]
        if not names:
            raise FetchError(f"{base_url}: record {record} has no {prefix}*.zip")
        for name, size, checksum in sorted(files):
            if name not in names or Path(name).name != name or (out_dir / name[:-4]).is_dir():
                continue
            algorithm, _, digest = checksum.partition(":")
            wanted = Wanted(
                f"{base_url}/records/{record}/files/{name}?download=1",
                out_dir / name,
                size,
                "md5" if name in _KNOWN_MD5 else algorithm,
                _KNOWN_MD5.get(name, digest),
            )
            found.append((part, wanted))
    return found


def _lacking(wanted: Wanted) -> int:
    """Return how many bytes of a zip are still to be fetched."""
    if _is_there(wanted.path, wanted.bytes):  # unpacking it was interrupted
        return 0
    return wanted.bytes - part_bytes(wanted.path)


def _fetch_zip(fetcher: Fetcher, wanted: Wanted) -> None:
    """Fetch a zip and unpack it into a folder of its name, which appears once it is whole."""
    if not _is_there(wanted.path, wanted.bytes):
        fetcher.fetch(wanted)
    folder = wanted.path.with_suffix("")
    unfinished = folder.with_name(f".{folder.name}.part")
    if unfinished.exists():  # of a run that was interrupted
        shutil.rmtree(unfinished)
    try:
        with zipfile.ZipFile(wanted.path) as packed:
            packed.extractall(unfinished)  # keeps inside of the folder, and checks each file's CRC
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wanted.path} cannot be unzipped ({error})") from error
    unfinished.rename(folder)
    wanted.path.unlink()


def _lfs_objects(
    fetcher: Fetcher, base_url: str, out_dir: Path, files: Sequence[tuple[str, str, int]]
) -> Iterator[Wanted]:
    """Request from a Git LFS server where files are, a batch at a time."""
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        answer = fetcher.get_json(
            f"{base_url}/objects/batch",
            {
                "operation": "download",
                "transfers": ["basic"],
                "objects": [{"oid": oid, "size": size} for _, oid, size in batch],
            },
            {"Accept": _LFS_JSON, "Content-Type": _LFS_JSON},
        )
        try:
            actions = {each["oid"]: each for each in answer["objects"]}
        except (KeyError, TypeError) as error:
            raise FetchError(f"{base_url}: not the answer of a Git LFS server") from error
        for path, oid, size in batch:
            action = actions.get(oid, {})
            try:
                link = action["actions"]["download"]
                href, headers = str(link["href"]), dict(link.get("header") or {})
            except (KeyError, TypeError) as error:
                reason = (action.get("error") or {}).get("message", "it gives no link")
                raise FetchError(f"{path}: the Git LFS server has it not ({reason})") from error
            yield Wanted(href, out_dir / path, size, "sha256", oid, headers)


class _Progress:
    """Counts bytes and files, and says so every few seconds."""

    _EVERY_S = 5.0

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._files = self._bytes = self._done_files = self._done_bytes = 0
        self._began_s = self._told_s = time.monotonic()

    def start(self, files: int, size: int, there: int) -> None:
        """Begin; `there` of the files are only to be unpacked."""
        self._files, self._bytes = files, size
        more = f"; {there} here to be unpacked" if there else ""
        self._tell(f"{files - there} files to fetch, {size / 1e6:.1f} MB{more}")

    def add(self, count: int) -> None:
        with self._lock:
            self._done_bytes += count
            now_s = time.monotonic()
            if now_s - self._told_s < self._EVERY_S:
                return
            self._told_s = now_s
            rate = max(self._done_bytes / (now_s - self._began_s), 1.0)
        left_s = max(self._bytes - self._done_bytes, 0) / rate
        self._tell(
            f"{self._done_files}/{self._files} files, {self._done_bytes / 1e6:.0f}/"
            f"{self._bytes / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, {clock(left_s)} left"
        )

    def file_done(self) -> None:
        self._done_files += 1


def define_flags() -> None:
    """Define this command's flags, which must not happen at import."""
    flags.DEFINE_enum("corpus", None, list(BASE_URLS), "Which corpus.")
    flags.DEFINE_string("out_dir", None, "Folder that it goes into.")
    flags.DEFINE_list(
        "parts",
        ["video"],
        "Of ravdess video, audio, tracking; of crema_d video, audio, mp3. Videos hold the sound.",
    )
    flags.DEFINE_string("base_url", None, "A mirror with the same interface.")
    flags.DEFINE_integer("num_connections", 4, "Files at once.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Download a corpus; end the process with a status and one line where it cannot."""
    if len(argv) > 1 or not flags.FLAGS.corpus or not flags.FLAGS.out_dir:
        cli.fail("give --corpus=ravdess|crema_d and --out_dir=D")
    try:
        count = download(
            flags.FLAGS.corpus,
            Path(flags.FLAGS.out_dir),
            parts=flags.FLAGS.parts,
            base_url=flags.FLAGS.base_url,
            num_connections=flags.FLAGS.num_connections,
            tell=lambda line: print(line, flush=True),
        )
    except (FetchError, OSError) as error:
        cli.fail(str(error))
    except (KeyboardInterrupt, StoppedError):
        cli.stopped()
    if count:
        print(f"{count} fetched and checked, in {flags.FLAGS.out_dir}")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
