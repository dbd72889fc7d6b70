"""Both modalities on one clock, and how far apart they are on it.

Zero is where the clip's sound begins, and the clip ends where the first of its streams does. That
passes over what encoders' priming and padding leave at the ends of almost every file: at the start
the face of the first picture is held, at most `HOLD_S`; at the end the longer stream is cut, at
most `TAIL_S`. A stream that runs on for longer than that keeps what it has: the clip is widened to
hold it, with silence where there is no sound and invalid landmarks where there is no picture. A
clip without sound has its first picture at zero.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import ndimage

from emotion_tfdata.dataset.timebase import (
    AUDIO_RATE_HZ,
    LANDMARKS_RATE_HZ,
    frame_times_s,
    num_frames,
)
from preprocess.clip import landmarks as lm
from preprocess.clip.audio import SAMPLE_RATE_HZ

# Longest that a face is held where no picture follows. Pictures further apart than twice that have
# lost some between them, and nothing is known of the face there.
HOLD_S = 0.05
# Longest that one stream is cut at the end for the other: a block of MP3 or AAC and a picture.
TAIL_S = 0.1

# Times are sums of binary fractions: what is at a limit may come out on either side of it.
TOLERANCE_S = 1e-6
# Containers round times to a millisecond, so that the distance of two is off by as much.
_ROUNDING_S = 0.001

# Of the measured lag: how far it is looked for, in which steps, and the standard deviation of the
# smoothing, most of it within two rows of landmarks.
MAX_LAG_S = 0.25
_LAG_STEP_S = 0.005
_SMOOTHING_S = 0.02


@dataclasses.dataclass(frozen=True)
class Span:
    """The interval of a clip, in its container's seconds.

    Attributes:
      start_s: the clip's zero.
      end_s: its end.
    """

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


def clip_span(sound: tuple[float, float] | None, picture: tuple[float, float] | None) -> Span:
    """Return the interval that a clip's series cover.

    Args:
      sound: time of the first sample and of the end of the last, or None without sound.
      picture: time of the first picture and of the end of the last, or None without a picture.

    Raises:
      ValueError: without either.
    """
    if sound is None and picture is None:
        raise ValueError("a clip needs sound or picture")
    if sound is None or picture is None:
        return Span(*(sound or picture or (0.0, 0.0)))
    start_s = picture[0] if picture[0] < sound[0] - HOLD_S - TOLERANCE_S else sound[0]
    ends_s = sorted((sound[1], picture[1]))
    end_s = ends_s[0] if ends_s[1] - ends_s[0] <= TAIL_S + TOLERANCE_S else ends_s[1]
    return Span(start_s, end_s)


def picture_span(times_s: np.ndarray) -> tuple[float, float]:
    """Return when the first picture begins and the last ends, shown as long as the usual one.

    Args:
      times_s: float64 `[F]`, at least one.
    """
    usual_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1 / LANDMARKS_RATE_HZ
    return float(times_s[0]), float(times_s[-1]) + usual_s


def align_sound(samples: np.ndarray, start_s: float, span: Span) -> np.ndarray:
    """Put sound at 16 kHz on the clip's clock, with silence where the span has none.

    Args:
      samples: float32 `[N]` at 16 kHz.
      start_s: time of the first one, in the container's seconds.
      span: what to cover.

    Returns:
      float32 `[floor(span * 16000)]`, the first sample at the clip's zero.
    """
    # Whole samples inside the span, so that both modalities count the same frames in it.
    count = math.floor(span.duration_s * SAMPLE_RATE_HZ + 1e-6)
    aligned = np.zeros(max(count, 1), np.float32)
    at = round((start_s - span.start_s) * SAMPLE_RATE_HZ)
    samples = samples[max(-at, 0) :]
    at = max(at, 0)
    samples = samples[: max(len(aligned) - at, 0)]
    aligned[at : at + len(samples)] = samples
    return aligned


def align_track(
    track: lm.Track, span: Span, rate_hz: float = LANDMARKS_RATE_HZ, hold_s: float = HOLD_S
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a tracked face to rows of an even rate by the pictures' times.

    A row lies on the straight line between the pictures before and after it. Where only one of the
    two has a face, that one is held for half the way to the other. No face is held longer than
    `hold_s`, before the first picture and after the last neither.

    Args:
      track: the face, picture by picture.
      span: what to cover.
      rate_hz: rows a second.
      hold_s: longest that a face is held; pictures more than twice that apart have a hole between.

    Returns:
      float32 `[Tv, L, 3]` in picture widths, or `[Tv, W]` in the track's units; zero where not
      valid, and `valid`, bool `[Tv]`.
    """
    rows = num_frames(span.duration_s, rate_hz)
    times_s = span.start_s + frame_times_s(rows, rate_hz)
    last = len(track.times_s) - 1
    after = np.searchsorted(track.times_s, times_s)
    inside = (after > 0) & (after <= last)
    after = after.clip(0, last)
    before = np.where(inside, after - 1, after)
    gap_s = track.times_s[after] - track.times_s[before]
    weight = (times_s - track.times_s[before]) / np.where(inside, gap_s, 1.0)
    nearest = np.where(inside & (weight < 0.5), before, after)
    away_s = np.abs(times_s - track.times_s[nearest])

    is_hole = gap_s > 2 * hold_s + _ROUNDING_S
    between = inside & track.found[before] & track.found[after] & ~is_hole
    held = ~between & track.found[nearest] & (away_s <= hold_s + TOLERANCE_S)
    points = np.zeros((rows, *track.points.shape[1:]), np.float32)
    points[held] = track.points[nearest[held]]
    share = weight[between].astype(np.float32).reshape(-1, *[1] * (points.ndim - 1))
    points[between] = (1 - share) * track.points[before[between]]
    points[between] += share * track.points[after[between]]
    return points, between | held


def mouth_lag_s(audio_db: np.ndarray, landmarks: np.ndarray, valid: np.ndarray) -> float | None:
    """Return how much later the mouth opens than the voice sounds, finer than a frame of either.

    The lag at which the distance between the lips and the voice's amplitude correlate best; the
    peak of the correlation is found between its steps by the parabola through its highest three.
    Both are smoothed by the same symmetric kernel, which moves neither.

    Args:
      audio_db: float `[Ta, M]`, 100 frames/s.
      landmarks: float `[Tv, L, 3]`, 30 frames/s.
      valid: bool `[Tv]`.

    Returns:
      Seconds, within `MAX_LAG_S` either way; or None where it cannot be measured: too few rows
      with a face, a voice or a mouth that does not move, or no peak inside the range.
    """
    # Rows whose smoothed value no missing face has a part in.
    used = ndimage.binary_erosion(valid, iterations=2, border_value=1)
    if used.sum() < LANDMARKS_RATE_HZ // 2 or not len(audio_db):
        return None
    amplitude = np.sqrt(np.sum(10 ** (np.asarray(audio_db, np.float64) / 10), axis=1))
    amplitude = ndimage.gaussian_filter1d(amplitude, _SMOOTHING_S * AUDIO_RATE_HZ)
    opening = lm.mouth_opening(np.asarray(landmarks, np.float64))
    opening = ndimage.gaussian_filter1d(opening, _SMOOTHING_S * LANDMARKS_RATE_HZ)[used]
    times_s = frame_times_s(len(landmarks), LANDMARKS_RATE_HZ)[used]
    if np.ptp(opening) == 0 or np.ptp(amplitude) == 0:
        return None
    lags_s = np.arange(-MAX_LAG_S, MAX_LAG_S + _LAG_STEP_S / 2, _LAG_STEP_S)
    audio_times_s = frame_times_s(len(amplitude), AUDIO_RATE_HZ)
    delayed = np.interp(times_s - lags_s[:, None], audio_times_s, amplitude)
    delayed -= delayed.mean(axis=1, keepdims=True)
    opening -= opening.mean()
    norms = np.linalg.norm(delayed, axis=1) * np.linalg.norm(opening)
    if not norms.all():
        return None
    correlation = delayed @ opening / norms
    peak = int(correlation.argmax())
    if not 0 < peak < len(lags_s) - 1:
        return None
    before, at, after = correlation[peak - 1 : peak + 2]
    bend = before - 2 * at + after
    return float(lags_s[peak] + (0.5 * (before - after) / bend if bend else 0.0) * _LAG_STEP_S)
