"""Extractors as users write them, good and bad."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import librosa
import numpy as np


class Pitch:
    name, version, settings = "pyin", "1", {"fmin_hz": 60.0}
    rate_hz, width = 50.0, 2
    unit, step = "semitones above 55 Hz, probability of a voice", 1 / 256

    def extract(self, samples, rate_hz):
        f0, _, voiced = librosa.pyin(samples, sr=rate_hz, fmin=60, fmax=500, hop_length=320)
        values = np.stack([12 * np.log2(np.nan_to_num(f0, nan=55.0) / 55.0), voiced], axis=1)
        return values, np.arange(len(values)) / self.rate_hz


class Wide:
    """Three columns of any size, as they are, at times between its frames."""

    name, version = "wide", "1"
    settings: Mapping[str, Any] = {}
    rate_hz, width, unit = 25, 3, ""
    step: float | None = None
    scale = 1000.0

    def extract(self, samples, rate_hz):
        times = np.arange(0.01, len(samples) / rate_hz, 0.04)
        return self.scale * np.stack([times, -times, times**2], axis=1), times


class Slow(Wide):
    def extract(self, samples, rate_hz):
        time.sleep(0.3)
        return super().extract(samples, rate_hz)


class Infinite(Wide):
    scale = 1e9


class Raising(Wide):
    def extract(self, samples, rate_hz):
        raise RuntimeError("no model for this")


class Greedy(Wide):
    def extract(self, samples, rate_hz):
        return bytearray(1 << 62)


class NotFinite(Wide):
    def extract(self, samples, rate_hz):
        return np.full((3, 3), np.nan), np.arange(3)


class TooWide(Wide):
    def extract(self, samples, rate_hz):
        return np.zeros((5, 4)), np.arange(5)


class Backwards(Wide):
    def extract(self, samples, rate_hz):
        return np.zeros((3, 3)), [0.0, 0.2, 0.1]


class Nothing(Wide):
    def extract(self, samples, rate_hz):
        return np.zeros((0, 3)), []


class Untimed(Wide):
    def extract(self, samples, rate_hz):
        return np.zeros((4, 3)), [0.0]


class NoWidth:
    name, version = "no width", "1"
    settings: Mapping[str, Any] = {}


class OddStep(Wide):
    step = 0.3


class OddSettings(Wide):
    settings: Mapping[str, Any] = {"model": object()}


class NoSettings(Wide):
    @property
    def settings(self):
        raise KeyError("weights")


class Numbered(Wide):
    version: Any = 2


class Colour:
    """Mean red, green and blue of a picture; nothing where it is dark."""

    name, version = "colour", "1"
    settings: Mapping[str, Any] = {}
    rate_hz, width, unit = 25, 3, "of full scale"
    step: float | None = 1 / 4096

    def extract(self, pictures):
        rows = [(time_s, rgb.mean(axis=(0, 1)) / 255) for time_s, rgb in pictures]
        times_s, values = map(np.array, zip(*rows, strict=True))
        return np.where(values.mean(axis=1, keepdims=True) < 0.1, np.nan, values), times_s


class ColourInFloats(Colour):
    step = None


class CoarseColour(Colour):
    step = 1.0


class SlowColour(Colour):
    """At every fifth picture, and two frames a second."""

    rate_hz = 2

    def extract(self, pictures):
        values, times_s = super().extract(pictures)
        return values[::5], times_s[::5]


class HalfMissing(Colour):
    def extract(self, pictures):
        values, times_s = super().extract(pictures)
        values[3, 1] = np.nan
        return values, times_s


class Blind(Colour):
    def extract(self, pictures):
        values, times_s = super().extract(pictures)
        return np.full_like(values, np.nan), times_s


class Crashing(Colour):
    def extract(self, pictures):
        raise RuntimeError("no weights")
