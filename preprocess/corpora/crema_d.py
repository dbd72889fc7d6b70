"""CREMA-D: `AAAA_SSS_EEE_LL`, actor, sentence, emotion, level (Cao et al. 2014)."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from emotion_tfdata.labels import CREMA_D_EMOTIONS
from preprocess.clip.container import PICTURE_ENDINGS, SOUND_ENDINGS
from preprocess.corpora import (
    NO_PICTURE,
    Clip,
    CorpusError,
    Scan,
    Skipped,
    count_lines,
    named_files,
    place,
)

CORPUS = "crema_d"

_NAME = re.compile(
    r"(?P<stem>(?P<actor>1[0-9]{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_"
    r"(?P<level>LO|MD|HI|XX|X))(?P<ending>\.[A-Za-z0-9]+)"
)
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
_EXAMPLE = "1001_DFA_ANG_XX.flv"
# The corpus's own endings first; others are of copies that somebody converted, as its maintainers
# advise where flv cannot be played.
_PICTURES = (".flv", *(ending for ending in PICTURE_ENDINGS if ending != ".flv"))
# Alone, the sound comes from the wav: mp3 loses some of it, and all of it in 21 clips.
_OWN_SOUNDS = (".wav", ".mp3", ".flv")
_SOUNDS = tuple(dict.fromkeys((*_OWN_SOUNDS, *SOUND_ENDINGS, *PICTURE_ENDINGS)))
_NAMED = 3

# Clips that the usual protocol drops. Which of a take's files are bad differs.
_BAD_EVERYWHERE = {
    "1076_MTI_SAD_XX": "known bad: an error picture, and no sound",
    "1064_TIE_SAD_XX": "known bad: a broken recording without duration",
    "1064_IEO_DIS_MD": "known bad: one minute with every emotion in it",
}
_BAD_BUT_FOR_WAV = {"1076_MTI_NEU_XX": "known bad: it ends early; only its wav is whole"}
_SAME_SOUND = (
    ("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"),
    ("1013_WSI_DIS_XX", "1013_WSI_SAD_XX"),
    ("1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),
)


def actor_of(file_name: str) -> str | None:
    """Return who acts in a file named as the corpus names it; None for any other name."""
    match = _NAME.fullmatch(file_name)
    return match["actor"] if match else None


def scan(root: Path, modalities: str) -> Scan:
    """Find the clips in CREMA-D as cloned: `VideoFlash`, `AudioWAV`, `AudioMP3`, or any nesting.

    A clip's other files are copies of it, not clips of their own, and are counted.

    Args:
      root: the folder.
      modalities: what is to be built.

    Raises:
      CorpusError: if no file is named as CREMA-D's are.
    """
    takes: dict[str, dict[str, Path]] = defaultdict(dict)
    named, skipped, others = named_files(CORPUS, root, _NAME, _EXAMPLE)
    for path, match in named:
        files, ending = takes[match["stem"]], match["ending"].lower()
        if ending in files:
            reason = f"the same name as {place(CORPUS, root, files[ending])}"
            skipped.append(Skipped(place(CORPUS, root, path), "duplicate file", reason))
        else:
            files[ending] = path
    if not takes:
        raise CorpusError(f"{root} is not CREMA-D: no file in it is named as {_EXAMPLE} is")
    clips, copies = [], []
    for stem in sorted(takes):
        files = takes[stem]
        picture = sound = None
        refused = None
        if modalities == "audio":
            sound = next((files[e] for e in _SOUNDS if e in files), None)
        else:
            picture = next((files[e] for e in _PICTURES if e in files), None)
            sound = picture if modalities == "both" else None
            refused = None if picture else NO_PICTURE
        main = picture or sound or next(iter(files.values()))
        copies += [path for path in files.values() if path != main]
        if stem in _BAD_EVERYWHERE:
            refused = ("known bad", _BAD_EVERYWHERE[stem])
        elif stem in _BAD_BUT_FOR_WAV and main.suffix.lower() != ".wav":
            refused = ("known bad", _BAD_BUT_FOR_WAV[stem])
        if refused:
            skipped.append(Skipped(place(CORPUS, root, main), *refused))
            continue
        name = _NAME.fullmatch(main.name)
        assert name is not None
        clips.append(
            Clip(
                corpus=CORPUS,
                name=stem,
                actor=name["actor"],
                emotion=CREMA_D_EMOTIONS[name["emotion"]],
                intensity=_LEVELS[name["level"]],
                sentence=name["sentence"],
                picture=str(picture) if picture else None,
                sound=str(sound) if sound else None,
                root=root,
            )
        )
    built = {clip.name for clip in clips}
    notes = tuple(
        f"{CORPUS}: {one} and {other} have the same sound under two labels"
        for one, other in _SAME_SOUND
        if one in built and other in built and modalities != "landmarks"
    )
    own = _PICTURES[:1] if modalities != "audio" else _OWN_SOUNDS
    converted = [path.name for clip in clips for path in clip.files[:1]
                 if path.suffix.lower() not in own]  # fmt: skip
    if converted:
        more = f" and {len(converted) - _NAMED} more" if len(converted) > _NAMED else ""
        notes += (
            f"{CORPUS}: built from converted copies, of which no checksum is known: "
            f"{', '.join(converted[:_NAMED])}{more}",
        )
    counted = (
        *count_lines(CORPUS, "copies of clips' files, not read", copies),
        *count_lines(CORPUS, "files that are no clips", others),
    )
    skipped.sort(key=lambda entry: entry.path)
    return Scan(CORPUS, root, tuple(clips), tuple(skipped), notes, counted)
