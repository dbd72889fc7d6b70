from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata.dataset import timebase


@given(st.integers(0, 100_000), st.sampled_from([30, 100]))
def test_a_whole_number_of_frames_is_never_lost_to_rounding(frames, rate_hz):
    assert timebase.num_frames(frames / rate_hz, rate_hz) == frames + 1


@given(st.fractions(0, 300, max_denominator=9973), st.sampled_from([30, 100]))
def test_number_of_frames_is_the_exact_one(duration, rate_hz):
    exact = floor(Fraction(duration) * rate_hz) + 1
    assert timebase.num_frames(float(duration), rate_hz) == exact


def test_times_and_durations():
    assert timebase.num_frames(-0.01, 100) == 0
    np.testing.assert_array_equal(timebase.frame_times_s(4, 100), [0, 0.01, 0.02, 0.03])
    assert timebase.duration_s(31, 30) == pytest.approx(1.0)
    assert timebase.duration_s(0, 30) == 0
