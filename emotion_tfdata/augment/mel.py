"""Warp of the mel axis: a clip as a speaker with another length of vocal tract would sound.

Vocal tract length perturbation (Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves
speech recognition", ICML 2013): the band whose centre is `f` takes what stood at

    g(f) = a * f                                             where f <= h * min(a, 1) / a
    g(f) = top - (top - f) * (top - h * min(a, 1)) / (top - h * min(a, 1) / a)      above

with `a` the clip's factor, `top` the upper edge of the filter bank and `h` = 0.6 * top: 4,800 Hz of
8,000, as there. A factor above 1 brings what stood at high frequencies to lower bands. There the
filters are moved before energies are taken; here the energies in dB are interpolated between bands,
linearly in Hz. What lies beyond the first or the last centre is that band itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from emotion_tfdata.dataset.mel_scale import band_edges_hz

_HIGHEST_FORMANT_SHARE = 0.6


class MelAxis(NamedTuple):
    """Where the bands of a data set lie.

    Attributes:
      centres_hz: float32 `[M]`, ascending.
      top_hz: float32 scalar, upper edge of the highest band.
    """

    centres_hz: np.ndarray
    top_hz: np.ndarray


def mel_axis(settings: Mapping[str, Any], num_features: int) -> MelAxis:
    """Return the bands of a data set, from the settings that its manifest holds.

    Raises:
      ValueError: if the settings do not say what bands the features are.
    """
    audio = settings.get("audio")
    audio = audio if isinstance(audio, Mapping) else {}
    if not {"fmin_hz", "fmax_hz"} <= audio.keys() or audio.get("num_mels") != num_features:
        raise ValueError(
            "mel_warp needs the frequencies of the mel bands, and the manifest's settings do not "
            f"give num_mels={num_features}, fmin_hz and fmax_hz under 'audio'; set mel_warp=(1, 1) "
            "or build the data set with preprocess.build_tfrecords"
        )
    edges_hz = band_edges_hz(num_features, float(audio["fmin_hz"]), float(audio["fmax_hz"]))
    return MelAxis(edges_hz[1:-1].astype(np.float32), edges_hz[-1].astype(np.float32))


def source_bands(factor: tf.Tensor, axis: MelAxis) -> tuple[tf.Tensor, tf.Tensor]:
    """Return which bands each band is made of, and in which shares.

    Args:
      factor: float32 `[B]`.
      axis: the bands.

    Returns:
      int32 `[B, M]`, the lower of two neighbouring bands, and float32 `[B, M]`, the upper one's
      weight. With a factor of 1 each band is made of itself alone.
    """
    centres_hz, top_hz = tf.convert_to_tensor(axis.centres_hz), tf.convert_to_tensor(axis.top_hz)
    factor = factor[:, None]
    reach_hz = _HIGHEST_FORMANT_SHARE * top_hz * tf.minimum(factor, 1.0)
    slope = (top_hz - reach_hz) / (top_hz - reach_hz / factor)
    wanted_hz = tf.where(
        centres_hz <= reach_hz / factor,
        factor * centres_hz,
        top_hz - (top_hz - centres_hz) * slope,
    )
    # Exact where nothing is warped: rounding must not make it a mixture of two bands.
    wanted_hz = tf.where(factor == 1.0, centres_hz, wanted_hz)
    wanted_hz = tf.clip_by_value(wanted_hz, centres_hz[0], centres_hz[-1])
    reached = wanted_hz[..., None] >= centres_hz[1:-1]
    lower = tf.reduce_sum(tf.cast(reached, tf.int32), axis=-1)
    below_hz, above_hz = tf.gather(centres_hz, lower), tf.gather(centres_hz, lower + 1)
    return lower, (wanted_hz - below_hz) / (above_hz - below_hz)


def warp_bands(series: tf.Tensor, factor: tf.Tensor, axis: MelAxis) -> tf.Tensor:
    """Warp the mel axis of a batch.

    Args:
      series: float32 `[B, T, M]`, on a logarithmic scale.
      factor: float32 `[B]`; 1 gives the series back to the bit.
      axis: the bands.

    Returns:
      float32 `[B, T, M]`.
    """
    lower, weight = source_bands(factor, axis)
    below = tf.gather(series, lower, axis=2, batch_dims=1)
    above = tf.gather(series, lower + 1, axis=2, batch_dims=1)
    # Where a weight is 1 this is `above` to the bit: the last band is read so.
    weight = weight[:, None, :]
    return (1 - weight) * below + weight * above
