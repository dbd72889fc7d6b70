"""Seconds and frames, and the frame rates of the default features.

Frame `i` of a series is centred on `i / rate_hz` seconds of the clip's clock. Both modalities count
from the same zero, so equal times are equal instants.
"""

from __future__ import annotations

import math

import numpy as np

AUDIO_RATE_HZ = 100
LANDMARKS_RATE_HZ = 30
RATES_HZ = {"audio": AUDIO_RATE_HZ, "landmarks": LANDMARKS_RATE_HZ}  # where nothing says another

# A duration that is a whole number of frames must not lose one of them to rounding.
_TOLERANCE_FRAMES = 1e-6


def num_frames(duration_s: float, rate_hz: float) -> int:
    """Return the number of frames whose centres lie in `[0, duration_s]`; 0 if it is negative."""
    return max(math.floor(duration_s * rate_hz + _TOLERANCE_FRAMES) + 1, 0)


def frame_times_s(frames: int, rate_hz: float) -> np.ndarray:
    """Return the centres of the first `frames` frames, in seconds: float64 `[frames]`."""
    return np.arange(frames, dtype=np.float64) / rate_hz


def duration_s(frames: int, rate_hz: float) -> float:
    """Return the time from the centre of the first frame to that of the last, in seconds."""
    return max(frames - 1, 0) / rate_hz
