from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from emotion_tfdata.augment import noise

_KEYS = tf.constant(np.random.default_rng(0).integers(0, 2**32, 400), tf.uint32)


def _noise(salt, rate_hz, seconds=2.0, features=4, correlation=0.5, level=0.01):
    times_s = np.arange(int(seconds * rate_hz)) / rate_hz
    levels = tf.fill(_KEYS.shape, level)
    made = noise.noise(
        *(_KEYS, levels, salt, tf.constant(times_s, tf.float32), features, correlation, 2.0)
    )
    return made.numpy()


def test_white_noise_has_the_moments_of_a_sum_of_four_uniform_bytes():
    values = noise.white(_KEYS, noise.WHITE_AUDIO, 100, 25).numpy().ravel()
    assert values.mean() == pytest.approx(0, abs=4e-3)
    assert values.std() == pytest.approx(1, abs=3e-3)
    # Excess kurtosis of Irwin-Hall of order n is -6 / (5 n).
    assert stats.kurtosis(values) == pytest.approx(-0.3, abs=0.02)
    assert stats.skew(values) == pytest.approx(0, abs=0.01)
    # Finely stepped: one of 1,021 values, none of them frequent.
    levels, counts = np.unique(values, return_counts=True)
    assert np.diff(levels).min() == pytest.approx(1 / np.sqrt((256**2 - 1) / 3), rel=1e-3)
    assert counts.max() < 0.004 * counts.sum()


def test_white_noise_is_unrelated_across_frames_features_keys_and_modalities():
    audio = noise.white(_KEYS, noise.WHITE_AUDIO, 60, 8).numpy()
    landmarks = noise.white(_KEYS, noise.WHITE_LANDMARKS, 60, 8).numpy()
    limit = 4 / np.sqrt(audio.size)
    for one, other in (
        (audio[:, 1:], audio[:, :-1]),
        (audio[..., 1:], audio[..., :-1]),
        (audio[1:], audio[:-1]),
        (audio, landmarks),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < limit


def test_a_frames_noise_does_not_hang_on_the_batchs_shape():
    long = noise.white(_KEYS[:3], 1, 50, 7).numpy()
    np.testing.assert_array_equal(noise.white(_KEYS[:3], 1, 20, 7).numpy(), long[:, :20])
    np.testing.assert_array_equal(noise.white(_KEYS[2:3], 1, 50, 7).numpy(), long[2:])


def test_the_slow_process_has_unit_variance_and_no_fast_part():
    values = noise.slow(_KEYS, tf.range(300, dtype=tf.float32) / 100, 2.0).numpy()
    assert values.mean() == pytest.approx(0, abs=0.1)
    assert values.var() == pytest.approx(1, abs=0.08)
    power = (np.abs(np.fft.rfft(values * np.hanning(300), axis=1)) ** 2).mean(axis=0)
    frequencies_hz = np.fft.rfftfreq(300, 0.01)
    assert power[frequencies_hz > 3.5].sum() < 1e-3 * power.sum()


def test_both_modalities_share_the_slow_process_at_equal_instants():
    audio = noise.slow(_KEYS, tf.range(201, dtype=tf.float32) / 100, 2.0).numpy()
    landmarks = noise.slow(_KEYS, tf.range(61, dtype=tf.float32) / 30, 2.0).numpy()
    np.testing.assert_allclose(audio[:, ::10], landmarks[:, ::3], atol=2e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 1.0])
def test_level_and_correlation_are_as_stated(correlation):
    audio = _noise(noise.WHITE_AUDIO, 100, correlation=correlation)[:, ::10]
    landmarks = _noise(noise.WHITE_LANDMARKS, 30, correlation=correlation)[:, ::3]
    assert audio.std() == pytest.approx(0.01, rel=0.05)
    assert landmarks.std() == pytest.approx(0.01, rel=0.05)
    # Of one modality and the other, and of two features of one modality, at one instant.
    for one, other in ((audio[..., 0], landmarks[..., 1]), (audio[..., 0], audio[..., 1])):
        measured = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert measured == pytest.approx(correlation, abs=0.05)


def test_no_level_is_no_noise():
    assert not _noise(noise.WHITE_AUDIO, 100, level=0.0).any()
