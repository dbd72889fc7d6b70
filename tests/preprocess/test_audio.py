"""Log-mel energies against librosa and numpy called directly, and against closed forms."""

from __future__ import annotations

import warnings

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from librosa.filters import mel
from scipy.signal import get_window

from emotion_tfdata.dataset.timebase import AUDIO_RATE_HZ, num_frames
from preprocess.clip import audio
from preprocess.clip.audio import AudioSettings


def noise(samples, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize(
    "chosen", [AudioSettings(), AudioSettings(num_mels=40, n_fft=400, fmin_hz=0, fmax_hz=7600)]
)
def test_log_mel_is_librosa_s(chosen):
    samples = noise(16000)
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=16000,
        n_fft=chosen.n_fft,
        hop_length=160,
        n_mels=chosen.num_mels,
        fmin=chosen.fmin_hz,
        fmax=chosen.fmax_hz,
    )
    expected = librosa.power_to_db(power, ref=1.0, top_db=None).T
    features = audio.log_mel(samples, chosen)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_log_mel_is_that_of_plain_numpy():
    chosen = AudioSettings()
    samples = noise(4000)
    window = get_window("hann", 512, fftbins=True)
    padded = np.pad(samples.astype(np.float64), 256)
    bank = mel(sr=16000, n_fft=512, n_mels=80, fmin=50, fmax=8000)
    rows = []
    for centre in range(0, len(samples) + 1, 160):
        spectrum = np.fft.rfft(window * padded[centre : centre + 512])
        rows.append(10 * np.log10(np.maximum(bank @ np.abs(spectrum) ** 2, 1e-10)))
    np.testing.assert_allclose(audio.log_mel(samples, chosen), rows, atol=1e-3)


@given(samples=st.integers(512, 50000))
@settings(max_examples=25, deadline=None)
def test_frames_are_as_many_as_the_timebase_says(samples):
    features = audio.log_mel(np.zeros(samples, np.float32), AudioSettings(num_mels=8))
    assert features.shape == (num_frames(samples / 16000, AUDIO_RATE_HZ), 8)


@pytest.mark.parametrize("frame", [0, 1, 37, 99])
def test_an_impulse_is_loudest_in_the_frame_of_its_time(frame):
    samples = np.zeros(16000, np.float32)
    samples[frame * 160] = 1.0
    features = audio.log_mel(samples, AudioSettings())
    assert (features.argmax(axis=0) == frame).all()


def test_a_tone_stands_in_its_band():
    times_s = np.arange(16000) / 16000
    centres_hz = librosa.mel_frequencies(82, fmin=50, fmax=8000)[1:-1]
    for band in (5, 30, 75):
        tone = np.sin(2 * np.pi * centres_hz[band] * times_s).astype(np.float32)
        assert audio.log_mel(tone, AudioSettings())[50].argmax() == band


def test_ten_times_the_amplitude_is_twenty_decibel_whatever_else_the_clip_holds():
    loud = noise(8000)
    quiet = np.concatenate([loud / 100, loud])
    difference = audio.log_mel(quiet * 10, AudioSettings()) - audio.log_mel(quiet, AudioSettings())
    np.testing.assert_allclose(difference, 20, atol=1e-3)


def test_silence_is_finite_at_the_floor():
    features = audio.log_mel(np.zeros(1600, np.float32), AudioSettings())
    np.testing.assert_allclose(features, -100, atol=1e-4)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_resampling_keeps_every_instant_where_it_is(rate_hz):
    def tone(rate, count):
        times_s = np.arange(count) / rate
        return np.sin(2 * np.pi * 440 * times_s) * np.hanning(count)

    resampled = audio.resample(tone(rate_hz, rate_hz).astype(np.float32), rate_hz)
    assert resampled.dtype == np.float32
    assert len(resampled) == 16000
    np.testing.assert_allclose(resampled, tone(16000, 16000), atol=2e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_mels": 0}, r"num_mels must be a whole number in \[1, 65536\], got 0"),
        ({"n_fft": 100}, r"n_fft must be a whole number in \[160, 16000\], got 100"),
        ({"fmin_hz": -1.0}, "fmin and fmax must be"),
        ({"fmax_hz": 9000.0}, r"fmin < fmax <= 8000 Hz, got 50 and 9000"),
        ({"fmin_hz": 500.0, "fmax_hz": 500.0}, "fmin and fmax must be"),
    ],
)
def test_settings_that_make_no_features_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AudioSettings(**wrong)


def test_a_band_that_no_frequency_falls_into_is_refused():
    AudioSettings().check_filters()
    with pytest.raises(ValueError, match="of 128 mel bands hold no frequency of a 160-sample"):
        AudioSettings(num_mels=128, n_fft=160).check_filters()


@given(
    num_mels=st.integers(1, 200),
    n_fft=st.integers(160, 2048),
    fmin_hz=st.floats(0, 3000),
    fmax_hz=st.floats(3001, 8000),
)
@settings(max_examples=100, deadline=None)
def test_empty_bands_are_those_of_librosa_s_filters(num_mels, n_fft, fmin_hz, fmax_hz):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the same matter
        bank = mel(
            sr=16000, n_fft=n_fft, n_mels=num_mels, fmin=fmin_hz, fmax=fmax_hz, dtype=np.float64
        )
    empty = np.flatnonzero(bank.max(axis=1) == 0)
    chosen = AudioSettings(num_mels=num_mels, n_fft=n_fft, fmin_hz=fmin_hz, fmax_hz=fmax_hz)
    if empty.size:
        words = f"^{empty.size} of {num_mels} .*the first is band {empty[0]}"
        with pytest.raises(ValueError, match=words):
            chosen.check_filters()
    else:
        chosen.check_filters()
