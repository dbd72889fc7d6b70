"""Layers over packed rows `[N, C]` (see `frames`): convolution, normalisation, pooling, dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from emotion_tfdata.models import replicas
from emotion_tfdata.models.frames import Frames, take_rows, with_row
from emotion_tfdata.models.gradients import own_gradient

_PHILOX = 1  # TensorFlow's number of the generator


class FrameConv1D(keras.layers.Layer):
    """Convolution over time that sees zeros wherever there is no real frame.

    `y[t] = bias + sum_k x[t + offsets[k]] @ kernel[:, k]`

    Args:
      filters: width of the output.
      offsets: in frames, where each tap reads: `(-1, 0, 1)` is the usual kernel of three,
        `(-2 * d, -d, 0)` a causal one with dilation `d`.
      l2: L2 penalty on the kernel.
      seed: of the initial kernel (Glorot uniform).
    """

    def __init__(
        self, filters: int, offsets: Sequence[int], *, l2: float = 0.0, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filters, self.offsets, self.l2, self.seed = filters, tuple(offsets), l2, seed

    def build(self, input_shape: tuple[int | None, int]) -> None:
        taps, width = len(self.offsets), input_shape[-1]
        glorot = keras.initializers.GlorotUniform(self.seed)
        self.kernel = self.add_weight(
            name="kernel",
            # [in, tap, out]: seen as [in, taps * out] it needs no transposing for the products.
            shape=(width, taps, self.filters),
            initializer=lambda shape, dtype: tf.transpose(
                glorot((taps, width, self.filters), dtype), [1, 0, 2]
            ),
            regularizer=l2_penalty(self.l2),
        )
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames) -> tf.Tensor:
        reads = frames.neighbours(self.offsets)
        read_by = frames.neighbours([-offset for offset in self.offsets])
        return tf.nn.bias_add(
            convolve(x, tf.convert_to_tensor(self.kernel), reads, read_by), self.bias
        )


def convolve(x: tf.Tensor, kernel: tf.Tensor, reads: tf.Tensor, read_by: tf.Tensor) -> tf.Tensor:
    """Compute `y[n] = sum_k x[reads[n, k]] @ kernel[:, k]` as one matrix product.

    Args:
      x: `[N, in]`.
      kernel: `[in, K, out]`.
      reads: `[N, K]`, the row under each tap, or `N` for zeros.
      read_by: `[N, K]`, the row whose tap `k` reads this one, or `N`: for the gradient.

    Returns:
      `[N, out]`.
    """
    width, taps, filters = kernel.shape

    @own_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        flat = tf.reshape(kernel, [width, taps * filters])
        if width > filters:
            # Wide input: multiply each row once, then look up the narrow products.
            products = tf.reshape(with_row(tf.matmul(x, flat)), [-1, filters])
            y = tf.add_n([tf.gather(products, reads[:, k] * taps + k) for k in range(taps)])
        else:
            windows = tf.reshape(tf.gather(with_row(x), reads), [-1, taps * width])
            y = tf.matmul(windows, tf.reshape(tf.transpose(kernel, [1, 0, 2]), [-1, filters]))

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            windows = tf.reshape(tf.gather(with_row(dy), read_by), [-1, taps * filters])
            dkernel = tf.matmul(x, windows, transpose_a=True)
            dx = tf.matmul(windows, flat, transpose_b=True)
            return dx, tf.reshape(dkernel, [width, taps, filters])

        return y, gradient

    return run(x, kernel)


class BandConv2D(keras.layers.Layer):
    """3 x 3 convolution over time and band: `[N, bands, in]` to `[N, bands, filters]`.

    It sees zeros beyond the bands and wherever there is no real frame, and has no bias, since a
    normalisation follows.

    Args:
      filters: width of the output.
      seed: of the initial kernel (Glorot uniform).
    """

    def __init__(self, filters: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.seed = filters, seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width = input_shape[-1]
        glorot = keras.initializers.GlorotUniform(self.seed)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(width, 9, self.filters),  # tap 3 * i + j: i frames and j bands on
            initializer=lambda shape, dtype: tf.transpose(
                glorot((9, width, self.filters), dtype), [1, 0, 2]
            ),
        )
        self.built = True

    def call(self, x: tf.Tensor, frames: Frames) -> tf.Tensor:
        bands, width = x.shape[1:]
        none = frames.total * bands
        frame = frames.neighbours((-1, 0, 1))[:, None, :, None]
        band = tf.range(bands)[None, :, None, None] + tf.constant([-1, 0, 1])
        there = (frame < frames.total) & (band >= 0) & (band < bands)
        # Each band of each frame is a row, and its surroundings are rows to look up.
        reads = tf.reshape(tf.where(there, frame * bands + band, none), [-1, 9])
        rows = tf.reshape(x, [-1, width])
        y = convolve(rows, tf.convert_to_tensor(self.kernel), reads, tf.reverse(reads, [1]))
        return tf.reshape(y, [-1, bands, self.filters])


def max_pool_pairs(x: tf.Tensor, frames: Frames) -> tuple[tf.Tensor, Frames]:
    """Take the maximum over pairs of frames, of the real ones among them. `[N, C]` to `[N', C]`."""
    pooled, pairs, window = frames.pool_pairs()
    # The row at an even time is its window's first, the one at an odd time its second.
    odd = frames.position % tf.shape(frames.row)[1] % 2
    sides = [
        take_rows(x, pairs[:, side], tf.where(odd == side, window, pooled.total), fill=x.dtype.min)
        for side in (0, 1)
    ]
    return tf.maximum(*sides), pooled


class RowBatchNorm(keras.layers.Layer):
    """Batch normalisation over rows: `[N, C]`, whatever `N`, zero included.

    In training the mean and the (biased) variance are those of the rows given, of all replicas
    together, in the weights' dtype; a batch without rows leaves the moving statistics as they are.
    """

    def __init__(self, *, momentum: float = 0.99, epsilon: float = 0.001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, input_shape: tuple[int | None, int]) -> None:
        shape = (input_shape[-1],)
        fixed: dict[str, Any] = {"shape": shape, "trainable": False, "autocast": False}
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros", autocast=False)
        self.moving_mean = self.add_weight(name="moving_mean", initializer="zeros", **fixed)
        self.moving_variance = self.add_weight(name="moving_variance", initializer="ones", **fixed)
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        gamma, beta, moving_mean, moving_variance = map(
            tf.convert_to_tensor,
            (self.gamma, self.beta, self.moving_mean, self.moving_variance),
        )
        if not training:
            scale = gamma * tf.math.rsqrt(moving_variance + self.epsilon)
            shift = beta - moving_mean * scale
            return x * tf.cast(scale, x.dtype) + tf.cast(shift, x.dtype)
        rows = tf.cast(x, gamma.dtype)
        y, mean, variance, count = normalize_by_batch(rows, gamma, beta, self.epsilon)
        step = tf.cast(tf.where(count > 0, 1.0 - self.momentum, 0.0), gamma.dtype)
        self.moving_mean.assign(moving_mean + step * (mean - moving_mean))
        self.moving_variance.assign(moving_variance + step * (variance - moving_variance))
        return tf.cast(y, x.dtype)


def normalize_by_batch(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalise by mean and variance of all replicas' rows: `gamma * (x - mean) / root + beta`.

    With a gradient of its own (Ioffe and Szegedy 2015) that passes over the rows half as often as
    TensorFlow's, which goes back through mean and variance one after the other.

    Args:
      x: `[N, C]`.
      gamma, beta: `[C]`.
      epsilon: added to the variance before its root is taken.

    Returns:
      The rows; mean and (biased) variance, `[C]`, and number of rows they were taken over, none of
      which has a gradient.
    """

    @own_gradient
    def run(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., Any]]:
        mean, variance, count = _moments(x)
        one_over_root = tf.math.rsqrt(variance + epsilon)
        scale = gamma * one_over_root

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            dbeta = tf.reduce_sum(dy, axis=0)
            dscale = tf.reduce_sum(dy * x, axis=0) - mean * dbeta
            # The statistics hang on every replica's rows; gamma and beta are each one's own.
            all_dbeta, all_dscale = replicas.totals([dbeta, dscale])
            some = tf.maximum(count, 1)
            by_x = -scale * one_over_root**2 * all_dscale / some
            dx = dy * scale + x * by_x - (scale * all_dbeta / some + mean * by_x)
            return dx, dscale * one_over_root, dbeta

        return (x * scale + (beta - mean * scale), mean, variance, count), gradient

    return run(x, gamma, beta)


def _moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Find mean, biased variance and number of all replicas' rows; zeros where there are none."""
    count = tf.cast(tf.shape(x)[0], x.dtype)
    mean = tf.reduce_sum(x, axis=0) / tf.maximum(count, 1)
    squares = tf.reduce_sum(tf.math.squared_difference(x, mean), axis=0)
    if replicas.count() > 1:
        # Chan, Golub and LeVeque 1979: moments of the whole from those of its parts.
        parts = replicas.gather(tf.concat([mean, squares, count[None]], axis=0))
        means, parts_squares, counts = tf.split(parts, [x.shape[1], x.shape[1], 1], axis=1)
        count = tf.reduce_sum(counts)
        mean = tf.reduce_sum(counts * means, axis=0) / tf.maximum(count, 1)
        apart = counts * tf.math.squared_difference(means, mean)
        squares = tf.reduce_sum(parts_squares + apart, axis=0)
    return mean, squares / tf.maximum(count, 1), count


class RowDropout(keras.layers.Layer):
    """Dropout whose generator is a seeded variable of the model, so that a run can resume.

    Sixteen random bits an element, four elements to one 64-bit draw: the rate is met to 1/65536.
    Replicas read one stream of bits, each from where its rows lie in the global batch.
    """

    def __init__(self, rate: float, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def save_own_variables(self, store: Any) -> None:
        store["generator"] = self.seed_generator.state.numpy()  # Keras itself leaves it out

    def load_own_variables(self, store: Any) -> None:
        self.seed_generator.state.assign(store["generator"][()])

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        threshold = round(self.rate * 65536)
        if not training or threshold == 0:
            return x
        size = tf.size(x)
        first = replicas.rows_before(tf.shape(x)[0]) * x.shape[1]
        # Philox draws 128 bits, eight elements, a step of its counter.
        steps, passed_over = first // 8, first % 8
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
            seed=tf.cast(self.seed_generator.next(), tf.int32)
        )
        draws = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[(passed_over + size + 3) // 4],
            key=key,
            counter=counter + tf.cast([steps, 0], tf.uint64),
            dtype=tf.uint64,
            alg=_PHILOX,
        )
        bits = tf.reshape(tf.bitcast(draws, tf.uint16), [-1])[passed_over : passed_over + size]
        bits = tf.reshape(bits, tf.shape(x))
        keep = tf.cast(bits >= tf.constant(threshold, tf.uint16), x.dtype)
        return x * (keep * tf.cast(65536 / (65536 - threshold), x.dtype))


def l2_penalty(l2: float) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Make `l2 * sum(w ** 2)`, or nothing at 0; half the passes over `w` of Keras' own."""
    return (lambda w: 2.0 * l2 * tf.nn.l2_loss(w)) if l2 else None
