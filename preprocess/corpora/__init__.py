"""The corpora: from the names of files to the clips that are to be built."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from preprocess.clip.container import PICTURE_ENDINGS, SOUND_ENDINGS
from preprocess.clip.files import File, Remote
from preprocess.clip.media import WHOLE, Part

MODALITIES = ("both", "audio", "landmarks")

# Kind and reason of takes that lack what is to be built.
NO_PICTURE = ("no picture", "sound without picture; --modalities=audio builds it")
NO_TRACKING = ("no tracking", "no record of its face in --ravdess_tracking_dir")
NO_SOUND = ("no sound", "picture without sound; --modalities=landmarks builds it")
# What an OSError of one file alone has; others tell of the machine or its network, and pass.
FILE_ERRNOS = frozenset((errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ELOOP))


# A file of these is a clip or a copy of one, or somebody should know why it is not.
MEDIA_ENDINGS = frozenset((*PICTURE_ENDINGS, *SOUND_ENDINGS, ".wma", ".wmv", ".mpg", ".mpeg"))
_APPLE_DOUBLE = "._"  # what macOS writes beside files on foreign file systems
_KINDS = 5
_EXPECTED = ("SAMPLE_CORPUS.json",)


class CorpusError(ValueError):
    """A folder that does not hold the corpus it should."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One take, and the files its picture and its sound are read from.

    Attributes:
      corpus: `ravdess`, `crema_d` or any other name.
      name: unique in the corpus; of the two corpora, its main file's without ending.
      actor, emotion, intensity, sentence: as in `emotion_tfdata.dataset.schema.Example`.
      picture: file with its picture, or a record of the face tracked in it (csv), or None where
        none is built. Paths are held as text, which takes a third of the memory.
      sound: file with its sound, or None where none is built.
      part: of these files.
      root: folder from which its files are named in lists.
      is_listed: whether a list of clips says of it what the names of its files do not.
    """

    corpus: str
    name: str
    actor: str
    emotion: str
    intensity: str
    sentence: str
    picture: str | Remote | None
    sound: str | Remote | None
    part: Part = WHOLE
    root: Path | None = None
    is_listed: bool = False

    @property
    def example_id(self) -> str:
        """The clip's id in the data set."""
        return f"{self.corpus}/{self.name}"

    @property
    def files(self) -> tuple[File, ...]:
        """The files it is made from, each once."""
        return tuple(file if isinstance(file, Remote) else Path(file) for file in self.sources)

    @property
    def sources(self) -> tuple[str | Remote, ...]:
        """The clip's files, as they are held: paths as text."""
        return tuple(dict.fromkeys(file for file in (self.picture, self.sound) if file))

    def place(self, file: File | str | None = None) -> str:
        """Return the name in lists of one of the clip's files, by default the first."""
        file = file or self.sources[0]
        if isinstance(file, Remote):
            return file.url
        path = Path(file)
        return place(self.corpus, self.root or path.parent, path)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file that is not in the data set.

    Attributes:
      path: the file, from the corpus's name on.
      kind: one or two words, what it is counted under.
      reason: why, for a person.
    """

    path: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a corpus's folder holds.

    Attributes:
      corpus: its name.
      root: its folder.
      clips: to be built, in order of their names.
      skipped: files that are not, in order of their paths.
      notes: what is to be known of the real corpus's clips that are built all the same.
      counted: lines on files that are neither built nor listed one by one.
    """

    corpus: str
    root: Path
    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()


def place(corpus: str, root: Path, path: Path) -> str:
    """Return a file's name in lists: the corpus, then its path in the corpus's folder.

    Bytes of it that are no UTF-8 are spelled out, so that it can be written and printed anywhere.
    """
    if path.suffix.lower() == ".csv" and not path.is_relative_to(root):
        return f"{corpus}/tracking/{path.name}"
    name = f"{corpus}/{Path(os.path.relpath(path, root)).as_posix()}"
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def named_files(
    corpus: str, root: Path, name: re.Pattern[str], example: str
) -> tuple[list[tuple[Path, re.Match[str]]], list[Skipped], list[Path]]:
    """Sort the files below a folder by their names.

    Returns:
      Media named as the corpus names its files, with what the names say; other media, which are
      skipped; and files of other kinds. All in order of their paths.
    """
    named, skipped, others = [], [], []
    for path in find_files(root):
        is_media = path.suffix.lower() in MEDIA_ENDINGS and not path.name.startswith(_APPLE_DOUBLE)
        match = name.fullmatch(path.name)
        if not is_media:
            others.append(path)
        elif match:
            named.append((path, match))
        else:
            reason = f"not named as the corpus's files are, e.g. {example}"
            skipped.append(Skipped(place(corpus, root, path), "unknown name", reason))
    return named, skipped, others


def count_lines(corpus: str, what: str, paths: Iterable[Path]) -> tuple[str, ...]:
    """Return a line that counts files by their endings, or none without files."""
    counts = Counter(
        f"{_APPLE_DOUBLE}*"
        if path.name.startswith(_APPLE_DOUBLE)
        else path.suffix.lower().lstrip(".") or "without ending"
        for path in paths
        if path.name not in _EXPECTED
    )
    if not counts:
        return ()
    named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_KINDS]
    kinds = [f"{count} {kind}" for kind, count in named]
    if len(counts) > _KINDS:
        kinds.append(f"{counts.total() - sum(count for _, count in named)} of other kinds")
    return (f"{corpus}: {what}: {', '.join(kinds)}",)


def find_files(root: Path) -> list[Path]:
    """List all files below a folder by their paths, in the same order on every machine.

    Links are followed, each folder once; one that leads nowhere counts as a file, which cannot be
    read.

    Raises:
      CorpusError: if there is no such folder, it is empty, or a folder in it cannot be read.
    """
    if not root.exists():
        raise CorpusError(f"{root}: no such folder")
    if not root.is_dir():
        raise CorpusError(f"{root} is a file, not a folder")
    try:
        files = sorted(_walk(root))
    except OSError as error:
        raise CorpusError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not files:
        raise CorpusError(f"{root} is empty")
    return files


def _walk(root: Path) -> Iterator[Path]:
    def fail(error: OSError) -> NoReturn:
        raise error

    seen = set()  # by what they are, since a link may lead to a folder above it
    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders.sort()  # of two ways to a folder the same is taken everywhere
        for path in (Path(folder, name) for name in names):
            if path.is_file() or not path.exists():
                yield path
