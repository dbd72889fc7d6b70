"""How stored numbers are brought to a model's units. No TensorFlow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emotion_tfdata.dataset.landmark_sets import landmark_indices
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.protocols import Deal
from emotion_tfdata.features import Features


class Scaling(NamedTuple):
    """What a stored integer stands for in the model's units: `stored * gain + offset`.

    Attributes:
      gain, offset: float32 `[F]`.
      mean: float32 `[F]`, over the training folds, in the model's units: what hides a feature.
      deviation: float32 `[F]`, one standard deviation over the training folds, in the model's
        units: what noise is measured in.
    """

    gain: np.ndarray
    offset: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def make_scaling(
    manifest: Manifest, modality: str, deal: Deal, train: np.ndarray, features: Features
) -> tuple[Scaling, tuple[int, ...]]:
    """Return the scaling of one modality, and the indices of the landmarks served (none of audio).

    Args:
      manifest: of the data set.
      modality: `audio` or `landmarks`.
      deal: the data set's clips, dealt.
      train: bool `[K]`, the cells whose statistics are used.
      features: what is served.

    Raises:
      ValueError: for landmarks the data set does not have, or a training side without a frame.
    """
    if modality == "audio" and features.relative_level:
        manifest.check_log_mel("relative_level")
    if modality == "audio" and features.trim_silence_db is not None:
        manifest.check_log_mel("trim_silence_db")
    array, moments = manifest.modalities[modality].array, manifest.moments_of(modality, deal, train)
    if not moments.count:
        raise ValueError(
            f"no frame of {modality} is left to train on under protocol {deal.protocol.name}, so "
            "nothing says how to scale it"
        )
    mean, deviation = moments.mean, moments.deviation
    if modality == "audio" and features.relative_level:
        mean = mean - mean.mean()
    indices: tuple[int, ...] = ()
    if modality == "landmarks":
        if features.head and "head" not in manifest.modalities[modality].beside:
            name = (manifest.settings.get("face_extractor") or {}).get("name", "others")
            raise ValueError(f"head=True needs face landmarks, and this data set has {name}")
        indices = landmark_indices(features.landmarks, array.shape)
        mean, deviation = mean[list(indices)].ravel(), deviation[list(indices)].ravel()
    # A feature that never changes has no deviation, but it is only known to within a step.
    deviation = np.maximum(deviation, array.step or np.spacing(np.abs(mean).astype(np.float16)))
    step = array.step or 1.0
    unit = deviation if features.normalize else np.ones_like(deviation)
    zero = mean if features.normalize else np.zeros_like(mean)
    scaling = Scaling(
        gain=(step / unit).astype(np.float32),
        offset=(-zero / unit).astype(np.float32),
        mean=((mean - zero) / unit).astype(np.float32),
        deviation=(deviation / unit).astype(np.float32),
    )
    return scaling, indices
