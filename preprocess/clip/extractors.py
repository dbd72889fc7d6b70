"""What turns a clip's sound into features: those that are built in, and one's own.

An extractor of one's own is a class that is called without arguments, named `package.module:Class`:

    class Pitch:
        name, version, settings = "pyin", "1", {}
        rate_hz, width = 50.0, 2                # frames a second, numbers a frame
        unit, step = "semitones, voiced", 1 / 256   # of 16-bit fixed point; None for float16

        def extract(self, samples, rate_hz):    # float32 [N], mono, 16,000 a second
            f0, voiced, _ = librosa.pyin(samples, sr=rate_hz, fmin=60, fmax=500, hop_length=320)
            values = np.stack([12 * np.log2(np.nan_to_num(f0, nan=55.0) / 55.0), voiced], axis=1)
            return values, np.arange(len(values)) / 50   # [T, width] and their times in seconds

Values are brought to multiples of `1 / rate_hz` seconds by linear interpolation, unless they are
there already. The source of its module, and of those of the classes that it extends, is part of the
build: changed code is another build.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NoReturn, Protocol, cast

import numpy as np

from emotion_tfdata.dataset import timebase
from emotion_tfdata.dataset.manifest import Array, Modality
from emotion_tfdata.dataset.schema import AUDIO_STEP_DB
from preprocess.clip import audio
from preprocess.clip.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, AudioSettings
from preprocess.clip.container import MediaError

BUILT_IN = ("logmel", "mfcc", "egemaps")
_DESCRIBED = ("name", "version", "settings", "rate_hz", "width", "unit", "step")
# Times of frames are sums of binary fractions.
_TOLERANCE_S = 1e-6


class Extractor(Protocol):
    """What every extractor has.

    Attributes:
      name, version: for people.
      settings: JSON values.
      rate_hz: frames a second.
      width: numbers a frame.
      unit: of the values, in words.
      step: what one unit of the stored 16-bit integer stands for, a power of two; None to store
        float16.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def rate_hz(self) -> float: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def step(self) -> float | None: ...  # noqa: D102


class AudioExtractor(Extractor, Protocol):
    """What an extractor of sound has beside."""

    def extract(self, samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features of a clip.

        Args:
          samples: float32 `[N]`, mono, full scale 1, the first at 0 s.
          rate_hz: of the samples, 16,000.

        Returns:
          Values `[T, width]`, and their times in seconds, rising, `[T]`.
        """


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Log-mel energies, the default."""

    bands: AudioSettings = dataclasses.field(default_factory=AudioSettings)
    name = "logmel"
    version = "1"
    unit = "dB"
    rate_hz = timebase.AUDIO_RATE_HZ
    step = AUDIO_STEP_DB

    @property
    def width(self) -> int:
        """The number of mel bands."""
        return self.bands.num_mels

    @property
    def settings(self) -> Mapping[str, Any]:
        """No settings: the build has those of the filter bank."""
        return {}

    def extract(self, samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute log-mel energies, as `AudioExtractor.extract`."""
        values = audio.log_mel(samples, self.bands)
        return values, timebase.frame_times_s(len(values), self.rate_hz)


@dataclasses.dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstral coefficients and their derivatives, as librosa makes them.

    Attributes:
      bands: window and mel bands.
      coefficients: how many, the zeroth included.
      deltas: how many derivatives over time (librosa's Savitzky-Golay filter of 9 frames).
    """

    bands: AudioSettings
    coefficients: int = 13
    deltas: int = 2
    name = "mfcc"
    version = "1"
    unit = "dB"
    rate_hz = timebase.AUDIO_RATE_HZ
    step = 1 / 16  # +-2048: the zeroth coefficient is the sum of the bands over the root of 80

    @property
    def width(self) -> int:
        """Numbers in a frame."""
        return self.coefficients * (1 + self.deltas)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings beside the filter bank's, which the build has."""
        return {"coefficients": self.coefficients, "deltas": self.deltas}

    def extract(self, samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute MFCCs, as `AudioExtractor.extract`."""
        from librosa import feature

        bands = self.bands
        mfcc = feature.mfcc(
            y=samples,
            sr=rate_hz,
            n_mfcc=self.coefficients,
            n_fft=bands.n_fft,
            hop_length=HOP_SAMPLES,
            n_mels=bands.num_mels,
            fmin=bands.fmin_hz,
            fmax=bands.fmax_hz,
        )
        rows = [mfcc]
        for order in range(1, self.deltas + 1):
            rows.append(feature.delta(mfcc, order=order))
        values = np.concatenate(rows).T
        return values, timebase.frame_times_s(len(values), self.rate_hz)


class EGemaps:
    """eGeMAPS v02's 25 low-level descriptors (openSMILE, free for research alone)."""

    name = "egemaps"
    settings: Mapping[str, Any] = {}
    unit = "openSMILE's"
    rate_hz = timebase.AUDIO_RATE_HZ
    width = 25
    step = None

    @property
    def version(self) -> str:
        """The version of openSMILE."""
        return str(importlib.metadata.version("opensmile"))

    def extract(self, samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute eGeMAPS, as `AudioExtractor.extract`."""
        table = _smile().process_signal(samples, rate_hz)
        starts, ends = (
            table.index.get_level_values(name).total_seconds() for name in ("start", "end")
        )
        return table.to_numpy(np.float32), np.array(starts + ends) / 2


@functools.lru_cache(maxsize=1)
def _smile() -> Any:
    import opensmile

    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
    )


@functools.lru_cache(maxsize=8)
def resolve(
    name: str, bands: AudioSettings, num_mfcc: int = 13, mfcc_deltas: int = 2
) -> AudioExtractor:
    """Return the extractor of a name.

    Raises:
      ValueError: if there is none, or it is not as `AudioExtractor` says.
    """
    if name == "logmel":
        return LogMel(bands)
    if name == "mfcc":
        if not 1 <= num_mfcc <= bands.num_mels or not 0 <= mfcc_deltas <= 2:
            raise ValueError(
                f"num_mfcc must be 1 to num_mels={bands.num_mels} and mfcc_deltas 0 to 2, got "
                f"{num_mfcc} and {mfcc_deltas}"
            )
        return Mfcc(bands, num_mfcc, mfcc_deltas)
    if name == "egemaps":
        try:
            importlib.metadata.version("opensmile")
        except importlib.metadata.PackageNotFoundError as error:
            raise ValueError(
                "audio_features=egemaps needs openSMILE, which is free for research alone: "
                "pip install 'emotion_tfdata[egemaps]'"
            ) from error
        return EGemaps()
    return cast(AudioExtractor, load("audio_features", name, ", ".join(BUILT_IN)))


@functools.lru_cache(maxsize=8)
def load(flag: str, name: str, known: str) -> Any:
    """Load an extractor of one's own.

    Args:
      flag: that names it.
      name: `package.module:name`.
      known: what else there is, for errors.

    Raises:
      ValueError: if there is none, or it lacks what an extractor has.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        raise ValueError(f"{flag} must be {known} or package.module:name, got {name!r}")
    try:
        extractor = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # whatever is wrong with code that is not ours
        raise ValueError(f"{flag}={name}: {type(error).__name__}: {error}") from error
    _check(f"{flag}={name}", extractor)
    return extractor


def describe(extractor: AudioExtractor) -> dict[str, Any]:
    """Describe what an extractor is made of, for JSON: other code gives another description."""
    if isinstance(extractor, LogMel | Mfcc | EGemaps):  # the build's own settings say the rest
        return {"name": extractor.name, "version": extractor.version}
    return described(extractor)


def described(extractor: Any) -> dict[str, Any]:
    """Describe what an extractor of one's own is made of."""
    found = {name: getattr(extractor, name) for name in _DESCRIBED}
    # Of the classes that it extends too, once a module; `object` and the like have no source.
    modules = {each.__module__: inspect.getmodule(each) for each in type(extractor).__mro__}
    sources = []
    for module in modules.values():
        with contextlib.suppress(OSError, TypeError):
            sources.append(inspect.getsource(cast(ModuleType, module)))
    found["source_sha256"] = hashlib.sha256("".join(sources).encode()).hexdigest()
    return found


def stored(extractor: Any) -> Modality:
    """Return how an extractor's values are stored."""
    kind = "float16" if extractor.step is None else "int16"
    array = Array((extractor.width,), kind, extractor.step, extractor.unit)
    return Modality(extractor.rate_hz, array)


def features(extractor: AudioExtractor, samples: np.ndarray) -> np.ndarray:
    """Compute a clip's features on frames of `1 / rate_hz` seconds from 0 s on.

    Args:
      extractor: of the data set.
      samples: float32 `[N]` at 16 kHz.

    Returns:
      float32 `[T, width]`, a frame at every multiple of `1 / rate_hz` in the clip.

    Raises:
      MediaError: if the extractor gives something else than it says.
    """
    values, times_s = checked(extractor, *extractor.extract(samples, SAMPLE_RATE_HZ))
    rows = timebase.num_frames(len(samples) / SAMPLE_RATE_HZ, extractor.rate_hz)
    wanted_s = timebase.frame_times_s(rows, extractor.rate_hz)
    if len(times_s) >= rows and np.allclose(times_s[:rows], wanted_s, rtol=0, atol=_TOLERANCE_S):
        return values[:rows]
    columns = [np.interp(wanted_s, times_s, values[:, column]) for column in range(extractor.width)]
    return np.stack(columns, axis=1).astype(np.float32)


def checked(extractor: Any, found: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check what an extractor gave: float32 `[T, width]`, and its times, float64 `[T]`.

    Raises:
      MediaError: if it is not what the extractor says.
    """
    values, times_s = np.asarray(found, np.float32), np.asarray(times, np.float64)
    problem = None
    if values.ndim != 2 or values.shape[1] != extractor.width:
        problem = f"gave values of shape {values.shape}, not [T, {extractor.width}]"
    elif times_s.shape != values.shape[:1]:
        problem = f"gave {len(values)} values and times of shape {times_s.shape}"
    elif not len(values):
        problem = "gave no values"
    elif not np.isfinite(values).all() or not np.isfinite(times_s).all():
        problem = "gave a value that is not finite"
    elif (np.diff(times_s) <= 0).any():
        problem = f"gave times that go back, at {times_s[1:][np.diff(times_s) <= 0][0]:g} s"
    if problem:
        raise MediaError("features", f"{extractor.name} {problem}")
    return values, times_s


def _check(name: str, extractor: Any) -> None:
    """Refuse what is no extractor, by what it lacks."""

    def refuse(what: str) -> NoReturn:
        raise ValueError(f"{name}: {what}")

    found: dict[str, Any] = {}
    for attribute in (*_DESCRIBED, "extract"):
        try:
            found[attribute] = getattr(extractor, attribute)
        except AttributeError:
            refuse(f"it has no {attribute}")
        except Exception as error:  # of a property
            refuse(f"{attribute}: {type(error).__name__}: {error}")
    for attribute in ("name", "version", "unit"):
        if not isinstance(found[attribute], str):
            refuse(f"{attribute} must be text, got {found[attribute]!r}")
    try:
        json.dumps(dict(found["settings"]))
    except (TypeError, ValueError) as error:
        refuse(f"settings must be a dict of JSON values ({error})")
    rate_hz, width, step = found["rate_hz"], found["width"], found["step"]
    if not isinstance(width, int) or width < 1:
        refuse(f"width must be a whole number from 1 on, got {width!r}")
    if not isinstance(rate_hz, int | float) or not 0 < rate_hz <= 1000:
        refuse(f"rate_hz must be above 0 and at most 1000, got {rate_hz!r}")
    if step is None:
        return
    if not isinstance(step, int | float) or not 0 < step < math.inf or math.frexp(step)[0] != 0.5:
        refuse(f"step must be a power of two or None, got {step!r}")
