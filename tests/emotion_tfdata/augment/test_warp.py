from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata.augment.warp import stretched_frames, warp

_STRETCHES = st.floats(0.5, 2.0)


def _warp(series, valid, frames, stretch, capacity):
    stretch = np.asarray(stretch, np.float64)
    frames = np.asarray(frames, np.int32)
    frames_out = stretched_frames(frames, stretch)
    warped, mask = warp(
        tf.constant(series),
        tf.constant(valid),
        frames,
        frames_out,
        tf.constant(stretch, tf.float32),
        tf.range(capacity, dtype=tf.float32),
    )
    return warped.numpy(), mask.numpy(), frames_out.numpy()


@settings(max_examples=40, deadline=None)
@given(_STRETCHES, st.integers(1, 60), st.integers(0, 99))
def test_warp_is_linear_interpolation_column_by_column(stretch, frames, seed):
    series = np.random.default_rng(seed).standard_normal((1, 64, 3)).astype(np.float32)
    warped, mask, (frames_out,) = _warp(series, np.ones((1, 64), bool), [frames], [stretch], 130)
    for column in range(3):
        expected = np.interp(
            np.arange(frames_out) / stretch, np.arange(frames), series[0, :frames, column]
        )
        np.testing.assert_allclose(warped[0, :frames_out, column], expected, atol=2e-4)
    assert mask[0, :frames_out].all()
    assert not mask[0, frames_out:].any()


@given(_STRETCHES, st.integers(1, 1000))
def test_the_stretched_clip_covers_its_last_frame_and_no_more(stretch, frames):
    out = int(stretched_frames(np.int32([frames]), np.float64([stretch]))[0])
    assert (out - 1) / stretch <= frames - 1 + 1e-5
    assert out / stretch > frames - 1 - 1e-5


def test_no_stretch_gives_the_same_bits():
    series = np.random.default_rng(0).standard_normal((2, 500, 4)).astype(np.float32)
    valid = np.random.default_rng(1).random((2, 500)) > 0.2
    warped, mask, frames_out = _warp(series, valid, [500, 321], [1, 1], 500)
    np.testing.assert_array_equal(frames_out, [500, 321])
    np.testing.assert_array_equal(warped[0], series[0])
    np.testing.assert_array_equal(warped[1, :321], series[1, :321])
    np.testing.assert_array_equal(mask, valid & (np.arange(500) < [[500], [321]]))


@pytest.mark.parametrize("stretch", [0.9, 0.95, 1.07, 1.1])
def test_an_event_comes_to_the_stretched_instant_at_both_rates(stretch):
    event_s, found_s = 1.2, []
    for rate_hz, capacity in ((100, 320), (30, 100)):
        times_s = np.arange(int(2.5 * rate_hz)) / rate_hz
        bump = np.exp(-0.5 * ((times_s - event_s) / 0.1) ** 2).astype(np.float32)[None, :, None]
        valid = np.ones(bump.shape[:2], bool)
        warped, _, (out,) = _warp(bump, valid, [len(times_s)], [stretch], capacity)
        weights = warped[0, :out, 0]
        found_s.append((np.arange(out) / rate_hz) @ weights / weights.sum())
    np.testing.assert_allclose(found_s, event_s * stretch, atol=1e-3)


def test_a_row_made_of_a_missing_one_is_missing():
    valid = np.array([[True, True, False, True, True]])
    series = np.where(valid, 5.0, 0.0).astype(np.float32)[..., None]
    warped, mask, _ = _warp(series, valid, [5], [2.0], 12)
    # Frame 2k is frame k; frame 2k + 1 lies between k and k + 1.
    np.testing.assert_array_equal(mask[0], [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(warped[0][mask[0]], 5)


def test_a_clip_without_rows_stays_without():
    _, mask, frames_out = _warp(np.zeros((1, 1, 2), np.float32), [[False]], [0], [1.1], 4)
    assert frames_out[0] == 0
    assert not mask.any()
