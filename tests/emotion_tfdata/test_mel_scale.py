"""The mel scale against librosa's, which is Slaney's too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata.dataset.mel_scale import band_edges_hz, hz_of_mel, mel_of_hz

librosa = pytest.importorskip("librosa", reason="needs the extra [preprocess]")


@given(st.lists(st.floats(0, 24000), min_size=1, max_size=20))
def test_mel_are_librosas(hz):
    np.testing.assert_allclose(mel_of_hz(np.array(hz)), librosa.hz_to_mel(hz), rtol=1e-13)
    assert mel_of_hz(hz[0]) == mel_of_hz(np.array(hz))[0]


@given(st.lists(st.floats(0, 62), min_size=1, max_size=20))
def test_frequencies_are_librosas(mel):
    np.testing.assert_allclose(hz_of_mel(np.array(mel)), librosa.mel_to_hz(mel), rtol=1e-13)
    assert hz_of_mel(mel[0]) == hz_of_mel(np.array(mel))[0]


def test_both_parts_meet_where_the_scale_breaks():
    hz, mel = np.array([0.0, 200.0, 1000.0, 6400.0]), np.array([0.0, 3.0, 15.0, 42.0])
    np.testing.assert_allclose(mel_of_hz(hz), mel, rtol=1e-14)
    np.testing.assert_allclose(hz_of_mel(mel), hz, rtol=1e-14)


@pytest.mark.parametrize(
    ("bands", "low_hz", "high_hz"), [(80, 50, 8000), (1, 0, 700), (8, 1e3, 4e3)]
)
def test_bands_begin_and_end_where_librosas_filters_do(bands, low_hz, high_hz):
    expected = librosa.mel_frequencies(bands + 2, fmin=low_hz, fmax=high_hz)
    np.testing.assert_allclose(band_edges_hz(bands, low_hz, high_hz), expected, rtol=1e-12)
