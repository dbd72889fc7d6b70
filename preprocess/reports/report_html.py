"""The report as one page with its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.schema import Example
from emotion_tfdata.dataset.tfrecord import HEADER_BYTES
from emotion_tfdata.dataset.timebase import RATES_HZ, frame_times_s
from emotion_tfdata.html_page import render
from preprocess.clip.landmarks import POINTS, mouth_opening
from preprocess.reports.reported_clip import ReportedClip

_LISTED = 20
_ODD_PLOTTED = 2
_MEASURES = {
    "duration_s": ("duration", "s", 1.0),
    "faces_share": ("rows with a face", "%", 100.0),
    "loudness_db": ("loudness", "dB", 1.0),
    "lag_s": ("mouth after voice", "ms", 1000.0),
}


def page(data_dir: Path, manifest: Manifest, summary: Mapping[str, Any]) -> str:
    """Render the page of a data set.

    Args:
      data_dir: where the shards are.
      manifest: of the data set.
      summary: what `report.summarize` gave.
    """
    title = f"{summary['clips_count']} clips, {summary['hours'] * 60:.1f} minutes"
    if summary["provenance"]:
        title += f" ({summary['provenance']})"
    rates_hz = {name: modality.rate_hz for name, modality in manifest.modalities.items()}
    return render(
        __package__,
        "report.html.j2",
        title=title,
        summary=summary,
        manifest=manifest,
        measured=_measured(summary["measures"]),
        histograms=_histograms(summary["clips"]),
        odd_heads=("", "why", "deviations", *(name for name, _, _ in _MEASURES.values())),
        odd=_odd(summary["clips"][:_LISTED]),
        # Made when their turn comes: a figure takes memory until it is in the page.
        few=(
            (_about(clip), plot_clip(_load(data_dir, manifest, clip), rates_hz))
            for clip in _few(summary["clips"])
        ),
    )


def plot_clip(example: Example, rates_hz: Mapping[str, float] = RATES_HZ) -> Figure:
    """Draw sound and mouth opening on one time axis, and the landmarks at three moments.

    Face features that are no known landmarks are drawn as sound's are, in place of the opening.
    """
    figure = Figure(figsize=(11, 3.4))
    # Room for the labels is given, since measuring it takes longer than drawing.
    grid = figure.add_gridspec(
        2,
        2,
        width_ratios=(1, 1),
        height_ratios=(2, 1),
        hspace=0.12,
        wspace=0.04,
        left=0.055,
        right=0.995,
        bottom=0.14,
        top=0.96,
    )
    shared = None
    if len(example.audio):
        shared = figure.add_subplot(grid[0, 0])
        _draw_features(shared, example.audio, rates_hz["audio"])
        shared.tick_params(labelbottom=not len(example.landmarks))
    if len(example.landmarks):
        below = figure.add_subplot(grid[1, 0], sharex=shared)
        times_s = frame_times_s(len(example.landmarks), rates_hz["landmarks"])
        below.set_xlabel("s")
        if example.landmarks.ndim != 3 or example.landmarks.shape[1] not in POINTS:
            rows = example.landmarks.reshape(len(times_s), -1)
            _draw_features(below, rows, rates_hz["landmarks"])
            return figure
        opening = np.where(example.landmarks_valid, mouth_opening(example.landmarks), np.nan)
        below.plot(times_s, opening, color="#b02a5b")
        below.set_ylabel("lips apart")
        rows = np.flatnonzero(example.landmarks_valid)
        moments = rows[[len(rows) * quarter // 4 for quarter in (1, 2, 3)]] if len(rows) else rows
        for axes in figure.axes:
            for moment in moments:
                axes.axvline(times_s[moment], color="#4a90d9", linestyle="--", linewidth=1)
        _draw_faces(figure.add_subplot(grid[:, 1]), example.landmarks[moments], times_s[moments])
    elif shared is not None:
        shared.set_xlabel("s")
    return figure


def _draw_features(axes: Axes, rows: np.ndarray, rate_hz: float) -> None:
    """Draw rows `[T, W]` as a picture, time to the right."""
    edge, end_s = 0.5 / rate_hz, (len(rows) - 1) / rate_hz
    extent = (-edge, end_s + edge, -0.5, rows.shape[1] - 0.5)
    axes.imshow(rows.T, origin="lower", aspect="auto", cmap="magma", extent=extent)
    axes.set_ylabel("feature")


def _draw_faces(axes: Axes, faces: np.ndarray, times_s: np.ndarray) -> None:
    """Draw landmarks `[N, L, 3]` side by side, each under its time in seconds."""
    left = 0.0
    top = faces[..., 1].min() if len(faces) else 0.0
    for points, time_s in zip(faces, times_s, strict=True):
        x = points[:, 0] - points[:, 0].min() + left
        axes.scatter(x, points[:, 1], s=2, color="#1d2530", linewidths=0)
        axes.text(x.mean(), top - 0.2, f"{time_s:.2f} s", fontsize=9, ha="center")
        left = x.max() + 0.4  # distances between the eyes
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_axis_off()


def _histograms(clips: Sequence[ReportedClip]) -> Figure:
    figure = Figure(figsize=(11, 2.4))
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.12, top=0.88, wspace=0.2)
    corpora = sorted({clip.record.corpus for clip in clips})
    for axes, (key, (name, unit, scale)) in zip(
        figure.subplots(1, len(_MEASURES)), _MEASURES.items(), strict=True
    ):
        values = {
            corpus: scale
            * np.array(
                [
                    value
                    for clip in clips
                    if clip.record.corpus == corpus and (value := getattr(clip, key)) is not None
                ]
            )
            for corpus in corpora
        }
        axes.set_title(f"{name} ({unit})", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        everything = np.concatenate(list(values.values()))
        if not len(everything):
            axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
            continue
        low, high = everything.min(), everything.max()
        edges = np.linspace(low if high > low else low - 1, high, 25)
        for corpus in corpora:
            axes.hist(values[corpus], edges, alpha=0.6, label=corpus)
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def _few(clips: Sequence[ReportedClip]) -> list[ReportedClip]:
    """Choose the oddest clips, and the least odd one of each corpus; each once."""
    few = list(clips[:_ODD_PLOTTED])
    few += [
        clip for clip in {clip.record.corpus: clip for clip in clips}.values() if clip not in few
    ]
    return few


def _load(data_dir: Path, manifest: Manifest, clip: ReportedClip) -> Example:
    record = clip.record
    with open(data_dir / manifest.shards[manifest.index.shards[clip.place]].name, "rb") as file:
        file.seek(record.offset + HEADER_BYTES)
        return schema.decode(file.read(record.length), record.example_id, manifest.modalities)


def _about(clip: ReportedClip) -> str:
    words = f"{clip.record.example_id}, {clip.record.emotion}"
    return words + (f"; {clip.why}, {clip.oddness:.1f} deviations" if clip.why else "")


def _measured(measures: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows = []
    for key, (name, unit, scale) in _MEASURES.items():
        for corpus, of_corpus in measures.items():
            found = of_corpus[key]
            if found is None or (corpus == "all" and len(measures) == 2):
                continue
            values = (f"{scale * found[column]:.1f}" for column in ("min", "median", "max"))
            mean = f"{scale * found['mean']:.1f} ± {scale * found['standard_error']:.1f}"
            rows.append((f"{name}, {corpus}", int(found["count"]), mean, *values, unit))
    return rows


def _odd(clips: Sequence[ReportedClip]) -> list[tuple[Any, ...]]:
    rows = []
    for clip in clips:
        values = [
            "-" if (value := getattr(clip, key)) is None else f"{scale * value:.1f} {unit}"
            for key, (_, unit, scale) in _MEASURES.items()
        ]
        rows.append((clip.record.example_id, clip.why, clip.oddness, *values))
    return rows
