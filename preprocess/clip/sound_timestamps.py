"""Where blocks of sound belong, by their timestamps.

A block's offset is its timestamp less the length of all samples before it. Were timestamps exact
and nothing lost, all offsets would be one. They are not: containers round them to a millisecond,
single ones are wrong, lost blocks raise all that follow, overlaps lower them, and a sampling clock
that is off by a thousandth makes them a slope. So a running median of the offsets (which ignores
single outliers and keeps steps) is cut into pieces where it jumps, and one line is fitted
through all pieces: one slope, the clock's drift, and a height each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# What rounding to a millisecond and a decoder's own can move an offset by.
_ROUNDING_S = 0.001 + 1e-9
# A step of the offsets that is larger is a gap or an overlap (the shortest usual block has 20 ms),
# and larger than this many times what offsets scatter by.
_JUMP_S = 0.003
_SCATTERS = 6.0
# Longest overlap of blocks; times that go back further cannot be reconciled.
_OVERLAP_S = 0.1
# A drift moves the ends of the sound by at least so much, and is so many standard deviations of the
# fit's own off zero.
_MOVED_S = 0.0005
_DEVIATIONS = 5.0
_DRIFT_BLOCKS = 20
# Sound cards are off by a thousandth at most; anything beyond is not a clock.
_MAX_DRIFT = 0.01
_MEDIAN_BLOCKS = 5
# Of what is left when gaps and drift are taken away: a clock that changes its rate.
_WANDER_S = 0.002
_MAX_GAP_SAMPLES = 2.0**40


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where each block of a sound begins.

    Attributes:
      rate_hz: samples in one of the container's seconds.
      start_s: time of the first sample, in the container's seconds.
      starts: int `[blocks]`, the place of each block's first sample.
      count: number of samples, gaps included.
    """

    rate_hz: float
    start_s: float
    starts: np.ndarray
    count: int

    def place(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Place the blocks where they belong; gaps are silence, and of an overlap the later stays.

        Args:
          blocks: float32 `[N]` each.

        Returns:
          float32 `[count]`.
        """
        samples = np.zeros(self.count, np.float32)
        for start, block in zip(self.starts, blocks, strict=True):
            samples[start : start + len(block)] = block
        return samples


def fit(times_s: Sequence[float], lengths: Sequence[int], rate_hz: int) -> Clock:
    """Find where blocks belong.

    Args:
      times_s: of each block, in the container's seconds.
      lengths: samples of each.
      rate_hz: nominal samples a second.

    Raises:
      ValueError: if the timestamps cannot be reconciled with the samples.
    """
    ends = np.cumsum(lengths)
    played_s = (ends - lengths) / rate_hz  # of all samples before each block
    offsets_s = np.asarray(times_s, np.float64) - played_s
    levels_s = _without_outliers(offsets_s)
    steps_s = np.diff(levels_s)
    # Of scatter half of the steps are down; most of those up may be gaps.
    down_s = -steps_s[steps_s < 0]
    usual_s = min(np.median(np.abs(steps_s)), np.median(down_s)) if len(down_s) else 0.0
    scatter_s = _SCATTERS * float(usual_s)
    is_jump = np.abs(steps_s) > max(_JUMP_S, scatter_s)
    back_s = -float(steps_s[is_jump].min(initial=0.0))
    if back_s > _OVERLAP_S:
        raise ValueError(f"timestamps of its sound go back by {back_s:.3f} s")
    pieces = np.append(0, np.cumsum(is_jump))
    drift = _drift(played_s, levels_s, pieces)
    if abs(drift) > _MAX_DRIFT:
        raise ValueError(
            f"by its timestamps its sound has {rate_hz / (1 + drift):.0f} samples/s, not {rate_hz}"
        )
    levels_s -= drift * played_s
    pieces = _split_where_rate_changes(levels_s, pieces, max(_WANDER_S, scatter_s))
    heights_s = ndimage.median(levels_s, pieces, np.arange(pieces[-1] + 1))
    if not drift and abs(heights_s[0] - offsets_s[0]) <= _ROUNDING_S:
        heights_s[0] = offsets_s[0]  # the file's own word, as far as it has one
    true_rate_hz = rate_hz / (1 + drift) if drift else rate_hz
    gaps = (heights_s - heights_s[0]) * true_rate_hz
    if np.abs(gaps).max() > _MAX_GAP_SAMPLES:
        raise ValueError(f"timestamps of its sound jump by {np.ptp(heights_s):.0f} s")
    # Blocks of a piece follow each other to the sample; only pieces are placed.
    starts = (ends - lengths) + np.rint(gaps).astype(np.int64)[pieces]
    first = int(starts.min())
    starts -= first
    return Clock(
        rate_hz=true_rate_hz,
        start_s=float(heights_s[0]) + first / true_rate_hz,
        starts=starts,
        count=int((starts + lengths).max()),
    )


def _without_outliers(offsets_s: np.ndarray) -> np.ndarray:
    """Return the running median; a block at either end that overlaps the rest is an outlier."""
    levels_s = ndimage.median_filter(offsets_s, _MEDIAN_BLOCKS, mode="nearest")
    if len(levels_s) > 1:
        levels_s[0] = min(offsets_s[0], levels_s[1])
        levels_s[-1] = max(offsets_s[-1], levels_s[-2])
    return levels_s


def _drift(played_s: np.ndarray, levels_s: np.ndarray, pieces: np.ndarray) -> float:
    """Return the slope of the line through all pieces, or 0 where it is mere rounding."""
    numbers = np.arange(pieces[-1] + 1)
    x = played_s - ndimage.mean(played_s, pieces, numbers)[pieces]
    y = levels_s - ndimage.mean(levels_s, pieces, numbers)[pieces]
    if len(x) < _DRIFT_BLOCKS or not x.any():
        return 0.0
    drift = float(x @ y / (x @ x))
    deviation = float(np.sqrt(np.square(y - drift * x).mean() / (x @ x)))
    moves_s = abs(drift) * np.ptp(played_s) / 2
    return drift if moves_s > _MOVED_S and abs(drift) > _DEVIATIONS * deviation else 0.0


def _split_where_rate_changes(
    levels_s: np.ndarray, pieces: np.ndarray, wander_s: float
) -> np.ndarray:
    """Split pieces that deviate from their line, where they do so by `wander_s`."""
    heights_s = ndimage.median(levels_s, pieces, np.arange(pieces[-1] + 1))
    if np.abs(levels_s - heights_s[pieces]).max() <= wander_s:
        return pieces
    height_s = levels_s[0]
    cuts = np.zeros(len(levels_s), int)
    for index in range(1, len(levels_s)):
        is_cut = pieces[index] == pieces[index - 1] and abs(levels_s[index] - height_s) > wander_s
        if is_cut or pieces[index] != pieces[index - 1]:
            height_s = levels_s[index]
        cuts[index] = is_cut
    return pieces + np.cumsum(cuts)
