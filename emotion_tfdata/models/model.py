"""The branched model: clips of voice and face in, probabilities of emotions out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from emotion_tfdata.models.branches import AudioBranch, Head, SpectrumBranch, VideoBranch
from emotion_tfdata.models.config import ModelConfig
from emotion_tfdata.models.frames import Frames
from emotion_tfdata.models.gradients import without_own_gradients


def build_model(config: ModelConfig, *, seed: int = 0, dtype: str | None = None) -> EmotionModel:
    """Build a model with its weights made.

    Compile it with `loss="sparse_categorical_crossentropy"`: in `fit`, Keras takes the logits from
    under the softmax, so that the loss is computed without the rounding of the probabilities. A
    loop of one's own uses `model.logits` and `from_logits=True`, and adds `model.losses`.

    Args:
      config: what the model is made of.
      seed: of the initial weights and of dropout. Same seed and config, same weights to the bit.
        The global generators are neither read nor set.
      dtype: name of a Keras dtype policy, by default the global one. With `mixed_bfloat16` matrix
        products are in bfloat16; weights, statistics, recurrence and logits stay in float32.
        With `float64` all of it is in float64.

    Returns:
      The model; call it with the features that `make_dataset` yields.
    """
    return EmotionModel(config, seed, dtype=dtype)


@keras.saving.register_keras_serializable("emotion_tfdata")
class EmotionModel(keras.Model):
    """Emotion from voice, face or both; see `build_model`.

    A frame counts if its mask says so. What is masked off is not computed: convolutions see zeros
    there, statistics, pooling and averages pass it over, and the LSTMs of either direction start
    at the clip's own ends and carry their state over rows masked off inside it. What a clip gets in
    evaluation thus does not hang on padding or company, and in training padding changes nothing.
    A clip without a single frame of one modality gives that branch zeros.
    """

    def __init__(self, config: ModelConfig, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.seed = config, seed
        self.supports_jit = False  # the number of frames is the batch's own: no static shapes
        with _global_policy(self.dtype_policy):
            hears = AudioBranch if config.audio == "bilstm" else SpectrumBranch
            self.audio = hears(config, seed) if config.uses_audio else None
            self.video = VideoBranch(config, seed) if config.uses_landmarks else None
            width = (self.audio.width if self.audio else 0) + (
                config.video_dense_units if self.video else 0
            )
            self.head = Head(config, width, seed)
        self.built = True

    def call(self, features: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Compute class probabilities.

        Args:
          features: `audio [B, Ta, M]` float32 with `audio_mask [B, Ta]` bool, `landmarks
            [B, Tv, L, 3]` (or `[B, Tv, L]`, as the config has it) float32 with `landmarks_mask
            [B, Tv]` bool, or the pair that the model's modality needs; others are left alone.
          training: dropout on, normalisation by the batch.

        Returns:
          `[B, num_classes]` in the weights' dtype, float32 unless the model's is `float64`.

        Raises:
          KeyError: a feature is missing.
          ValueError: a feature has a rank or width other than the config's.
        """
        return tf.nn.softmax(self.logits(features, training=training))

    def logits(self, features: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Compute what `call` takes the softmax of, `[B, num_classes]`."""
        with contextlib.nullcontext() if training else without_own_gradients():
            return self._logits(features, training)

    def _logits(self, features: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        config, branches = self.config, []
        if self.audio:
            x, frames = _packed(features, "audio", (config.num_audio_features,))
            branches.append(self.audio(x, frames, training=training))
        if self.video:
            axes = () if config.landmark_axes == 1 else (config.landmark_axes,)
            x, frames = _packed(features, "landmarks", (config.num_landmarks, *axes))
            branches.append(self.video(x, frames, training=training))
        return self.head(tf.concat(branches, axis=1), training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "dtype": self.dtype_policy.name,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> EmotionModel:
        own = {key: config[key] for key in ("seed", "dtype", "name")}
        return cls(ModelConfig(**config["config"]), **own)


@contextlib.contextmanager
def _global_policy(policy: keras.DTypePolicy) -> Iterator[None]:
    """Make the layers that are made inside take this policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _packed(
    features: Mapping[str, tf.Tensor], name: str, frame_shape: tuple[int, ...]
) -> tuple[tf.Tensor, Frames]:
    """Pack a feature's real frames, each flattened; return them and where they lie."""
    for key in (name, f"{name}_mask"):
        if key not in features:
            raise KeyError(
                f"The model reads {key!r}, which is not among the features {sorted(features)}."
            )
    x, mask = tf.convert_to_tensor(features[name]), tf.convert_to_tensor(features[f"{name}_mask"])
    expected = tf.TensorShape([None, None, *frame_shape])
    if not x.shape.is_compatible_with(expected) or not x.shape[:2].is_compatible_with(mask.shape):
        raise ValueError(
            f"{name!r} has shape {x.shape} and {name + '_mask'!r} {mask.shape}; the model was "
            f"built for {expected} and {expected[:2]}."
        )
    if mask.dtype != tf.bool:
        raise ValueError(f"{name + '_mask'!r} is {mask.dtype.name}; the model needs bool.")
    frames = Frames.from_mask(mask)
    width = 1
    for size in frame_shape:
        width *= size
    batch, time = tf.unstack(tf.shape(x)[:2])
    return frames.pack(tf.reshape(x, [batch, time, width])), frames
