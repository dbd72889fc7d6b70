"""The audio branches, the video branches and what joins them, as layers over packed rows."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import tensorflow as tf

from emotion_tfdata.models.config import ModelConfig
from emotion_tfdata.models.frames import Frames, with_row
from emotion_tfdata.models.layers import (
    BandConv2D,
    FrameConv1D,
    RowBatchNorm,
    RowDropout,
    l2_penalty,
    max_pool_pairs,
)
from emotion_tfdata.models.lstm import BiLSTM


class AudioBranch(keras.layers.Layer):
    """Two pooled convolutions, two BiLSTMs, a dense layer: `[N, M]` to `[B, units]`."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__(name="audio")
        width = config.num_audio_features
        self.convolutions, self.norms = [], []
        for i, filters in enumerate(config.audio_filters, start=1):
            conv = FrameConv1D(
                filters, (-1, 0, 1), seed=seed_of(seed, f"audio/conv{i}"), name=f"conv{i}"
            )
            self.convolutions.append(built(conv, width))
            self.norms.append(built(_norm(config, f"norm{i}"), filters))
            width = filters
        self.lstms = []
        for i, units in enumerate(config.audio_lstm_units, start=1):
            lstm = BiLSTM(
                units,
                return_sequences=i < len(config.audio_lstm_units),
                seed=seed_of(seed, f"audio/lstm{i}"),
                name=f"lstm{i}",
            )
            self.lstms.append(built(lstm, width))
            width = 2 * units
        self.lstm_dropout = _dropout(config.audio_lstm_dropout, seed, "audio/lstm_dropout")
        self.dense = built(_dense(config.audio_dense_units, config, seed, "audio/dense"), width)
        self.dropout = _dropout(config.audio_dropout, seed, "audio/dropout")
        self.width = config.audio_dense_units
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames, training: bool = False) -> tf.Tensor:
        for conv, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(tf.nn.relu(conv(x, frames)), training=training)
            x, frames = max_pool_pairs(x, frames)
        x = self.lstm_dropout(self.lstms[0](x, frames), training=training)
        x = self.dense(self.lstms[1](x, frames))
        return self.dropout(x, training=training)


class SpectrumBranch(keras.layers.Layer):
    """Convolutions over time and band, statistics over time: `[N, M]` to `[B, 2 * units]`.

    Patches of two frames by two bands are the first convolution's channels. Each convolution is
    normalised and rectified, and after all but the first frames and bands are pooled in pairs. What
    is left of each frame goes through a dense layer. The mean and the deviation over time of its
    output, weighted by an attention of each channel's own (Okabe et al. 2018), are what the branch
    says.
    """

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__(name="audio")
        bands, width = _half(config.num_audio_features), 4
        self.convolutions, self.norms = [], []
        for i, filters in enumerate(config.audio_filters, start=1):
            conv = BandConv2D(filters, seed=seed_of(seed, f"audio/conv{i}"), name=f"conv{i}")
            self.convolutions.append(built(conv, width))
            self.norms.append(built(_norm(config, f"norm{i}"), filters))
            bands, width = bands if i == 1 else _half(bands), filters
        units = config.audio_dense_units
        self.dense = built(_dense(units, config, seed, "audio/dense", None), bands * width)
        self.norm = built(_norm(config, "norm"), units)
        self.attention = [
            built(_dense(64, config, seed, "audio/attention1", "tanh"), units),
            built(_dense(units, config, seed, "audio/attention2", None), 64),
        ]
        self.dropout = _dropout(config.audio_dropout, seed, "audio/dropout")
        self.width = 2 * units
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames, training: bool = False) -> tf.Tensor:
        frames, pairs, _ = frames.pool_pairs()
        x = patches(tf.gather(with_row(x), pairs))
        for conv, norm in zip(self.convolutions, self.norms, strict=True):
            bands, filters = x.shape[1], conv.filters
            rows = tf.reshape(conv(x, frames), [-1, filters])
            x = tf.reshape(tf.nn.relu(norm(rows, training=training)), [-1, bands, filters])
            if conv is not self.convolutions[0]:
                x = pool_bands(x)
                x, frames = max_pool_pairs(tf.reshape(x, [-1, _half(bands) * filters]), frames)
                x = tf.reshape(x, [-1, _half(bands), filters])
        # Sums over a clip's frames want more digits than bfloat16 has.
        x, score = (tf.cast(each, self.variable_dtype) for each in self.scored(x, training))
        return self.dropout(frames.statistics(x, score), training=training)

    def scored(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Reduce `[N, F, C]` to what statistics are taken of, and score it, both `[N, units]`."""
        x = self.dense(tf.reshape(x, [-1, x.shape[1] * x.shape[2]]))
        x = tf.nn.relu(self.norm(x, training=training))
        return x, self.attention[1](self.attention[0](x))


def patches(pairs: tf.Tensor) -> tf.Tensor:
    """Cut pairs of frames `[N, 2, M]` into patches, `[N, ceil(M / 2), 4]`."""
    bands = pairs.shape[2]
    pairs = tf.pad(pairs, [[0, 0], [0, 0], [0, bands % 2]])
    pairs = tf.reshape(pairs, [-1, 2, _half(bands), 2])
    return tf.reshape(tf.transpose(pairs, [0, 2, 1, 3]), [-1, _half(bands), 4])


def pool_bands(x: tf.Tensor) -> tf.Tensor:
    """Take the maximum of band pairs: `[N, F, C]`, none below zero, to `[N, ceil(F / 2), C]`."""
    bands, filters = x.shape[1:]
    x = tf.pad(x, [[0, 0], [0, bands % 2], [0, 0]])
    return tf.reduce_max(tf.reshape(x, [-1, _half(bands), 2, filters]), axis=2)


def _half(number: int) -> int:
    return -(-number // 2)


class ResidualBlock(keras.layers.Layer):
    """Two causal dilated convolutions and a way around them: `[N, C]` to `[N, filters]`.

    Each convolution is followed by ReLU, batch normalisation and dropout; where the widths differ,
    a convolution of one tap stands in the way around.
    """

    def __init__(self, config: ModelConfig, width: int, dilation: int, seed: int, name: str):
        super().__init__(name=name)
        filters, taps = config.tcn_filters, config.tcn_kernel_size
        causal = tuple(-dilation * tap for tap in reversed(range(taps)))
        self.convolutions, self.norms, self.dropouts = [], [], []
        for i, into in enumerate((width, filters), start=1):
            conv_seed = seed_of(seed, f"{name}/conv{i}")
            conv = FrameConv1D(filters, causal, l2=config.l2_tcn, seed=conv_seed, name=f"conv{i}")
            self.convolutions.append(built(conv, into))
            self.norms.append(built(_norm(config, f"norm{i}"), filters))
            self.dropouts.append(_dropout(config.tcn_dropout, seed, f"{name}/dropout{i}"))
        self.around = None
        if width != filters:
            conv_seed = seed_of(seed, f"{name}/around")
            around = FrameConv1D(filters, (0,), l2=config.l2_tcn, seed=conv_seed, name="around")
            self.around = built(around, width)
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames, training: bool = False) -> tf.Tensor:
        y = x
        layers = zip(self.convolutions, self.norms, self.dropouts, strict=True)
        for conv, norm, dropout in layers:
            y = dropout(norm(tf.nn.relu(conv(y, frames)), training=training), training=training)
        return tf.nn.relu(y + (self.around(x, frames) if self.around else x))


class VideoBranch(keras.layers.Layer):
    """TCN or BiLSTM, the average over time, a dense layer: `[N, axes * L]` to `[B, units]`."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__(name="video")
        width = config.landmark_axes * config.num_landmarks
        self.blocks, self.lstm = [], None
        if config.video == "tcn":
            for i, dilation in enumerate(config.tcn_dilations, start=1):
                self.blocks.append(ResidualBlock(config, width, dilation, seed, f"block{i}"))
                width = config.tcn_filters
        else:
            lstm = BiLSTM(
                config.video_lstm_units,
                return_sequences=True,
                seed=seed_of(seed, "video/lstm"),
                name="lstm",
            )
            self.lstm = built(lstm, width)
            width = 2 * config.video_lstm_units
        self.dense = built(_dense(config.video_dense_units, config, seed, "video/dense"), width)
        self.dropout = _dropout(config.video_dropout, seed, "video/dropout")
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames, training: bool = False) -> tf.Tensor:
        for block in self.blocks:
            x = block(x, frames, training=training)
        if self.lstm:
            x = self.lstm(x, frames)
        return self.dropout(self.dense(frames.average(x)), training=training)


class Head(keras.layers.Layer):
    """Dense layers over the joined branches, and the logits: `[B, C]` to `[B, classes]`."""

    def __init__(self, config: ModelConfig, width: int, seed: int) -> None:
        super().__init__(name="joined")
        self.stages = []
        rates = zip(config.joined_units, config.joined_dropouts, strict=True)
        for i, (units, rate) in enumerate(rates, start=1):
            dense = built(_dense(units, config, seed, f"joined/dense{i}"), width)
            norm = built(_norm(config, f"norm{i}"), units)
            self.stages.append((dense, norm, _dropout(rate, seed, f"joined/dropout{i}")))
            width = units
        # Probabilities want more digits than bfloat16 has.
        wide = keras.config.dtype_policy().variable_dtype
        logits = _dense(
            config.num_classes, config, seed, "joined/logits", activation=None, dtype=wide
        )
        self.logits = built(logits, width)
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        for dense, norm, dropout in self.stages:
            x = dropout(norm(dense(x), training=training), training=training)
        return self.logits(x)


def built(layer: Any, width: int) -> Any:
    """Make a layer's weights for rows of `width`; return the layer."""
    layer.build((None, width))
    return layer


def seed_of(seed: int, name: str) -> int:
    """Derive the seed of the part called `name`: other parts coming or going do not change it."""
    return zlib.crc32(f"{seed}/{name}".encode()) >> 1


def _norm(config: ModelConfig, name: str) -> RowBatchNorm:
    return RowBatchNorm(momentum=config.bn_momentum, epsilon=config.bn_epsilon, name=name)


def _dropout(rate: float, seed: int, path: str) -> RowDropout:
    return RowDropout(rate, seed=seed_of(seed, path), name=path.rpartition("/")[2])


def _dense(
    units: int,
    config: ModelConfig,
    seed: int,
    path: str,
    activation: str | None = "relu",
    dtype: str | None = None,
) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed_of(seed, path)),
        kernel_regularizer=l2_penalty(config.l2),
        dtype=dtype,
        name=path.rpartition("/")[2],
    )
