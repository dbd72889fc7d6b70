"""The model, its optimizer, and what one batch does to them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from emotion_tfdata.models import build_model, replicas
from emotion_tfdata.training import metrics
from emotion_tfdata.training.adam import Adam
from emotion_tfdata.training.data import with_ids_apart
from emotion_tfdata.training.settings import Settings
from emotion_tfdata.training.workers import Workers


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
        """The confusion matrix, int64 `[C, C]`, true class by predicted class."""
        predicted = self.probabilities.argmax(axis=1)
        return metrics.confusion_matrix(self.labels, predicted, self.probabilities.shape[1])

    @property
    def not_finite(self) -> list[str]:
        """The ids of the clips for which the model's output is not finite."""
        finite = np.isfinite(self.probabilities).all(axis=1)
        ids = zip(self.example_ids, finite, strict=True)
        return [name for name, is_finite in ids if not is_finite]


class Step(NamedTuple):
    """What a step found in its batch, all workers' rows of it together, before it learned from it.

    Attributes:
      loss: mean over the clips, weighted, with penalties.
      cross_entropy: sum of the clips' plain cross-entropies.
      correct: how many clips were classified right.
      clips: how many there are.
      finite: whether the gradient and the weights after the step are.
    """

    loss: float
    cross_entropy: float
    correct: int
    clips: int
    finite: bool


class Learner:
    """A model in training. The same settings make the same one, to the bit.

    Of several workers each gives the rows of a batch that are its own; all have the same model
    after every step. A process's next training begins with `renew` where `serves` allows it: what
    was traced and compiled stays.
    """

    def __init__(
        self, settings: Settings, class_weights: np.ndarray, workers: Workers | None = None
    ) -> None:
        # Layer names, which checkpoints hold, count from 0 again.
        keras.utils.clear_session(free_memory=False)
        self.model = build_model(settings.model, seed=settings.seed, dtype=settings.precision)
        self.optimizer = Adam(settings.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        self._settings = settings
        self._workers = workers or Workers()
        self._class_weights = tf.Variable(class_weights, False, dtype=self.model.variable_dtype)
        self._step: Callable[..., Any] | None = None
        self._logits: Any = None  # a tf.function
        self._logits_in_graphs: Callable[..., Any] | None = None

    def serves(self, settings: Settings) -> bool:
        """Tell whether a training of these settings has the same graph; data may differ."""
        return self._workers.count == 1 and all(
            getattr(settings, name) == getattr(self._settings, name)
            for name in ("model", "features", "precision", "label_smoothing", "clip_norm")
        )

    def renew(self, settings: Settings, class_weights: np.ndarray) -> None:
        """Turn this into what a new one for these settings is; `serves` must hold."""
        # Not a `Learner`: clearing Keras's session has TensorFlow forget its optimised graphs.
        fresh = build_model(settings.model, seed=settings.seed, dtype=settings.precision)
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        self.learning_rate = settings.learning_rate
        self._class_weights.assign(class_weights)
        self.model.seed = settings.seed  # a saved model says it
        self._settings = settings

    def logits(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return the logits of a batch `[B, C]`, by the weights as they are."""
        if self._logits is None:
            self._logits = tf.function(
                lambda features: self.model.logits(features, training=False),
                input_signature=[_signature(features)],
                autograph=False,
            )
        if tf.executing_eagerly():
            return self._logits(features)
        if self._logits_in_graphs is None:  # else each graph, saved ones too, would trace its own
            with tf.init_scope():
                self._logits_in_graphs = self._logits.get_concrete_function()
        return self._logits_in_graphs(features)

    @property
    def learning_rate(self) -> float:
        """Adam's present learning rate."""
        return float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.learning_rate.assign(value)

    def train(self, features: dict[str, tf.Tensor], labels: tf.Tensor) -> Step:
        """Take a training step on a batch."""
        if self._step is None:
            self._step = tf.function(
                self._train_step,
                input_signature=[_signature(features), _signature(labels)],
                autograph=False,
            )
        (loss, cross_entropy, correct, clips), finite = self._step(features, labels)
        return Step(float(loss), float(cross_entropy), int(correct), int(clips), bool(finite))

    def not_finite(self) -> list[str]:
        """Return the paths of the model's variables that hold a NaN or an infinity."""
        return [v.path for v in self.model.weights if not np.isfinite(np.array(v)).all()]

    def predict(
        self, batches: Iterable[Any], stop: Callable[[], None] | None = None
    ) -> Predictions:
        """Classify every clip of some batches that have ids.

        Args:
          batches: as `make_dataset` makes them with `with_ids=True`, this worker's rows of them.
          stop: called before every batch; may raise to interrupt.

        Returns:
          What all workers found, in the order of the batches.
        """
        ids: list[str] = []
        numbers, labels, logits = [], [], []
        for batch, (features, batch_labels, batch_ids) in enumerate(with_ids_apart(batches)):
            if stop is not None:
                stop()
            ids += batch_ids
            numbers.append(np.full(len(batch_ids), batch))
            labels.append(batch_labels.numpy())
            logits.append(self.logits(features).numpy())
        own = [np.array(ids, np.str_), *map(np.concatenate, (numbers, labels, logits))]
        parts = [_unpacked(part) for part in self._workers.gather(_packed(own))]
        all_ids, batch_of, all_labels, all_logits = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(batch_of, kind="stable")  # of a batch, worker 0 has the first rows
        all_labels = all_labels[order].astype(np.int64)
        all_logits = all_logits[order].astype(np.float64)
        all_logits -= all_logits.max(axis=1, keepdims=True)
        log_probabilities = all_logits - np.log(np.exp(all_logits).sum(axis=1, keepdims=True))
        loss = -log_probabilities[np.arange(len(all_labels)), all_labels].mean()
        return Predictions(
            tuple(map(str, all_ids[order])),
            all_labels,
            np.exp(log_probabilities).astype(np.float32),
            float(loss),
        )

    def _train_step(
        self, features: dict[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        variables = self.model.trainable_variables
        gradients, figures = self._workers.run(self._gradients, features, labels)
        if self._settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._settings.clip_norm)
        self.optimizer.apply(gradients, variables)
        # The loss alone does not tell: a NaN in the first layers' weights is passed over by ReLU
        # and max pooling, and stays.
        norms = [tf.linalg.global_norm(of) for of in (gradients, self.model.weights)]
        return figures, tf.reduce_all(tf.math.is_finite(norms))

    def _gradients(
        self, features: dict[str, tf.Tensor], labels: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return gradients and figures of the whole batch, from all workers' rows."""
        dtype = self.model.variable_dtype
        own = tf.cast(tf.shape(labels)[0], dtype)
        clips = replicas.total(own)
        with tf.GradientTape() as tape:
            logits = self.model.logits(features, training=True)
            log_probabilities = tf.nn.log_softmax(logits)
            if labels.shape.rank == 1:
                cross_entropy = -tf.gather(log_probabilities, labels, batch_dims=1)
                weights = tf.gather(self._class_weights, labels)
            else:  # shares of the classes
                shares = tf.cast(labels, dtype)
                cross_entropy = -tf.reduce_sum(shares * log_probabilities, axis=1)
                weights = tf.linalg.matvec(shares, self._class_weights)
            smoothing = self._settings.label_smoothing
            smoothed = (1 - smoothing) * cross_entropy - smoothing * tf.reduce_mean(
                log_probabilities, axis=1
            )
            loss = tf.reduce_sum(weights * smoothed) / clips
            if self.model.losses:
                loss += tf.add_n(self.model.losses) / replicas.count()  # once in the sum
        gradients = tape.gradient(loss, self.model.trainable_variables)
        likeliest = (
            labels if labels.shape.rank == 1 else tf.argmax(labels, axis=1, output_type=tf.int32)
        )
        predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
        correct = tf.reduce_sum(tf.cast(predicted == likeliest, dtype))
        *gradients, loss, cross_entropy, correct = replicas.totals(
            [*gradients, loss, tf.reduce_sum(cross_entropy), correct]
        )
        return gradients, [loss, cross_entropy, correct, clips]


class Learners:
    """What the trainings of a process, which follow each other, have compiled."""

    # Folds and seeds of a system share a graph; an ablation has six systems.
    _MOST = 8

    def __init__(self) -> None:
        self._kept: list[Learner] = []

    def of(self, settings: Settings, class_weights: np.ndarray, workers: Workers) -> Learner:
        """Return a learner for a training, taken from the training that had it last."""
        for learner in self._kept:
            if workers.count == 1 and learner.serves(settings):
                learner.renew(settings, class_weights)
                return learner
        learner = Learner(settings, class_weights, workers)
        self._kept = [learner, *self._kept[: self._MOST - 1]]
        return learner


def _packed(arrays: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def _unpacked(content: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]


def _signature(batch: Any) -> Any:
    """Return shapes with every length free, so that a step is traced once."""

    def free(tensor: tf.Tensor) -> tf.TensorSpec:
        # Batch and frames vary, the sizes of a frame do not.
        shape = [None, None, *tensor.shape[2:]][: tensor.shape.rank]
        return tf.TensorSpec(shape, tensor.dtype)

    return tf.nest.map_structure(free, batch)
