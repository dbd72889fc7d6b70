"""The model, its optimizer, and what one batch does to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from emotion_tfdata.models import build_model
from emotion_tfdata.training import metrics
from emotion_tfdata.training.data import with_ids_apart
from emotion_tfdata.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the model says of some clips.

    Attributes:
      example_ids: `[N]`.
      labels: int64 `[N]`.
      probabilities: float32 `[N, C]`.
      loss: mean cross-entropy, unweighted, without penalties.
    """

    example_ids: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    loss: float

    @property
    def confusion(self) -> np.ndarray:
        """int64 `[C, C]`, true class by predicted class."""
        predicted = self.probabilities.argmax(axis=1)
        return metrics.confusion_matrix(self.labels, predicted, self.probabilities.shape[1])


class Learner:
    """A model in training. The same settings make the same one, to the bit."""

    def __init__(self, settings: Settings, class_weights: np.ndarray) -> None:
        keras.utils.clear_session()  # layer names, which checkpoints hold, count from 0 again
        keras.utils.set_random_seed(settings.seed)
        self.model = build_model(settings.model, seed=settings.seed)
        self.optimizer = keras.optimizers.Adam(settings.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        self._settings = settings
        self._class_weights = tf.constant(class_weights)
        self._step: Callable[..., Any] | None = None
        self._logits: Callable[..., Any] | None = None

    @property
    def learning_rate(self) -> float:
        """Adam's, as it stands."""
        return float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.learning_rate.assign(value)

    def train(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> tuple[float, float, int]:
        """Learns from a batch.

        Returns:
          Loss with penalties and class weights, sum of the clips' plain cross-entropies, and how
          many clips were classified right, all before the step.
        """
        if self._step is None:
            self._step = tf.function(
                self._train_step, input_signature=[_signature(features), _signature(labels)]
            )
        loss, cross_entropy, correct = self._step(features, labels)
        return float(loss), float(cross_entropy), int(correct)

    def predict(
        self, dataset: tf.data.Dataset, stop: Callable[[], None] | None = None
    ) -> Predictions:
        """Classifies every clip of a dataset that has ids.

        Args:
          dataset: as `make_dataset` makes it with `with_ids=True`.
          stop: called before every batch; may raise to break off.
        """
        ids: list[str] = []
        labels, logits = [], []
        for features, batch_labels, batch_ids in with_ids_apart(dataset):
            if stop is not None:
                stop()
            if self._logits is None:
                self._logits = tf.function(
                    lambda features: self.model.logits(features, training=False),
                    input_signature=[_signature(features)],
                )
            ids += batch_ids
            labels.append(batch_labels.numpy())
            logits.append(self._logits(features).numpy())
        all_labels = np.concatenate(labels).astype(np.int64)
        all_logits = np.concatenate(logits).astype(np.float64)
        all_logits -= all_logits.max(axis=1, keepdims=True)
        log_probabilities = all_logits - np.log(np.exp(all_logits).sum(axis=1, keepdims=True))
        loss = -log_probabilities[np.arange(len(all_labels)), all_labels].mean()
        return Predictions(
            tuple(ids), all_labels, np.exp(log_probabilities).astype(np.float32), float(loss)
        )

    def _train_step(
        self, features: dict[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        settings = self._settings
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model.logits(features, training=True)
            log_probabilities = tf.nn.log_softmax(logits)
            cross_entropy = -tf.gather(log_probabilities, labels, batch_dims=1)
            smoothing = settings.label_smoothing
            smoothed = (1 - smoothing) * cross_entropy - smoothing * tf.reduce_mean(
                log_probabilities, axis=1
            )
            weights = tf.gather(self._class_weights, labels)
            loss = tf.reduce_mean(weights * smoothed)
            if self.model.losses:
                loss += tf.add_n(self.model.losses)
        gradients = tape.gradient(loss, variables)
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
        self.optimizer.apply(gradients, variables)
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        correct = tf.reduce_sum(tf.cast(predicted == labels, tf.int32))
        return loss, tf.reduce_sum(cross_entropy), correct


def _signature(batch: Any) -> Any:
    """Shapes with every length free, so that a step is traced once."""

    def free(tensor: tf.Tensor) -> tf.TensorSpec:
        # Batch and frames vary, the sizes of a frame do not.
        shape = [None, None, *tensor.shape[2:]][: tensor.shape.rank]
        return tf.TensorSpec(shape, tensor.dtype)

    return tf.nest.map_structure(free, batch)
