from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata.augment.mel import MelAxis, mel_axis, source_bands, warp_bands

librosa = pytest.importorskip("librosa", reason="needs the extra [preprocess]")

_SETTINGS = {"audio": {"num_mels": 80, "fmin_hz": 50.0, "fmax_hz": 8000.0}}
_AXIS = mel_axis(_SETTINGS, 80)
_FACTORS = st.floats(0.5, 2.0, width=32)


def _vtlp_hz(frequency_hz: float, factor: float, top_hz: float) -> float:
    """Equation 1 of Jaitly and Hinton 2013, as printed: S is twice `top_hz`, F_hi 0.6 of it."""
    edge_hz = 0.6 * top_hz * min(factor, 1)
    if frequency_hz <= edge_hz / factor:
        return frequency_hz * factor
    return top_hz - (top_hz - edge_hz) / (top_hz - edge_hz / factor) * (top_hz - frequency_hz)


def _warp(series, factor, axis=_AXIS):
    return warp_bands(tf.constant(series), tf.constant(factor, tf.float32), axis).numpy()


@pytest.mark.parametrize(
    ("bands", "low_hz", "high_hz"), [(80, 50, 8000), (40, 0, 4000), (8, 900, 1e3)]
)
def test_bands_lie_where_librosas_filters_are_centred(bands, low_hz, high_hz):
    audio = {"num_mels": bands, "fmin_hz": low_hz, "fmax_hz": high_hz, "n_fft": 512}
    axis = mel_axis({"audio": audio}, bands)
    edges_hz = librosa.mel_frequencies(bands + 2, fmin=low_hz, fmax=high_hz)
    np.testing.assert_allclose(axis.centres_hz, edges_hz[1:-1], rtol=1e-6)
    np.testing.assert_allclose(axis.top_hz, high_hz, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(_FACTORS, st.integers(0, 99))
def test_each_band_takes_what_stood_at_the_published_frequency(factor, seed):
    series = np.random.default_rng(seed).standard_normal((1, 3, 80)).astype(np.float32)
    top_hz = float(_AXIS.top_hz)
    wanted_hz = [_vtlp_hz(float(f), factor, top_hz) for f in _AXIS.centres_hz]
    warped = _warp(series, [factor])
    for frame in range(3):
        # numpy holds the first and the last value beyond the ends, as is stated.
        expected = np.interp(wanted_hz, _AXIS.centres_hz, series[0, frame])
        np.testing.assert_allclose(warped[0, frame], expected, atol=2e-3)


def test_no_warp_gives_the_same_bits():
    series = np.random.default_rng(0).standard_normal((2, 5, 80)).astype(np.float32)
    np.testing.assert_array_equal(_warp(series, [1.0, 1.0]), series)


@given(_FACTORS)
def test_bands_keep_their_order_and_are_mixtures_of_neighbours(factor):
    lower, weight = (x.numpy()[0] for x in source_bands(tf.constant([factor]), _AXIS))
    assert ((lower >= 0) & (lower < 79)).all()
    assert ((weight >= 0) & (weight <= 1)).all()
    assert (np.diff(lower + weight) >= -1e-4).all()


def test_a_formant_comes_to_its_frequency_over_the_factor():
    formants_hz, factors = np.array([700.0, 1500, 2600]), np.array([0.85, 1.0, 1.15], np.float32)
    centres_hz = _AXIS.centres_hz.astype(np.float64)
    for formant_hz in formants_hz:
        energies = -(((np.log(centres_hz) - np.log(formant_hz)) / 0.1) ** 2)
        series = np.tile(energies, (3, 1, 1)).astype(np.float32)
        found_hz = centres_hz[_warp(series, factors)[:, 0].argmax(axis=1)]
        spacing_hz = np.gradient(centres_hz)[np.searchsorted(centres_hz, formant_hz)]
        np.testing.assert_allclose(found_hz, formant_hz / factors, atol=1.5 * spacing_hz)


def test_each_clip_has_its_own_factor():
    series = np.random.default_rng(0).standard_normal((3, 4, 80)).astype(np.float32)
    factors = [0.9, 1.0, 1.1]
    together = _warp(series, factors)
    for i, factor in enumerate(factors):
        np.testing.assert_array_equal(_warp(series[i : i + 1], [factor])[0], together[i])


@pytest.mark.parametrize(
    "wrong", [{}, {"audio": {"num_mels": 40, "fmin_hz": 50.0, "fmax_hz": 8000.0}}, {"audio": 3}]
)
def test_features_of_unknown_frequency_are_refused_with_what_to_do(wrong):
    with pytest.raises(ValueError, match=r"give num_mels=80, fmin_hz and fmax_hz .* mel_warp="):
        mel_axis(wrong, 80)


def test_two_bands_are_enough():
    axis = MelAxis(np.float32([1000, 2000]), np.float32(4000))
    np.testing.assert_allclose(_warp(np.float32([[[0, 10]]]), [1.5], axis), [[[5, 10]]], atol=1e-5)
