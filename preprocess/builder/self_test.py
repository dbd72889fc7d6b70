"""Whether the libraries that read clips work in this process, tried before any clip is."""

from __future__ import annotations

import contextlib
import functools
import traceback

# What an ImportError of `make_example` asks for.
INSTALL = (
    "Install the extra [preprocess]; what is missing of the system comes with: "
    "apt-get install libgl1 libglib2.0-0"
)
_SAME_VERSIONS = (
    "Libraries that do not fit each other do that: pip install -c launch/constraints.txt "
    "'.[preprocess]'"
)
# What the loader says of a library for which the limit on memory leaves no room.
_NO_ROOM = "failed to map segment"
_TRIED_HZ = 44100


@functools.cache
def why_unfit(*, sound: bool, faces: bool) -> str:
    """Try, once a process, what reads clips on a little sound and an empty picture.

    Args:
      sound: whether sound is made into features.
      faces: whether faces are looked for.

    Returns:
      What does not work and what to do about it, in one line; empty if all does.
    """
    try:
        import numpy as np

        from preprocess.clip import audio, face_search, landmarks

        if sound:
            tone = np.sin(np.arange(_TRIED_HZ // 10, dtype=np.float32))
            audio.log_mel(audio.resample(tone, _TRIED_HZ), audio.AudioSettings())
        if faces:
            with contextlib.closing(landmarks.FaceTracker()) as tracker:
                tracker.find(np.zeros((48, 64, 3), np.uint8))
            face_search.find_boxes(np.zeros((48, 64, 3), np.uint8))
    except Exception as error:  # of whatever type: no clip has been touched
        traceback.print_exc()
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    """Describe a library's failure, and what to do about it, in one line."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or _NO_ROOM in text:
        return f"{text}: --worker_memory_mb is too little"
    if "cannot cache function" in text:
        return f"numba {text}. Set NUMBA_CACHE_DIR to a folder that can be written"
    if isinstance(error, ImportError):
        return f"{text.rstrip('.')}. {INSTALL}"
    if isinstance(error, OSError):
        return f"{text}. Set HOME and TMPDIR to folders that can be written, or make room in them"
    return f"{type(error).__name__}: {text.rstrip('.')}. {_SAME_VERSIONS}"
