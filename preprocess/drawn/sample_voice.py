"""Voices made by a source and a filter: glottal pulses and breath through vowel formants.

Loudness is put on last, by multiplying with an `Envelope` that is a function of time. Whatever
else follows the same function (the drawn mouth) is therefore synchronous with the sound: no
filter's delay lies between them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import signal

# First four formants of an adult male, Hz. After Peterson and Barney (1952), fourth added.
_VOWELS_HZ: dict[str, tuple[float, float, float, float]] = {
    "a": (730.0, 1090.0, 2440.0, 3400.0),
    "e": (530.0, 1840.0, 2480.0, 3500.0),
    "i": (270.0, 2290.0, 3010.0, 3600.0),
    "o": (570.0, 840.0, 2410.0, 3300.0),
    "u": (300.0, 870.0, 2240.0, 3300.0),
}
_BANDWIDTHS_HZ = (70.0, 90.0, 130.0, 190.0)
VOWELS = "".join(_VOWELS_HZ)

_LEAD_S = 0.18
_ROOM_NOISE = 10 ** (-55 / 20)


@dataclasses.dataclass(frozen=True)
class Envelope:
    """Loudness over time: one Hann-shaped bump a syllable, each symmetric about its centre.

    Attributes:
        centres_s: `[syllables]`.
        half_width_s: Half the length of a bump.
        heights: `[syllables]`; scaled so that the sum of the bumps peaks at 1.
    """

    centres_s: tuple[float, ...]
    half_width_s: float
    heights: tuple[float, ...]

    def __call__(self, time_s: np.ndarray | float) -> np.ndarray:
        """Return the envelope, 0..1, at each time."""
        return (self._bumps(time_s) * np.array(self.heights)).sum(axis=-1)

    def shares(self, time_s: np.ndarray) -> np.ndarray:
        """Return which syllable is being said: `[times, syllables]`; rows sum to 1."""
        # A syllable gives way to the next half-way between their centres, within 40 ms.
        centres = np.array(self.centres_s)
        bounds = (centres[1:] + centres[:-1]) / 2.0
        passed = np.clip((time_s[:, np.newaxis] - bounds) / 0.04 + 0.5, 0.0, 1.0)
        ones, zeros = np.ones((len(time_s), 1)), np.zeros((len(time_s), 1))
        return np.concatenate([ones, passed], axis=1) - np.concatenate([passed, zeros], axis=1)

    def _bumps(self, time_s: np.ndarray | float) -> np.ndarray:
        distance = (np.asarray(time_s)[..., np.newaxis] - np.array(self.centres_s)) / (
            self.half_width_s
        )
        return np.where(np.abs(distance) < 1.0, 0.5 + 0.5 * np.cos(np.pi * distance), 0.0)


@dataclasses.dataclass(frozen=True)
class Throat:
    """What stays the same in all clips of an actor.

    Attributes:
        pitch_hz: F0 of plain speech.
        tract: Factor on the formants: above 1 for a shorter vocal tract.
        syllables_hz: Speech rate.
        gain_db: How loud the actor is recorded.
    """

    pitch_hz: float
    tract: float
    syllables_hz: float
    gain_db: float


@dataclasses.dataclass(frozen=True)
class Manner:
    """A manner of speaking.

    Attributes:
        pitch_semitones: F0 level above the actor's own.
        accent_semitones: Rise of F0 at the syllables' centres.
        slope_semitones: F0 at the end of the clip less that at its beginning.
        tremor_semitones: Depth of a 6 Hz tremor of F0.
        open_quotient: Share of a period in which the glottis is open: small is pressed.
        tilt_hz: Where the source begins to fall by a further 6 dB an octave.
        breath: Level of the aspiration noise, relative to the voice.
        gain_db: Loudness.
    """

    pitch_semitones: float = 0.0
    accent_semitones: float = 1.0
    slope_semitones: float = -2.0
    tremor_semitones: float = 0.0
    open_quotient: float = 0.6
    tilt_hz: float = 1500.0
    breath: float = 0.05
    gain_db: float = 0.0


def draw_throat(rng: np.random.Generator, *, female: bool) -> Throat:
    """Draw an actor's voice."""
    return Throat(
        pitch_hz=rng.uniform(175.0, 225.0) if female else rng.uniform(95.0, 135.0),
        tract=rng.uniform(1.10, 1.20) if female else rng.uniform(0.95, 1.05),
        syllables_hz=rng.uniform(3.4, 4.4),
        gain_db=rng.uniform(-2.0, 2.0),
    )


def draw_envelope(rng: np.random.Generator, duration_s: float, syllables_hz: float) -> Envelope:
    """Draw the syllables of one clip, silence before and after them."""
    speech_s = duration_s - 2 * _LEAD_S
    count = max(2, round(speech_s * syllables_hz))
    step_s = speech_s / count
    centres = _LEAD_S + step_s * (np.arange(count) + 0.5 + rng.uniform(-0.1, 0.1, count))
    drawn = Envelope(tuple(centres), 0.62 * step_s, tuple(rng.uniform(0.55, 1.0, count)))
    peak = drawn(np.linspace(0.0, duration_s, 2000)).max()
    return dataclasses.replace(drawn, heights=tuple(np.array(drawn.heights) / peak))


def synthesize(
    throat: Throat,
    manner: Manner,
    envelope: Envelope,
    vowels: str,
    duration_s: float,
    *,
    rate_hz: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Say `vowels`, one a syllable and over again, with the loudness of `envelope`.

    Args:
        throat: The actor's voice.
        manner: How it is said.
        envelope: Loudness over time.
        vowels: Letters of `VOWELS`.
        duration_s: Length of the clip.
        rate_hz: Samples a second.
        rng: For breath and room noise.

    Returns:
        `[samples]` float64 within -1..1; sample `n` is heard at `n / rate_hz`.
    """
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    loudness = envelope(time_s)
    pitch_hz = throat.pitch_hz * 2.0 ** (_melody(manner, envelope, time_s, duration_s) / 12.0)
    source = _glottal_flow(pitch_hz, manner.open_quotient, rate_hz)
    fall, rise = signal.butter(1, manner.tilt_hz, fs=rate_hz)
    source = signal.lfilter(fall, rise, source)
    source = source / source.std() + manner.breath * rng.standard_normal(len(time_s))

    shares = envelope.shares(time_s)
    spoken = np.zeros_like(source)
    for vowel in sorted(set(vowels)):
        share = sum(
            (shares[:, k] for k in range(shares.shape[1]) if vowels[k % len(vowels)] == vowel),
            start=np.zeros_like(source),
        )
        filtered = _formants(source, vowel, throat.tract, rate_hz)
        spoken += share * filtered / filtered.std()
    # As loud everywhere, whatever harmonic meets whatever formant: loudness is the envelope's.
    window = signal.windows.hann(2 * round(0.025 * rate_hz) + 1)
    power = signal.fftconvolve(spoken**2, window / window.sum(), mode="same")
    spoken /= np.sqrt(np.maximum(power, 1e-3))
    level = 0.07 * 10 ** ((throat.gain_db + manner.gain_db) / 20.0)
    room = _ROOM_NOISE * rng.standard_normal(len(time_s))
    return np.clip(level * loudness * spoken + room, -1.0, 1.0)


def _melody(
    manner: Manner, envelope: Envelope, time_s: np.ndarray, duration_s: float
) -> np.ndarray:
    """Return F0 in semitones above the actor's own."""
    return (
        manner.pitch_semitones
        + manner.accent_semitones * (envelope(time_s) - 0.5)
        + manner.slope_semitones * (time_s / duration_s - 0.5)
        + manner.tremor_semitones * np.sin(2 * np.pi * 6.0 * time_s)
    )


def _glottal_flow(pitch_hz: np.ndarray, open_quotient: float, rate_hz: int) -> np.ndarray:
    """Return the derivative of Rosenberg's pulse (1971, type B), which is what the lips radiate."""
    phase = np.cumsum(pitch_hz / rate_hz) % 1.0
    rising, falling = 0.67 * open_quotient, 0.33 * open_quotient
    opening = phase / rising
    closing = (phase - rising) / falling
    flow = np.where(
        phase < rising,
        3 * opening**2 - 2 * opening**3,
        np.where(phase < open_quotient, 1.0 - closing**2, 0.0),
    )
    return np.diff(flow, prepend=flow[0])


def _formants(source: np.ndarray, vowel: str, tract: float, rate_hz: int) -> np.ndarray:
    """Filter by four resonances in cascade (Klatt 1980)."""
    sound = source
    for frequency_hz, bandwidth_hz in zip(_VOWELS_HZ[vowel], _BANDWIDTHS_HZ, strict=True):
        radius = np.exp(-np.pi * bandwidth_hz / rate_hz)
        angle = 2 * np.pi * frequency_hz * tract / rate_hz
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        sound = signal.lfilter([sum(poles)], poles, sound)
    return sound
