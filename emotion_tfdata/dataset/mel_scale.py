"""The mel scale that the audio features are made on, and where its bands lie.

Slaney's ("Auditory Toolbox: version 2", Interval Research technical report 1998-010), which librosa
has too: 3 mel for each 200 Hz up to 1,000 Hz, and 27 mel for each factor of 6.4 above.
"""

from __future__ import annotations

import numpy as np

_HZ_A_MEL = 200 / 3
_BREAK_HZ = 1000
_BREAK_MEL = _BREAK_HZ / _HZ_A_MEL
_LOG_STEP = np.log(6.4) / 27


# In librosa's order of operations: a frequency that lies on an edge lies on it in both.
def mel_of_hz(hz: float | np.ndarray) -> np.ndarray:
    """Return the mel of frequencies from 0 Hz on: float64, of the shape given."""
    hz = np.asarray(hz, np.float64)
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _HZ_A_MEL, above)


def hz_of_mel(mel: float | np.ndarray) -> np.ndarray:
    """Return the frequencies in Hz of mel from 0 on: float64, of the shape given."""
    mel = np.asarray(mel, np.float64)
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, _HZ_A_MEL * mel, above)


def band_edges_hz(num_bands: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Return the edges of bands that overlap by half: band `i` is 0 at edges `i` and `i + 2`.

    Args:
      num_bands: how many.
      low_hz: lower edge of the lowest.
      high_hz: upper edge of the highest.

    Returns:
      float64 `[num_bands + 2]`, evenly spaced in mel; all but the first and the last are centres.
    """
    return hz_of_mel(np.linspace(mel_of_hz(low_hz), mel_of_hz(high_hz), num_bands + 2))
