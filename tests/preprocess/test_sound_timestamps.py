"""Where blocks of sound belong, against timestamps made by a clock that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.clip import sound_timestamps

RATE_HZ = 48000
BLOCK = 1024


def times_s(count, lost=(), drift=0.0, start_s=0.0, step_s=0.0):
    """Timestamps of the blocks that are left of `count`, rounded to `step_s`."""
    kept = np.array([number for number in range(count) if number not in lost])
    exact = start_s + kept * BLOCK / RATE_HZ * (1 + drift)
    return (np.rint(exact / step_s) * step_s if step_s else exact), exact


@given(
    lost=st.sets(st.integers(1, 198), max_size=30),
    drift=st.sampled_from([0.0, 0.001, -0.001, 0.0003]),
    start_s=st.floats(-2, 2),
    step_s=st.sampled_from([0.0, 0.001]),
)
def test_every_block_is_where_its_clock_had_it(lost, drift, start_s, step_s):
    stamped, exact = times_s(200, lost, drift, start_s, step_s)
    clock = sound_timestamps.fit(stamped, [BLOCK] * len(stamped), RATE_HZ)
    placed_s = clock.start_s + clock.starts / clock.rate_hz
    assert np.abs(placed_s - exact).max() < 0.002
    assert (np.diff(clock.starts) >= BLOCK).all()


@given(
    odd=st.lists(st.tuples(st.integers(0, 99), st.floats(0.005, 0.5)), min_size=1, max_size=6),
    sign=st.sampled_from([1, -1]),
)
def test_single_odd_timestamps_move_nothing_else(odd, sign):
    stamped, exact = times_s(100)
    numbers = sorted({number for number, _ in odd})
    after = [*numbers[1:], 999]
    apart = [one for one, other in zip(numbers, after, strict=True) if other - one > 3]
    for number, by_s in odd:
        if number in apart:
            stamped[number] = exact[number] + sign * by_s
    clock = sound_timestamps.fit(stamped, [BLOCK] * 100, RATE_HZ)
    others = np.setdiff1d(np.arange(100), numbers)
    placed_s = clock.start_s + clock.starts / clock.rate_hz
    assert np.abs(placed_s - exact)[others].max() < 0.0011


def test_rounded_timestamps_leave_the_sound_as_it_is():
    stamped, _ = times_s(200, step_s=0.001, start_s=0.046)
    blocks = [np.full(BLOCK, number, np.float32) for number in range(200)]
    clock = sound_timestamps.fit(stamped, [BLOCK] * 200, RATE_HZ)
    assert (clock.rate_hz, clock.start_s) == (RATE_HZ, stamped[0])
    np.testing.assert_array_equal(clock.place(blocks), np.concatenate(blocks))


def test_an_overlap_is_cut_and_a_gap_is_silence():
    at = np.arange(20) * BLOCK / RATE_HZ
    at[10:] -= 0.01
    at[15:] += 0.05
    clock = sound_timestamps.fit(at, [BLOCK] * 20, RATE_HZ)
    samples = clock.place([np.full(BLOCK, number + 1, np.float32) for number in range(20)])
    np.testing.assert_array_equal(np.bincount(samples.astype(int))[[0, 10, 11, 15, 16]],
                                  [2400, BLOCK - 480, BLOCK, BLOCK, BLOCK])  # fmt: skip


def test_times_that_cannot_be_reconciled_are_refused():
    at = np.arange(40) * BLOCK / RATE_HZ
    with pytest.raises(ValueError, match=r"go back by 0\.500 s"):
        sound_timestamps.fit(np.where(at > 0.2, at - 0.5, at), [BLOCK] * 40, RATE_HZ)
    with pytest.raises(ValueError, match="by its timestamps its sound has 47059 samples/s, not"):
        sound_timestamps.fit(at * 1.02, [BLOCK] * 40, RATE_HZ)
    with pytest.raises(ValueError, match="jump by 1000000000000 s"):
        sound_timestamps.fit(np.where(at > 0.2, at + 1e12, at), [BLOCK] * 40, RATE_HZ)
