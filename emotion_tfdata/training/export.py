"""The trained model for use without this library: raw features in, probabilities out.

A SavedModel, loaded by `tf.saved_model.load` alone. What the pipeline does to a clip before the
model sees it (choice of landmarks, scaling by the training folds, silence) is inside it; how a clip
becomes features is beside it, in `features.json`, so that prediction needs no data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import emotion_tfdata
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.features import Features
from emotion_tfdata.models import EmotionModel
from emotion_tfdata.stream.level import clip_level
from emotion_tfdata.stream.silence import sounding
from emotion_tfdata.stream.transform import View, make_view
from emotion_tfdata.training import run_dir
from emotion_tfdata.training.data import Data

# Raised whenever a reader of `features.json` would have to know.
_FORMAT_VERSION = 1
_FEATURES = {
    "audio": "log-mel energies in dB of full scale; frame i is centred on i / rate_hz seconds",
    "landmarks": (
        "face landmarks in the face's own frame, in distances between the eyes; frame i is at "
        "i / rate_hz seconds of the audio's clock"
    ),
}


def serving_function(
    model: EmotionModel,
    views: Mapping[str, View],
    features: Features,
    class_names: Sequence[str],
    temperature: float | None = None,
    logits_of: Callable[[dict[str, tf.Tensor]], tf.Tensor] | None = None,
    sums: tf.DType = tf.float64,
) -> tuple[Callable[[Mapping[str, tf.Tensor]], dict[str, tf.Tensor]], dict[str, tf.TensorSpec]]:
    """Make one function of the pipeline's last steps and the model; return it and what it takes.

    Args:
      model: the model.
      views: modality -> how the pipeline serves it, for each that the model needs.
      features: as `make_dataset` takes them.
      class_names: of the classes, in the order of their indices.
      temperature: that the logits are divided by for the probabilities; None for 1.
      logits_of: the model's logits, where they have been traced already.
      sums: dtype of a clip's level while it is summed up.

    Returns:
      The function: from `audio` float32 `[B, Ta, M]`, dB, `audio_mask` bool `[B, Ta]`, a frame of
      the clip, `landmarks` float32 `[B, Tv, L, 3]`, all that the data set stores, and
      `landmarks_mask` bool `[B, Tv]`, a frame of the clip with a face in it (those of the model's
      modalities), to `logits` and `probabilities`, float32 `[B, C]`, and `class_names`, string
      `[C]`. And its inputs' names, shapes and dtypes.
    """
    scales = {modality: _scale(view) for modality, view in views.items()}

    def serve(clips: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        served = {}
        for modality, scale in scales.items():
            x, mask = clips[modality], clips[f"{modality}_mask"]
            if modality == "audio" and features.trim_silence_db is not None:
                mask = sounding(x, mask, features.trim_silence_db)
            if views[modality].relative:
                x = x - clip_level(x, mask, sums)[:, None, None]
            served[modality], served[f"{modality}_mask"] = scale(x), mask
        said = logits_of(served) if logits_of else model.logits(served, training=False)
        logits = tf.cast(said, tf.float32)
        probabilities = tf.nn.softmax(logits / temperature if temperature else logits)
        return {
            "logits": logits,
            "probabilities": probabilities,
            "class_names": tf.constant(list(class_names)),
        }

    signature = {}
    for modality, view in views.items():
        shape, mask = [None, None, *view.stored[modality]], f"{modality}_mask"
        signature[modality] = tf.TensorSpec(shape, tf.float32, modality)
        signature[mask] = tf.TensorSpec([None, None], tf.bool, mask)
    return serve, signature


def _scale(view: View) -> Callable[[tf.Tensor], tf.Tensor]:
    """Scale the data contract's units to the model's, as the pipeline scales stored integers."""
    # A step is a power of two, so dividing by it rounds nothing: the product of a stored value
    # and its gain is the same number here as there.
    step = np.float32(view.array.step or 1.0)
    gain = (view.scaling.gain / step).reshape(view.served_shape)
    offset = view.scaling.offset.reshape(view.served_shape)
    chosen = view.indices if view.served_shape != view.stored[view.modality] else ()

    def scale(x: tf.Tensor) -> tf.Tensor:
        return (tf.gather(x, chosen, axis=2) if chosen else x) * gain + offset

    return scale


def save_keras(model: EmotionModel, model_dir: Path) -> None:
    """Write the model as `.keras` into a training's folder, whole or not at all."""
    with run_dir.replacing(model_dir / run_dir.BEST_MODEL) as temporary:
        model.save(temporary)


def save_served(
    model: EmotionModel,
    data: Data,
    model_dir: Path,
    temperature: float | None = None,
    logits_of: Callable[[dict[str, tf.Tensor]], tf.Tensor] | None = None,
) -> None:
    """Write the SavedModel and its `features.json` into a training's folder, whole or not at all.

    Args:
      model: with the weights to keep.
      data: what it was trained on: says how features are scaled.
      model_dir: the folder; an earlier export there is replaced.
      temperature: that calibrates its probabilities, or None.
      logits_of: the model's logits, where they have been traced already.
    """
    settings = data.settings
    modalities = settings.features.chosen([*data.manifest.modalities], data.data_dir)
    views = {modality: view_of(data, modality) for modality in modalities}
    serve, signature = serving_function(
        model, views, settings.features, data.class_names, temperature, logits_of
    )
    module = tf.Module(name="emotion_model")
    # Keras variables hold TensorFlow's, which is what a SavedModel keeps.
    module.weights = [weight.value for weight in model.weights]
    module.__call__ = tf.function(serve, input_signature=[signature], autograph=False)
    signatures = {"serving_default": module.__call__.get_concrete_function()}
    with run_dir.replacing(model_dir / run_dir.SAVED_MODEL) as temporary:
        with quiet():
            tf.saved_model.save(module, str(temporary), signatures)
        run_dir.write_json(temporary / run_dir.FEATURES, features_of(data, views, temperature))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide TensorFlow's messages on what it writes from those who use absl's flags."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def view_of(data: Data, modality: str) -> View:
    """Return how the pipeline serves a modality in this training."""
    settings, manifest = data.settings, data.manifest
    return make_view(manifest, modality, data.deal, data.train_cells, settings.features)


def _about(modality: str, manifest: Manifest) -> str:
    key = "extractor" if modality == "audio" else "face_extractor"
    name = (manifest.settings.get(key) or {}).get("name")
    if name in (None, "logmel", "facemesh", "openface"):
        return _FEATURES[modality]
    return f"{name}; frame i is at i / rate_hz seconds"


def features_of(
    data: Data, views: Mapping[str, View], temperature: float | None = None
) -> dict[str, Any]:
    """Return what `features.json` says: how a clip becomes what the SavedModel takes."""
    settings, manifest = data.settings, data.manifest
    return {
        "format": "emotion_tfdata features",
        "version": _FORMAT_VERSION,
        "emotion_tfdata": emotion_tfdata.__version__,
        "name": settings.name,
        "provenance": manifest.provenance,
        "class_names": list(data.class_names),
        "inputs": {
            name: {
                "frame_shape": list(view.stored[name]),
                "rate_hz": view.rate_hz,
                "is": _about(name, manifest),
                "mask": "a frame of the clip" + (", with a face in it" * (name == "landmarks")),
            }
            for name, view in views.items()
        },
        "inside": {
            **dataclasses.asdict(settings.features),
            "landmarks": list(views["landmarks"].indices) if "landmarks" in views else [],
            "scaled_by": f"{settings.protocol} folds {', '.join(map(str, data.train.folds))}",
        },
        # Beside what it was trained on, what was selected on: the model has seen it too.
        "trained_actors": sorted({*data.train.actors, *(data.selection or data.train).actors}),
        "temperature": temperature,
        # Whether it was trained to do without one of its inputs.
        "one_is_enough": bool(settings.augment and settings.augment.modality_dropout),
        "data_modalities": list(manifest.modalities),
        "build": dict(manifest.settings),
    }
