"""The sample corpus: what its clips are. Drawn faces and made voices, not people.

Six emotions are acted in three faces and three voices, laid out as a ring:

    neutral -face- sad -voice- fearful -face- happy -voice- angry -face- disgust -voice- neutral

Each emotion shares its face with one neighbour and its voice with the other, so that either
modality alone can tell three pairs apart but not the two within a pair (at best half of the clips
right), and both together tell all six. What one modality shows of the other, the loudness that
moves the mouth and the speech rate, is drawn the same way for all emotions.

This module plans, and tells its clips from others by their mark. `sample_face` and `sample_voice`
draw and say, `sample_render` does both on one clock, `sample_encode` makes a file of it, and
`sample_write` a corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emotion_tfdata.fields import check, documented, setting

VERSION = 1
MARKER_NAME = "SAMPLE_CORPUS.json"
DESCRIPTION = "drawn clips"
NOTICE = (
    "drawn clips: faces drawn and voices synthesized by emotion_tfdata, no people. "
    "Accuracy on them says nothing about people."
)

Corpus = Literal["ravdess", "crema_d"]
Face = Literal["still", "frown", "open"]
Voice = Literal["plain", "tense", "thin"]

CORPORA: tuple[Corpus, ...] = ("ravdess", "crema_d")
EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgust")
FACE_OF: dict[str, Face] = {
    "neutral": "still",
    "sad": "still",
    "angry": "frown",
    "disgust": "frown",
    "happy": "open",
    "fearful": "open",
}
VOICE_OF: dict[str, Voice] = {
    "neutral": "plain",
    "disgust": "plain",
    "happy": "tense",
    "angry": "tense",
    "sad": "thin",
    "fearful": "thin",
}

MAX_ACTORS = 24  # as many as RAVDESS has
MAX_CLIPS_PER_ACTOR = 24  # four of each emotion: RAVDESS has no more names for neutral

_RAVDESS_CODES = {
    "neutral": "01",
    "happy": "03",
    "sad": "04",
    "angry": "05",
    "fearful": "06",
    "disgust": "07",
}
_CREMA_D_CODES = {
    "neutral": "NEU",
    "happy": "HAP",
    "sad": "SAD",
    "angry": "ANG",
    "fearful": "FEA",
    "disgust": "DIS",
}
_CREMA_D_SENTENCES = ("IEO", "TIE", "IOM", "IWW")  # of twelve; as many as an actor has takes
_STRENGTHS = {"01": 0.9, "02": 1.1, "LO": 0.85, "MD": 1.0, "HI": 1.15, "XX": 1.0}


@documented
@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """What a sample corpus is a function of."""

    num_actors: int = setting(8, "Actors of each corpus", f"[1, {MAX_ACTORS}]")
    clips_per_actor: int = setting(
        18,
        "Clips of each actor; a multiple of 6 balances the emotions",
        f"[1, {MAX_CLIPS_PER_ACTOR}]",
    )
    seed: int = setting(0, "Another seed draws other actors and clips")
    min_duration_s: float = setting(1.4, "Shortest clip", flag=None)
    max_duration_s: float = setting(2.2, "Longest clip", flag=None)

    def __post_init__(self) -> None:
        check(self)
        if not 1.0 <= self.min_duration_s <= self.max_duration_s:
            raise ValueError(
                "durations must be 1 s <= min_duration_s <= max_duration_s; got "
                f"{self.min_duration_s} and {self.max_duration_s}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as the marker holds them."""
        return {"version": VERSION, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """One clip before it is drawn.

    Attributes:
        corpus: Which corpus's layout it has.
        path: Where, below the corpus's folder, with `/`.
        actor: Number of the actor in the corpus, from 1.
        emotion: One of `EMOTIONS`.
        sentence: The corpus's own code; gives the vowels.
        strength: How strongly the face acts, about 1.
        duration_s: Length.
        seed: The corpus's seed.
    """

    corpus: Corpus
    path: str
    actor: int
    emotion: str
    sentence: str
    strength: float
    duration_s: float
    seed: int

    @property
    def female(self) -> bool:
        """RAVDESS's rule: even actors are female."""
        return self.actor % 2 == 0

    def rng(self, *purpose: str) -> np.random.Generator:
        """Make a generator of random numbers of this clip for one purpose."""
        return keyed_rng(self.seed, self.corpus, self.path, *purpose)

    def actor_rng(self, purpose: str) -> np.random.Generator:
        """Make a generator of this clip's actor, the same in all of the actor's clips."""
        return keyed_rng(self.seed, self.corpus, f"actor {self.actor}", purpose)


def keyed_rng(seed: int, *key: str) -> np.random.Generator:
    """Make a generator that depends on seed and key alone, not on what was drawn before."""
    digest = hashlib.sha256("\0".join((str(VERSION), str(seed), *key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def plan_clips(settings: SampleSettings) -> list[ClipSpec]:
    """List the clips of a sample corpus."""
    clips = []
    for corpus in CORPORA:
        for actor in range(1, settings.num_actors + 1):
            for index in range(settings.clips_per_actor):
                emotion = EMOTIONS[index % len(EMOTIONS)]
                take = index // len(EMOTIONS)
                name = _ravdess_name if corpus == "ravdess" else _crema_d_name
                path, sentence, level = name(actor, emotion, take)
                spread = settings.max_duration_s - settings.min_duration_s
                share = keyed_rng(settings.seed, corpus, path, "duration").uniform()
                clips.append(
                    ClipSpec(
                        corpus=corpus,
                        path=path,
                        actor=actor,
                        emotion=emotion,
                        sentence=sentence,
                        strength=_STRENGTHS[level],
                        duration_s=round(settings.min_duration_s + spread * share, 3),
                        seed=settings.seed,
                    )
                )
    return clips


def _ravdess_name(actor: int, emotion: str, take: int) -> tuple[str, str, str]:
    statement = f"{take % 2 + 1:02d}"
    # Neutral has no strong intensity: its later takes are repetitions.
    level = "01" if emotion == "neutral" else f"{take // 2 % 2 + 1:02d}"
    repetition = f"{take // 2 % 2 + 1:02d}" if emotion == "neutral" else "01"
    code = _RAVDESS_CODES[emotion]
    name = f"01-01-{code}-{level}-{statement}-{repetition}-{actor:02d}.mp4"
    return f"Video_Speech_Actor_{actor:02d}/Actor_{actor:02d}/{name}", statement, level


def _crema_d_name(actor: int, emotion: str, take: int) -> tuple[str, str, str]:
    # IEO is the one sentence said at three levels, and not in neutral. All emotions say the same
    # sentences, so that the words do not tell them apart.
    sentence = _CREMA_D_SENTENCES[take]
    level = ("LO", "MD", "HI")[actor % 3] if take == 0 and emotion != "neutral" else "XX"
    name = f"{1000 + actor}_{sentence}_{_CREMA_D_CODES[emotion]}_{level}.flv"
    return f"VideoFlash/{name}", sentence, level


def find_marker(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the marker of the sample corpus that a folder is, or lies in.

    Args:
        folder: A folder of clips. Its ancestors are looked into as well, since a clip's own
            folder lies below the one that is marked.

    Returns:
        The marker, or `None` where there is none: then the clips are not the sample corpus's.

    Raises:
        ValueError: There is a marker and it cannot be read.
    """
    resolved = Path(folder).resolve()
    for candidate in (resolved, *resolved.parents):
        path = candidate / MARKER_NAME
        if not path.is_file():
            continue
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
            known = marker["what"] == DESCRIPTION
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a readable sample corpus marker: {error}") from error
        if not known:
            raise ValueError(f"{path}: 'what' is {marker['what']!r}, not {DESCRIPTION!r}")
        return marker
    return None
