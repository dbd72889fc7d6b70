"""Clips that a csv lists, one a line: any corpus, without a reader of its own."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_tfdata.labels import Classes, class_index, class_names, emotion_named
from preprocess.clip.container import PICTURE_ENDINGS, SOUND_ENDINGS
from preprocess.clip.files import Remote, is_url, look_up
from preprocess.clip.media import WHOLE, Part
from preprocess.corpora import (
    NO_PICTURE,
    NO_SOUND,
    CorpusError,
    Scan,
    Skipped,
)
from preprocess.corpora import Clip as Take

COLUMNS = (
    *("video", "audio", "actor", "emotion"),
    *("corpus", "name", "intensity", "sentence", "start_s", "end_s"),
)
_ENDINGS = {"video": PICTURE_ENDINGS, "audio": (*SOUND_ENDINGS, *PICTURE_ENDINGS)}
_UNSTATED = "unspecified"
_CORPUS = "clips"  # of clips that no csv lists
_MAX_NAME_BYTES = 200
# Names become names of files, and parts of ids that have a slash between them.
_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f]")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A line of a list of clips.

    Attributes:
      video, audio: paths or URLs, at least one.
      actor: who acts.
      emotion: a class's name or a synonym.
      corpus, name: together the clip's id; the name is by default the path without its ending.
      intensity, sentence: in any words.
      start_s, end_s: a part of a longer recording, in seconds from its beginning.
    """

    video: str | os.PathLike[str] | None = None
    audio: str | os.PathLike[str] | None = None
    actor: str = ""
    emotion: str = ""
    corpus: str = _CORPUS
    name: str | None = None
    intensity: str | None = None
    sentence: str | None = None
    start_s: float | None = None
    end_s: float | None = None

    def as_row(self) -> dict[str, str]:
        """Return the clip as a line of a csv."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {name: str(value) for name, value in values.items() if value is not None}


Table = Path | Sequence[Clip]  # a list of clips: a csv, or its lines


class _BadLineError(ValueError):
    """Why a line is no clip.

    Attributes:
      kind: one or two words.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def scan(table: Table, modalities: str, classes: Classes = 6) -> Scan:
    """Read a list of clips.

    Columns: `video` and/or `audio` (paths from the csv's folder, or URLs), `actor`, `emotion` (a
    class or a synonym); optional `corpus` (the csv's name if not given), `name` (the path without
    its ending), `intensity`, `sentence`, and `start_s`, `end_s` of a part of a longer recording, in
    seconds from its beginning. With both a video and an audio, the sound is the audio's, which
    must begin when the video does.

    A line that is no clip is skipped and named; the others are built.

    Args:
      table: the csv, in UTF-8, with a head; separated by commas, semicolons or tabs. Or its lines,
        counted from 0, with paths from the current folder.
      modalities: what is to be built.
      classes: that emotions must have.

    Raises:
      CorpusError: if it cannot be read, or lacks a column.
    """
    if not isinstance(table, Path):
        return _scan(
            Path.cwd() / "clips",
            lambda: ((number, clip.as_row()) for number, clip in enumerate(table)),
            _urls(clip.as_row() for clip in table),
            (),
            modalities,
            classes,
            lambda number: f"clips[{number}]",
        )
    path = table
    try:
        unused = _check_head(path)
        if next(_rows(path), None) is None:
            raise CorpusError(f"{path} lists no clips")
        # Read twice, so that never all lines are held.
        urls = _urls(row for _, row in _rows(path)) if _names_urls(path) else ()
        return _scan(
            path,
            lambda: _rows(path),
            urls,
            unused,
            modalities,
            classes,
            lambda line: f"{path.name}:{line}",
        )
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not in UTF-8 ({error.reason} at byte {error.start})") from (
            error
        )
    except csv.Error as error:
        raise CorpusError(f"{path} is not a csv ({error})") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error


def _names_urls(path: Path) -> bool:
    """Tell whether a csv may name a URL anywhere."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return any("://" in line for line in file)


def _urls(rows: Iterable[Mapping[str, str]]) -> list[str]:
    values = (row.get(column, "") for row in rows for column in ("video", "audio"))
    return [value for value in values if is_url(value)]


def _scan(
    path: Path,
    rows: Callable[[], Iterable[tuple[int, Mapping[str, str]]]],
    urls: Sequence[str],
    unused: Sequence[str],
    modalities: str,
    classes: Classes,
    where: Callable[[int], str],
) -> Scan:
    remote, classes = look_up(urls), class_names(classes)
    clips: list[Take] = []
    skipped: list[Skipped] = []
    line_of: dict[str, int] = {}
    for line, row in rows():
        try:
            clip = _clip(path, row, modalities, classes, remote)
            first = line_of.setdefault(clip.example_id, line)
            if first != line:
                reason = f"{where(first)} is {clip.example_id} already"
                raise _BadLineError("duplicate name", reason)
        except _BadLineError as error:
            skipped.append(Skipped(where(line), error.kind, str(error)))
        else:
            clips.append(clip)
    clips.sort(key=lambda clip: clip.example_id)
    counted = (f"{path.name}: columns that are not used: {', '.join(unused)}",) if unused else ()
    return Scan(path.stem, path.parent, tuple(clips), tuple(skipped), counted=counted)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Any]]:
    """Yield a csv's head, and a reader of the lines that follow."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        head_line = file.readline()
        file.seek(0)
        separator = max(",;\t", key=head_line.count)
        lines = csv.reader(file, delimiter=separator, strict=True)
        yield [name.strip().lower() for name in next(lines, [])], lines


def _check_head(path: Path) -> list[str]:
    """Return the names of columns without a meaning.

    Raises:
      CorpusError: if one is missing.
    """
    with _opened(path) as (head, _):
        missing = [name for name in ("actor", "emotion") if name not in head]
        if not {"video", "audio"} & set(head):
            missing.insert(0, "video or audio")
        if missing:
            there = ", ".join(name for name in head if name) or "nothing"
            raise CorpusError(f"{path}: no column {', '.join(missing)}; its head has {there}")
        twice = [name for name in COLUMNS if head.count(name) > 1]
        if twice:
            raise CorpusError(f"{path}: two columns {twice[0]}")
    return [name for name in head if name and name not in COLUMNS]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines by number, except empty ones."""
    with _opened(path) as (head, lines):
        line = lines.line_num
        for values in lines:
            # A quoted value may hold line ends: a row is named by its first line.
            first, line = line + 1, lines.line_num
            values = [value.strip() for value in values]
            if any(values):
                row = dict(zip(head, values, strict=False))
                if len(values) != len(head):
                    row[""] = f"{len(values)} values, its head has {len(head)}"
                yield first, row


def _clip(
    path: Path,
    row: Mapping[str, str],
    modalities: str,
    classes: tuple[str, ...],
    remote: Mapping[str, Remote | OSError],
) -> Take:
    """Make the clip of a line.

    Raises:
      _BadLineError: if it is none.
    """
    if row.get(""):
        raise _BadLineError("malformed line", row[""])
    video, audio = row.get("video", ""), row.get("audio", "")
    if not video and not audio:
        raise _BadLineError("no file", "neither video nor audio")
    if modalities != "audio" and not video:
        raise _BadLineError(*NO_PICTURE)
    picture = _file(path.parent, "video", video, remote) if modalities != "audio" else None
    sound = None
    if modalities != "landmarks":
        column = "audio" if audio else "video"
        sound = _file(path.parent, column, audio or video, remote)
        if sound is None:
            raise _BadLineError(*NO_SOUND)
    actor = row.get("actor", "")
    if not actor:
        raise _BadLineError("no actor", "actor is empty")
    word = row.get("emotion", "")
    emotion = _class_of(word, classes)
    if emotion is None:
        names = ", ".join(class_names(classes))
        raise _BadLineError("emotion", f"{word!r} is none of the classes {names}; see --classes")
    part = _part(row)
    corpus = row.get("corpus") or path.stem
    name = row.get("name") or _default_name(video or audio, part)
    for what, text in (("corpus", corpus), ("name", name)):
        if _NOT_IN_NAMES.search(text) or text.startswith("."):
            raise _BadLineError("bad name", f"{what} {text!r} has a slash or begins with a dot")
        if len(text.encode()) > _MAX_NAME_BYTES:
            raise _BadLineError(
                "bad name", f"{what} {text!r} is longer than {_MAX_NAME_BYTES} bytes"
            )
    return Take(
        corpus=sys.intern(corpus),
        name=name,
        actor=sys.intern(actor),
        emotion=emotion,
        intensity=sys.intern(row.get("intensity") or _UNSTATED),
        sentence=sys.intern(row.get("sentence") or _UNSTATED),
        picture=picture,
        sound=sound,
        part=part,
        root=path.parent,
        is_listed=True,
    )


def _file(
    folder: Path, column: str, text: str, remote: Mapping[str, Remote | OSError]
) -> str | Remote:
    file: str | Remote = os.path.join(folder, text)
    ending = os.path.splitext(text)[1]
    if is_url(text):
        found = remote[text]
        if isinstance(found, OSError):
            raise _BadLineError("missing file", f"{column} {text}: {found.strerror or found}")
        file, ending = found, found.suffix
    if ending.lower() not in _ENDINGS[column]:
        known = ", ".join(_ENDINGS[column])
        raise _BadLineError("unreadable", f"{column} {text}: not named as {column} is ({known})")
    if isinstance(file, str) and not os.path.isfile(file):
        raise _BadLineError("missing file", f"{column} {text} is not there")
    return file


@functools.lru_cache(maxsize=1024)
def _class_of(word: str, classes: tuple[str, ...]) -> str | None:
    """Return the emotion that a word stands for, if it has a class."""
    emotion = emotion_named(word, classes)
    return None if emotion is None or class_index(emotion, classes) is None else emotion


def _part(row: Mapping[str, str]) -> Part:
    times: dict[str, float] = {}
    for name in ("start_s", "end_s"):
        text = row.get(name)
        if not text:
            continue
        try:
            times[name] = float(text)
        except ValueError as error:
            raise _BadLineError("bad time", f"{name} {text!r} is no number of seconds") from error
        if not 0 <= times[name] < math.inf:
            raise _BadLineError("bad time", f"{name} {text} is not a time in a recording")
    part = Part(**times) if times else WHOLE
    if part.end_s is not None and part.end_s <= part.start_s:
        raise _BadLineError(
            "bad time", f"end_s {part.end_s:g} is not after start_s {part.start_s:g}"
        )
    return part


def _default_name(text: str, part: Part) -> str:
    """Return a file's path as one word, with the part of it."""
    stem = Remote(text).stem if is_url(text) else os.path.splitext(text)[0].replace("\\", "/")
    steps = [step for step in stem.split("/") if step not in ("", ".", "..")]
    name = "_".join(steps)
    if part.start_s or part.end_s is not None:
        name += f"@{part.start_s:g}-" + ("" if part.end_s is None else f"{part.end_s:g}")
    return name
