"""Draws a clip as it is and augmented, both modalities on one time axis.

    python -m emotion_tfdata.inspect --data_dir=D --out=clip.png [--example_id=ravdess/...]

The dashed lines stand where the mouth is widest: what happens at `t` must come to `t * stretch` in
both modalities. It needs matplotlib (extra [train]) and no display.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags

from emotion_tfdata.dataset import storage, timebase

# (upper, lower inner lip), (brows), (upper lids below them), by number of landmarks.
_POINTS = {
    478: ((13, 14), (105, 334), (159, 386)),
    68: ((62, 66), (19, 24), (37, 44)),
}


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Return the distance of the inner lips, `[T]`, of landmarks `[T, L, 3]`, in their units.

    Raises:
      ValueError: for another number of landmarks than FaceMesh's 478 or OpenFace's 68.
    """
    upper, lower = _points(landmarks)[0]
    return np.linalg.norm(landmarks[:, upper] - landmarks[:, lower], axis=-1)


def brow_height(landmarks: np.ndarray) -> np.ndarray:
    """Return the mean height of the brows over the upper lids, `[T]`, of landmarks `[T, L, 3]`."""
    _, brows, lids = _points(landmarks)
    distance = landmarks[:, list(brows)] - landmarks[:, list(lids)]
    return np.linalg.norm(distance, axis=-1).mean(axis=-1)


def _points(landmarks: np.ndarray) -> tuple[tuple[int, ...], ...]:
    if landmarks.shape[1] not in _POINTS:
        raise ValueError(
            f"{landmarks.shape[1]} landmarks: which are lips and brows is known for "
            f"{' and '.join(map(str, _POINTS))} alone"
        )
    return _POINTS[landmarks.shape[1]]


def clip_and_copy(
    data_dir: str, example_id: str | None, stretch: float, noise_level: float, seed: int
) -> tuple[str, list[dict[str, np.ndarray]]]:
    """Return a clip as `make_dataset` serves it, not normalised, and an augmented copy.

    Returns:
      Its id, and for each of the two the arrays of one clip, cut to its length: `audio`
      `[Ta, M]`, and, where the data set has them, `landmarks` `[Tv, L, 3]` or `[Tv, W]`, NaN where
      there is no face.
    """
    from emotion_tfdata import Augment, Features, make_dataset
    from emotion_tfdata.dataset import storage

    manifest = storage.load_manifest(data_dir)
    example_id = example_id or manifest.index.example_id(0)
    augment = Augment(
        probability=1.0,
        warp_share=0.0,
        noise_share=0.0,
        stretch=(stretch, stretch),
        noise_level=(noise_level, noise_level),
    )
    batches = make_dataset(
        data_dir,
        "all",
        augment=augment,
        shuffle=False,
        batch_size=1,
        example_ids=[example_id],
        seed=seed,
        features=Features(normalize=False),
    )
    clips = []
    for features, _ in batches:
        clip = {}
        for name in manifest.modalities:
            series = features[name].numpy()[0]
            mask = features[f"{name}_mask"].numpy()[0]
            if name == "landmarks":
                series = np.where(mask.reshape(-1, *[1] * (series.ndim - 1)), series, np.nan)
            clip[name] = series[: np.flatnonzero(mask)[-1] + 1] if mask.any() else series[:0]
        clips.append(clip)
    return example_id, clips


def draw(
    example_id: str,
    clips: list[dict[str, np.ndarray]],
    stretch: float,
    rates_hz: Mapping[str, float] = timebase.RATES_HZ,
) -> Any:
    """Draw clip and copy, one under the other, as a matplotlib figure; `rates_hz` by modality."""
    from matplotlib.figure import Figure

    names = ("as it is", f"copy, stretched by {stretch:g}")
    has_face = clips[0].get("landmarks", np.zeros(0)).ndim == 3
    images = [modality for modality, series in clips[0].items() if series.ndim == 2]
    rows = 2 * len(images) + 2 * has_face
    figure = Figure(figsize=(9, 1.7 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    figure.suptitle(example_id, x=0.01, ha="left")
    colours = ("tab:blue", "tab:orange")
    for modality in images:
        for clip, name in zip(clips, names, strict=True):
            axis, series = axes.pop(0), clip[modality]
            end_s = len(series) / rates_hz[modality]
            axis.imshow(
                series.T, origin="lower", aspect="auto", extent=(0, end_s, 0, series.shape[1])
            )
            axis.set_ylabel(f"feature\n{name}")
    if has_face:
        widest_s = []
        for axis, measure, label in (
            (axes.pop(0), mouth_opening, "mouth opening"),
            (axes.pop(0), brow_height, "brow height"),
        ):
            for clip, name, colour in zip(clips, names, colours, strict=True):
                series = measure(clip["landmarks"])
                times_s = timebase.frame_times_s(len(series), rates_hz["landmarks"])
                axis.plot(times_s, series, color=colour, label=name)
                if measure is mouth_opening and np.isfinite(series).any():
                    widest_s.append(times_s[np.nanargmax(series)])
            axis.set_ylabel(f"{label}\n(eye distances)")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        for axis in figure.axes:
            # The copy's own maximum may lie elsewhere for its noise; the warp's rule is exact.
            for time_s, colour in zip((widest_s[0], widest_s[0] * stretch), colours, strict=True):
                axis.axvline(time_s, color=colour, linestyle="--", linewidth=1)
    figure.axes[-1].set_xlabel("time (s)")
    return figure


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define this command's flags, which must not happen at import."""
    own: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("data_dir", None, "Data set to draw from.", required=True, **own)
    flags.DEFINE_string("example_id", None, "Which clip; by default the first one.", **own)
    flags.DEFINE_string("out", "clip.png", "Picture to write; its ending says the format.", **own)
    flags.DEFINE_float("stretch", 1.1, "Time warp of the augmented copy.", **own)
    flags.DEFINE_float("noise_level", 0.1, "Noise of the copy, in deviations.", **own)
    flags.DEFINE_integer("seed", 0, "What the noise is drawn from.", **own)


def main(argv: list[str]) -> None:
    """Draw what the flags say; return the exit status."""
    if argv[1:]:
        raise app.UsageError(f"not a flag: {argv[1]}")
    try:
        example_id, clips = clip_and_copy(
            *(
                flags.FLAGS.data_dir,
                flags.FLAGS.example_id,
                flags.FLAGS.stretch,
                flags.FLAGS.noise_level,
                flags.FLAGS.seed,
            )
        )
        modalities = storage.load_manifest(flags.FLAGS.data_dir).modalities
        rates_hz = {name: modality.rate_hz for name, modality in modalities.items()}
        figure = draw(example_id, clips, flags.FLAGS.stretch, rates_hz)
        figure.savefig(flags.FLAGS.out, dpi=110)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"inspect: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"inspect: {error}; install the extra [train]")
    print(f"{example_id}: {flags.FLAGS.out}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
