"""RAVDESS: `MM-VV-EE-II-SS-RR-AA`, modality, vocal channel, emotion, intensity, statement,
repetition, actor (Livingstone and Russo 2018)."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from emotion_tfdata.labels import RAVDESS_EMOTIONS
from preprocess.corpora import (
    NO_PICTURE,
    NO_SOUND,
    NO_TRACKING,
    Clip,
    CorpusError,
    Scan,
    Skipped,
    count_lines,
    find_files,
    named_files,
    place,
)

CORPUS = "ravdess"

_NAME = re.compile(
    r"(?P<modality>0[123])-(?P<take>(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-"
    r"(?P<sentence>0[12])-(?P<repetition>0[12])-(?P<actor>[0-9]{2}))(?P<ending>\.[A-Za-z0-9]+)"
)
_EXAMPLE = "01-01-03-01-02-01-12.mp4"
_TRACKING = re.compile(r"0[12]-(?P<take>01(?:-[0-9]{2}){5})\.csv", re.IGNORECASE)
_INTENSITIES = {"01": "normal", "02": "strong"}
_SPEECH = "01"
_BOTH, _PICTURE, _SOUND = "01", "02", "03"
_ENDINGS = {_BOTH: ".mp4", _PICTURE: ".mp4", _SOUND: ".wav"}
# The corpus holds one recording under two names.
_SAME_RECORDING = (("01-03-01-02-01-07", "01-03-01-02-02-07"),)


def actor_of(file_name: str) -> str | None:
    """Return who acts in a file named as the corpus names it; None for any other name."""
    match = _NAME.fullmatch(file_name)
    return match["actor"] if match else None


def scan(root: Path, modalities: str, tracking_dir: Path | None = None) -> Scan:
    """Find the takes in RAVDESS as unzipped, however its folders are nested.

    The three modalities of one name are one take and give one clip.

    Args:
      root: the folder.
      modalities: what is to be built.
      tracking_dir: folder of the corpus's tracking record, which then stands for the pictures.

    Raises:
      CorpusError: if no file is named as RAVDESS's are.
    """
    takes: dict[str, dict[str, Path]] = defaultdict(dict)
    named, skipped, others = named_files(CORPUS, root, _NAME, _EXAMPLE)
    for path, match in named:
        take, modality = match["take"], match["modality"]
        where = place(CORPUS, root, path)
        if match["channel"] != _SPEECH:
            skipped.append(Skipped(where, "song", "sung, not spoken"))
        elif match["ending"].lower() != _ENDINGS[modality]:  # made of the corpus's file
            reason = f"RAVDESS's files named {modality}- are {_ENDINGS[modality]}"
            skipped.append(Skipped(where, "not the corpus's", reason))
        elif modality in takes[take]:
            first = place(CORPUS, root, takes[take][modality])
            skipped.append(Skipped(where, "duplicate file", f"the same name as {first}"))
        else:
            takes[take][modality] = path
    if not takes and all(entry.kind == "unknown name" for entry in skipped):
        raise CorpusError(f"{root} is not RAVDESS: no file in it is named as {_EXAMPLE} is")
    counted = count_lines(CORPUS, "files that are no clips", others)
    tracks: dict[str, Path] = {}
    if tracking_dir:
        tracks, no_tracks = _find_tracks(tracking_dir)
        idle = [path for take, path in tracks.items() if take not in takes]
        counted += count_lines(CORPUS, "records of tracking without their clips", idle)
        counted += count_lines(CORPUS, "files that are no records of tracking", no_tracks)
    clips = []
    for take in sorted(takes):
        files = takes[take]
        if tracking_dir:
            picture, sound, missing = _choose_tracked(files, modalities, tracks.get(take))
        else:
            picture, sound, missing = _choose(files, modalities)
        used = {path for path in (picture, sound) if path}
        if missing:
            skipped += [Skipped(place(CORPUS, root, path), *missing) for path in files.values()]
            continue
        main = picture or sound
        assert main is not None
        for path in files.values():
            if path not in used:
                reason = f"duplicate take of {place(CORPUS, root, main)}"
                skipped.append(Skipped(place(CORPUS, root, path), "duplicate take", reason))
        name = _NAME.fullmatch(next(iter(files.values())).name)
        assert name is not None
        clips.append(
            Clip(
                corpus=CORPUS,
                name=main.stem,
                actor=name["actor"],
                emotion=RAVDESS_EMOTIONS[name["emotion"]],
                intensity=_INTENSITIES[name["intensity"]],
                sentence=name["sentence"],
                picture=str(picture) if picture else None,
                sound=str(sound) if sound else None,
                root=root,
            )
        )
    built = {clip.name[len("01-") :] for clip in clips}
    notes = tuple(
        f"{CORPUS}: {one} and {other} are one recording under two names"
        for one, other in _SAME_RECORDING
        if one in built and other in built
    )
    return Scan(
        CORPUS,
        root,
        tuple(sorted(clips, key=lambda clip: clip.name)),
        tuple(sorted(skipped, key=lambda entry: entry.path)),
        notes,
        counted,
    )


def _find_tracks(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Map each take to its tracking record; return other files too.

    Raises:
      CorpusError: if there is none in the folder.
    """
    tracks: dict[str, Path] = {}
    others = []
    for path in find_files(folder):
        match = _TRACKING.fullmatch(path.name)
        if match and match["take"] not in tracks:
            tracks[match["take"]] = path
        else:
            others.append(path)
    if not tracks:
        raise CorpusError(
            f"{folder} is not RAVDESS's tracking: no file in it is named as "
            "01-01-03-01-02-01-12.csv is"
        )
    return tracks, others


def _choose_tracked(
    files: dict[str, Path], modalities: str, track: Path | None
) -> tuple[Path | None, Path | None, tuple[str, str] | None]:
    """Choose as `_choose`, with the tracking record in place of the picture."""
    if track is None:
        return None, None, NO_TRACKING
    if modalities == "landmarks":
        return track, None, None
    sound = files.get(_SOUND) or files.get(_BOTH)
    return (track, sound, None) if sound else (None, None, NO_SOUND)


def _choose(
    files: dict[str, Path], modalities: str
) -> tuple[Path | None, Path | None, tuple[str, str] | None]:
    """Choose a take's files for picture and sound; or say kind and reason why it cannot be built.

    Args:
      files: modality -> file, at least one.
    """
    picture = sound = None
    if modalities != "audio":
        picture = files.get(_BOTH) or files.get(_PICTURE)
        if picture is None:
            return None, None, NO_PICTURE
    if modalities != "landmarks":
        # With its picture the sound comes from the same file, whose clock they share; alone, from
        # the wav, which has not been through AAC.
        wanted = (_SOUND, _BOTH) if modalities == "audio" else (_BOTH, _SOUND)
        sound = files.get(wanted[0]) or files.get(wanted[1])
        if sound is None:
            return None, None, NO_SOUND
    return picture, sound, None
