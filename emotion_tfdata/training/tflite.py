"""The trained model as TFLite, one clip at a time, for where TensorFlow is not.

TFLite has neither the packed rows of `models` nor their loops, so the layers' weights are applied
here by operations that it has: to all rows of one clip, those that the mask excludes passed over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from emotion_tfdata.models import EmotionModel
from emotion_tfdata.models.branches import (
    AudioBranch,
    ResidualBlock,
    SpectrumBranch,
    VideoBranch,
    patches,
    pool_bands,
)
from emotion_tfdata.models.frames import deviation
from emotion_tfdata.models.layers import FrameConv1D
from emotion_tfdata.models.lstm import BiLSTM
from emotion_tfdata.training import export, run_dir
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.startup_messages import without_stderr


def save(
    model: EmotionModel, data: Data, model_dir: Path, temperature: float | None = None
) -> None:
    """Write `model.tflite` into a training's folder, whole or not at all.

    It takes one clip, `audio` float32 `[1, Ta, M]` and `audio_mask` bool `[1, Ta]`, `landmarks`
    and `landmarks_mask` likewise, in the units of the SavedModel, and gives `logits` and
    `probabilities`, float32 `[1, C]`.

    Args:
      model: with the weights to keep.
      data: what it was trained on: says how features are scaled.
      model_dir: the folder.
      temperature: that calibrates its probabilities, or None.
    """
    settings = data.settings
    modalities = settings.features.chosen([*data.manifest.modalities], data.data_dir)
    views = {modality: export.view_of(data, modality) for modality in modalities}
    serve, signature = export.serving_function(
        *(model, views, settings.features, data.class_names, temperature),
        *(logits_of_one(model), tf.float32),  # TFLite sums no float64
    )
    one = {
        name: tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name)
        for name, spec in signature.items()
    }

    def numbers(clips: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: x for name, x in serve(clips).items() if name != "class_names"}

    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    module.serve = tf.function(numbers, input_signature=[one], autograph=False)
    signatures = {"serving_default": module.serve.get_concrete_function()}
    with (
        tempfile.TemporaryDirectory() as saved,
        run_dir.replacing(model_dir / run_dir.TFLITE) as temporary,
        export.quiet(),
    ):
        # By way of a SavedModel: what is converted from a function alone has no named inputs.
        tf.saved_model.save(module, saved, signatures)
        with without_stderr():
            converted = tf.lite.TFLiteConverter.from_saved_model(saved).convert()
        temporary.write_bytes(converted)


def logits_of_one(model: EmotionModel) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
    """Compute `model.logits` of one clip, `[1, num_classes]`, by plain operations."""

    def logits(served: Mapping[str, tf.Tensor]) -> tf.Tensor:
        branches = []
        for name, branch, of in (
            ("audio", model.audio, _audio if model.config.audio == "bilstm" else _spectrum),
            ("landmarks", model.video, _video),
        ):
            if branch:
                x, mask = served[name][0], tf.cast(served[f"{name}_mask"][0], tf.float32)[:, None]
                width = 1
                for size in x.shape[1:]:
                    width *= size
                branches.append(of(branch, tf.reshape(x, [-1, width]) * mask, mask))
        return model.head(tf.concat(branches, axis=1), training=False)

    return logits


def _audio(branch: AudioBranch, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    for convolution, norm in zip(branch.convolutions, branch.norms, strict=True):
        x = norm(tf.nn.relu(_convolve(convolution, x)), training=False)
        x, mask = _pool(x, mask)
    return branch.dense(_lstm(branch.lstms[1], _lstm(branch.lstms[0], x, mask), mask))


def _spectrum(branch: SpectrumBranch, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    odd = tf.shape(x)[0] % 2
    x = patches(tf.reshape(tf.pad(x, [[0, odd], [0, 0]]), [-1, 2, x.shape[1]]))
    mask = _pool(mask, mask)[1]
    for conv, norm in zip(branch.convolutions, branch.norms, strict=True):
        bands, filters = x.shape[1], conv.filters
        kernel = tf.reshape(tf.convert_to_tensor(conv.kernel), [x.shape[2], 3, 3, filters])
        x = tf.nn.conv2d(x[None], tf.transpose(kernel, [1, 2, 0, 3]), 1, "SAME")[0]
        x = tf.nn.relu(norm(tf.reshape(x, [-1, filters]), training=False))
        x = tf.reshape(x, [-1, bands, filters]) * mask[:, :, None]
        if conv is not branch.convolutions[0]:
            x = pool_bands(x)
            bands = x.shape[1]
            x, mask = _pool(tf.reshape(x, [-1, bands * filters]), mask)
            x = tf.reshape(x, [-1, bands, filters])
    x, score = branch.scored(x, False)
    weight = tf.exp(score - tf.reduce_max(score, axis=0)) * mask
    weight /= tf.maximum(tf.reduce_sum(weight, axis=0), 1e-12)
    mean = tf.reduce_sum(weight * x, axis=0, keepdims=True)
    variance = tf.reduce_sum(weight * (x - mean) ** 2, axis=0, keepdims=True)
    return tf.concat([mean, deviation(variance)], axis=1)


def _video(branch: VideoBranch, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    for block in branch.blocks:
        x = _block(block, x, mask)
    if branch.lstm:
        x = _lstm(branch.lstm, x, mask) * mask
    rows = tf.maximum(tf.reduce_sum(mask), 1.0)
    return branch.dense(tf.reduce_sum(x, axis=0, keepdims=True) / rows)


def _block(block: ResidualBlock, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    y = x
    for convolution, norm in zip(block.convolutions, block.norms, strict=True):
        y = norm(tf.nn.relu(_convolve(convolution, y)), training=False) * mask
    return tf.nn.relu(y + (_convolve(block.around, x) if block.around else x)) * mask


def _convolve(layer: FrameConv1D, x: tf.Tensor) -> tf.Tensor:
    """Convolve rows `[T, C]` that are zero where the mask is."""
    before, after = max(0, -min(layer.offsets)), max(0, max(layer.offsets))
    padded, rows = tf.pad(x, [[before, after], [0, 0]]), tf.shape(x)[0]
    kernel = tf.convert_to_tensor(layer.kernel)
    taps = [
        tf.matmul(padded[before + offset : before + offset + rows], kernel[:, tap])
        for tap, offset in enumerate(layer.offsets)
    ]
    return tf.add_n(taps) + layer.bias


def _pool(x: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Take the maximum over pairs of rows that count; a row of its own where they are odd."""
    odd = tf.shape(x)[0] % 2
    x = tf.where(mask > 0, x, x.dtype.min)
    x = tf.pad(x, [[0, odd], [0, 0]], constant_values=x.dtype.min)
    mask = tf.reduce_max(tf.reshape(tf.pad(mask, [[0, odd], [0, 0]]), [-1, 2, 1]), axis=1)
    pooled = tf.reduce_max(tf.reshape(x, [-1, 2, x.shape[1]]), axis=1)
    return tf.where(mask > 0, pooled, 0.0), mask


def _lstm(layer: BiLSTM, x: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Return the states `[T, 2 * units]`, or the last, `[1, 2 * units]`; masked rows leave it."""
    outputs = []
    for weights, backward in zip(layer.directions, (False, True), strict=True):
        rows, counts = (tf.reverse(each, [0]) if backward else each for each in (x, mask))
        h = _recur(rows, counts, *map(tf.convert_to_tensor, weights))
        if not layer.return_sequences:
            outputs.append(h[-1:])
        else:
            outputs.append(tf.reverse(h, [0]) if backward else h)
    return tf.concat(outputs, axis=1)


def _recur(
    x: tf.Tensor, mask: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    units, steps = recurrent.shape[0], tf.shape(x)[0]
    gates = tf.matmul(x, kernel) + bias
    zero = tf.zeros([1, units])
    outputs = tf.TensorArray(tf.float32, steps, element_shape=[1, units])

    def step(t: Any, h: tf.Tensor, c: tf.Tensor, outputs: Any) -> tuple[Any, ...]:
        of_step = tf.reshape(gates[t], [1, 4 * units]) + tf.matmul(h, recurrent)
        i, f, o, candidate = tf.split(of_step, 4, axis=1)
        after = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(candidate)
        counts = mask[t] > 0
        c, h = tf.where(counts, after, c), tf.where(counts, tf.sigmoid(o) * tf.tanh(after), h)
        return t + 1, h, c, outputs.write(t, h)

    *_, outputs = tf.while_loop(lambda t, *_: t < steps, step, (0, zero, zero, outputs))
    return tf.reshape(outputs.stack(), [-1, units])
