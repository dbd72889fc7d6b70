"""Log-mel energies of a clip's sound (librosa), at 100 frames/s."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from emotion_tfdata.dataset.mel_scale import band_edges_hz
from emotion_tfdata.dataset.timebase import AUDIO_RATE_HZ
from emotion_tfdata.fields import check, documented, setting

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = SAMPLE_RATE_HZ // AUDIO_RATE_HZ

# Power that counts as silence, -100 dB: below the quantising noise of 16-bit sound in a mel band,
# so that nothing recorded is cut off and digital silence stays finite.
_AMIN = 1e-10


@documented
@dataclasses.dataclass(frozen=True)
class AudioSettings:
    """The window and the mel bands of the features.

    Raises:
      ValueError: for settings that make no filter bank, or one with a band that no frequency of
        the transform falls into (it would be silent in every clip).
    """

    num_mels: int = setting(80, "Mel bands of the audio", "[1, 65536]")
    n_fft: int = setting(
        512,
        "Samples of the audio's (Hann) window, at 16 kHz, from one hop up",
        f"[{HOP_SAMPLES}, {SAMPLE_RATE_HZ}]",
    )
    fmin_hz: float = setting(50.0, "Lower edge of the mel bands, in Hz", flag="fmin")
    fmax_hz: float = setting(8000.0, "Upper edge of the mel bands, in Hz", flag="fmax")

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.fmin_hz < self.fmax_hz <= SAMPLE_RATE_HZ / 2:
            raise ValueError(
                f"fmin and fmax must be 0 <= fmin < fmax <= {SAMPLE_RATE_HZ // 2} Hz, got "
                f"{self.fmin_hz:g} and {self.fmax_hz:g}"
            )

    def check_filters(self) -> None:
        """Check that no band of the filter bank is empty, without loading librosa.

        Raises:
          ValueError: if one is.
        """
        edges_hz = band_edges_hz(self.num_mels, self.fmin_hz, self.fmax_hz)
        bins_hz = np.arange(self.n_fft // 2 + 1) * (SAMPLE_RATE_HZ / self.n_fft)
        first_inside = np.searchsorted(bins_hz, edges_hz[:-2], side="right")
        first_beyond = np.searchsorted(bins_hz, edges_hz[2:], side="left")
        empty = np.flatnonzero(first_beyond <= first_inside)
        if empty.size:
            raise ValueError(
                f"{empty.size} of {self.num_mels} mel bands hold no frequency of a {self.n_fft}-"
                f"sample transform (the first is band {empty[0]}); raise n_fft or lower num_mels"
            )


def resample(samples: np.ndarray, rate_hz: float) -> np.ndarray:
    """Resample sound to 16 kHz without moving it: sample 0 stays at the same instant.

    Args:
      samples: float32 `[N]`.
      rate_hz: their rate.

    Returns:
      float32 `[ceil(N * 16000 / rate_hz)]`.
    """
    import librosa

    return librosa.resample(
        np.asarray(samples, np.float32),
        orig_sr=rate_hz,
        target_sr=SAMPLE_RATE_HZ,
        res_type="soxr_hq",
    )


def log_mel(samples: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Compute log-mel energies in dB of full scale, floored at -100 dB for every clip alike.

    Args:
      samples: float32 `[N]` at 16 kHz, full scale 1, the first at 0 s.
      settings: the filter bank.

    Returns:
      float32 `[N // 160 + 1, num_mels]`; row `i` is centred on `i / 100` s.
    """
    import librosa

    spectrum = librosa.stft(samples, n_fft=settings.n_fft, hop_length=HOP_SAMPLES, center=True)
    power = np.square(spectrum.real, dtype=float) + np.square(spectrum.imag, dtype=float)
    # As librosa.feature.melspectrogram, in float64 and in an order that does not depend on the
    # processor, so that the stored values are the same to the bit on each: a BLAS product, the
    # absolute value of complex numbers and a float32 logarithm each round as its kernel does.
    return librosa.power_to_db(
        _filter_bank(settings) @ power, ref=1.0, amin=_AMIN, top_db=None
    ).T.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _filter_bank(settings: AudioSettings) -> Any:
    """Make sparse filters, float64 `[num_mels, n_fft // 2 + 1]`, that add up in the bins' order."""
    from librosa.filters import mel
    from scipy.sparse import csr_array

    return csr_array(
        mel(
            sr=SAMPLE_RATE_HZ,
            n_fft=settings.n_fft,
            n_mels=settings.num_mels,
            fmin=settings.fmin_hz,
            fmax=settings.fmax_hz,
        ).astype(float)
    )
