"""Emotion classes, and the names the corpora give them."""

from __future__ import annotations

from collections.abc import Sequence

# The six classes that both corpora share, in the order of their class indices; the last two
# are RAVDESS's alone, so that the first six indices mean the same with six classes and with eight.
EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgust", "calm", "surprised")

RAVDESS_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
CREMA_D_EMOTIONS = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fearful",
    "DIS": "disgust",
}


# What other corpora call them, in lower case.
SYNONYMS = {
    "neutral": ("neu", "neutrality", "normal"),
    "happy": ("hap", "happiness", "joy", "joyful"),
    "sad": ("sadness",),
    "angry": ("ang", "anger"),
    "fearful": ("fea", "fear", "afraid", "scared", "anxious"),
    "disgust": ("dis", "disgusted"),
    "calm": ("calmness",),
    "surprised": ("sur", "surprise", "ps", "pleasant surprise"),
}
_EMOTION_OF = {word: emotion for emotion, words in SYNONYMS.items() for word in (emotion, *words)}

# The classes of a task: 6 (what both corpora have), 8 (adds RAVDESS's calm and surprised), or
# their names.
Classes = int | Sequence[str]


def class_names(classes: Classes) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their indices.

    Raises:
      ValueError: for another number than 6 or 8; for fewer than two names, an empty one or one that
        is there twice.
    """
    if not isinstance(classes, int):
        names = tuple(classes)
        if isinstance(classes, str) or len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"classes must be two or more different names, got {classes!r}")
        if any(name != name.strip() or not name for name in names):
            raise ValueError(f"classes must be words, got {classes!r}")
        return names
    if classes not in (6, 8):
        raise ValueError(f"num_classes must be 6 or 8, got {classes!r}")
    return EMOTIONS[:classes]


def class_index(emotion: str, classes: Classes) -> int | None:
    """Return the index of an emotion's class, or None where the task has no class for it.

    Where there is neutral and no calm, calm counts as neutral, as in the usual joint task of the
    two corpora.

    Raises:
      ValueError: as `class_names`.
    """
    names = class_names(classes)
    if emotion in names:
        return names.index(emotion)
    return names.index("neutral") if emotion == "calm" and "neutral" in names else None


def emotion_named(word: str, classes: Classes) -> str | None:
    """Return the emotion that a word (a class's name or a synonym) stands for, or None.

    Case does not matter. The emotion need not have a class.
    """
    word = word.strip().casefold()
    own = {name.casefold(): name for name in class_names(classes)}
    emotion = _EMOTION_OF.get(word)
    if word in own or emotion is None:
        return own.get(word)
    # A class may have any of an emotion's names.
    names = (emotion, *SYNONYMS[emotion])
    return next((own[name] for name in names if name in own), emotion)
