"""What a trained model says of a recording over time, in a sliding window.

Recordings are read in parts, so that hours of them take no more memory than half a minute.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.clip.container import MediaError, open_container
from preprocess.clip.landmarks import POINTS, mouth_opening
from preprocess.clip.media import Part
from preprocess.prediction.predictor import Failure, Features, Task, read_tasks

WINDOW_S, EVERY_S = 2.0, 0.25
_PART_S = 20.0


@dataclasses.dataclass
class Timeline:
    """What is said of one recording.

    Attributes:
      path: of the recording.
      class_names: in order.
      starts_s: where windows begin, float64 `[N]`, seconds from the recording's beginning.
      window_s: how long they are.
      probabilities: float32 `[N, C]`, NaN where the window has nothing that the model takes.
      voice: (time in seconds, mean of the audio's features) of each frame, float32 `[T, 2]`.
      mouth: (time in seconds, distance of the lips), NaN without a face, float32 `[T, 2]`.
      gaps: where parts could not be used: begin, end and reason.
    """

    path: Path
    class_names: tuple[str, ...]
    starts_s: np.ndarray
    window_s: float
    probabilities: np.ndarray
    voice: np.ndarray
    mouth: np.ndarray
    gaps: list[tuple[float, float, str]]

    def as_json(self) -> str:
        """Return all but the series as JSON text."""
        windows = [
            {
                "start_s": round(float(start_s), 3),
                "end_s": round(float(start_s) + self.window_s, 3),
                "probabilities": None
                if np.isnan(shares).any()
                else dict(zip(self.class_names, map(float, shares), strict=True)),
            }
            for start_s, shares in zip(self.starts_s, self.probabilities, strict=True)
        ]
        gaps = [{"start_s": a, "end_s": b, "reason": reason} for a, b, reason in self.gaps]
        about = {"path": str(self.path), "class_names": list(self.class_names)}
        return json.dumps(about | {"windows": windows, "gaps": gaps}, indent=1) + "\n"

    def draw(self) -> Any:
        """Draw voice, mouth and probabilities on one time axis, as a matplotlib figure."""
        from matplotlib.figure import Figure

        series = [(self.voice, "voice"), (self.mouth, "lips apart")]
        series = [(values, label) for values, label in series if len(values)]
        rows = len(series) + 1
        figure = Figure(figsize=(11, 1.3 * rows + 1.7), layout="constrained")
        axes = figure.subplots(
            rows, 1, sharex=True, squeeze=False, height_ratios=[*[1] * len(series), 2]
        )[:, 0]
        for axis, (values, label) in zip(axes, series, strict=False):
            axis.plot(values[:, 0], values[:, 1], linewidth=0.8, color="0.3")
            axis.set_ylabel(label)
        last = axes[-1]
        middles_s = self.starts_s + self.window_s / 2
        for name, shares in zip(self.class_names, self.probabilities.T, strict=True):
            last.plot(middles_s, shares, label=name)
        for start_s, end_s, _ in self.gaps:
            for axis in axes:
                axis.axvspan(start_s, end_s, color="0.9")
        last.set_ylim(0, 1)
        last.set_ylabel("probability")
        last.set_xlabel("time (s); probabilities at the middle of their window")
        figure.suptitle(self.path.name, x=0.01, ha="left")
        figure.legend(loc="outside upper right", ncols=min(8, len(self.class_names)))
        return figure


def timelines(
    model_dir: Path, paths: Sequence[Path], features: Features, *, num_workers: int
) -> Iterator[tuple[Path, Timeline | Failure]]:
    """Classify recordings over time; yield each when it is done, in the order given.

    Raises:
      PredictError: as `predict_clips`.
    """
    lengths = {path: _length_s(path) for path in paths}
    tasks = [
        (path, part)
        for path, length in lengths.items()
        for part in (_parts(length) if isinstance(length, float) else [])
    ]
    numbered: list[Task] = [(number, *task) for number, task in enumerate(tasks)]
    results = iter(read_tasks(model_dir, numbered, features, num_workers) if tasks else ())
    for path, length in lengths.items():
        if isinstance(length, Failure):
            yield path, length
            continue
        found = [next(results) for _ in _parts(length)]
        failures = [read for _, read, _ in found if isinstance(read, Failure)]
        if len(failures) == len(found):
            yield path, failures[0]
        else:
            yield path, _timeline(path, length, features, found)


def _length_s(path: Path) -> float | Failure:
    try:
        with open_container(path) as container:
            length = container.duration
    except MediaError as error:
        return Failure(error.kind, str(error))
    except OSError as error:
        return Failure("unreadable", f"cannot be read ({error.strerror})")
    if not length or length < 0:
        return Failure(
            "no length", f"does not say how long it is; first: ffmpeg -i {path} -c copy COPY.mkv"
        )
    return length / 1e6


def _parts(length_s: float) -> list[Part]:
    """Return parts that overlap by a window, so that each window lies in one of them."""
    count = max(1, math.ceil((length_s - WINDOW_S) / _PART_S))
    ends_s = [(n + 1) * _PART_S + WINDOW_S for n in range(count - 1)]
    return [Part(n * _PART_S, end_s) for n, end_s in enumerate([*ends_s, None])]


def _timeline(path: Path, length_s: float, features: Features, found: Sequence[Any]) -> Timeline:
    starts: list[np.ndarray] = []
    shares: list[np.ndarray] = []
    voice: list[np.ndarray] = []
    mouth: list[np.ndarray] = []
    gaps: list[tuple[float, float, str]] = []
    every = round(_PART_S / EVERY_S)
    for (_, _, part), read, model in found:
        end_s = length_s if part.end_s is None else part.end_s
        most = max(1, math.floor((end_s - part.start_s - WINDOW_S) / EVERY_S + 1e-6) + 1)
        in_part_s = EVERY_S * np.arange(most if part.end_s is None else every)
        starts.append(part.start_s + in_part_s)
        if isinstance(read, Failure):
            shares.append(np.full((len(in_part_s), len(features.class_names)), np.nan, np.float32))
            gaps.append((part.start_s, end_s, read.reason))
            continue
        probabilities, enough = model.windows(read.example, in_part_s, WINDOW_S)
        shares.append(np.where(enough[:, None], probabilities, np.nan))
        example, cut_s = read.example, _PART_S if part.end_s is not None else math.inf
        for rows, values, rate_hz in (
            (voice, example.audio.mean(axis=1), features.audio.rate_hz),
            (mouth, _opening(example), features.face.rate_hz),
        ):
            times_s = np.arange(len(values)) / rate_hz
            own = times_s < cut_s
            rows.append(np.stack([part.start_s + times_s[own], values[own]], axis=1))
    return Timeline(
        path=path,
        class_names=features.class_names,
        starts_s=np.concatenate(starts),
        window_s=WINDOW_S,
        probabilities=np.concatenate(shares),
        voice=np.concatenate(voice),
        mouth=np.concatenate(mouth),
        gaps=gaps,
    )


def _opening(example: Any) -> np.ndarray:
    if example.landmarks.ndim != 3 or example.landmarks.shape[1] not in POINTS:
        return np.zeros(0)
    return np.where(example.landmarks_valid, mouth_opening(example.landmarks), np.nan)
