"""Emotion classes, and the names the corpora give them."""

from __future__ import annotations

# The six classes both corpora share, in the order of their class indices; the last two are
# RAVDESS's alone, so that the first six indices mean the same with six classes and with eight.
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


def class_names(num_classes: int) -> tuple[str, ...]:
    """Names of the classes, in the order of their indices.

    Args:
      num_classes: 6 (what both corpora have) or 8 (adds RAVDESS's calm and surprised).

    Raises:
      ValueError: for any other number.
    """
    if num_classes not in (6, 8):
        raise ValueError(f"num_classes must be 6 or 8, got {num_classes!r}")
    return EMOTIONS[:num_classes]


def class_index(emotion: str, num_classes: int) -> int | None:
    """Index of an emotion's class, or None where the task has no class for it.

    With six classes calm counts as neutral and surprised has no class, as in the usual joint task
    of the two corpora.

    Raises:
      ValueError: for a name that is not in `EMOTIONS`, or another number of classes.
    """
    if emotion not in EMOTIONS:
        raise ValueError(f"unknown emotion {emotion!r}; known: {', '.join(EMOTIONS)}")
    names = class_names(num_classes)
    if emotion in names:
        return names.index(emotion)
    return names.index("neutral") if emotion == "calm" else None
