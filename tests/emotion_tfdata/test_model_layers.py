"""The layers on packed rows, each against plain numpy or Keras' own."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy
import keras
import numpy as np
import pytest
import scipy
import tensorflow as tf

from emotion_tfdata.models import ModelConfig
from emotion_tfdata.models.branches import ResidualBlock
from emotion_tfdata.models.frames import Frames
from emotion_tfdata.models.layers import (
    BandConv2D,
    FrameConv1D,
    RowBatchNorm,
    RowDropout,
    convolve,
    max_pool_pairs,
)
from emotion_tfdata.models.lstm import BiLSTM

CONFIG = ModelConfig()

masks = hypothesis.extra.numpy.arrays(
    bool, hypothesis.extra.numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
)


def frames_of(counts, longest=None):
    return Frames.from_mask(tf.sequence_mask(counts, longest))


def set_random_statistics(norm, rng):
    shape = norm.gamma.shape
    norm.set_weights(
        [rng.normal(1, 0.3, shape), rng.normal(0, 0.3, shape), rng.normal(0, 1, shape)]
        + [rng.uniform(0.5, 2, shape)]
    )


class TestFrames:
    @hypothesis.given(masks)
    def test_rows_are_the_real_frames_in_order(self, mask):
        frames = Frames.from_mask(tf.constant(mask))
        padded = np.arange(mask.size, dtype=np.float32).reshape(*mask.shape, 1)
        np.testing.assert_array_equal(frames.pack(tf.constant(padded)), padded[mask])
        np.testing.assert_array_equal(frames.count, mask.sum(1))
        np.testing.assert_array_equal(frames.clip, np.nonzero(mask)[0])

    @hypothesis.given(
        masks, hypothesis.strategies.lists(hypothesis.strategies.integers(-12, 12), min_size=1)
    )
    def test_neighbours_stay_in_their_clip_and_pass_over_nothing(self, mask, offsets):
        frames = Frames.from_mask(tf.constant(mask))
        rows = {place: row for row, place in enumerate(zip(*np.nonzero(mask), strict=True))}
        expected = [[rows.get((b, t + o), len(rows)) for o in offsets] for b, t in rows]
        np.testing.assert_array_equal(
            frames.neighbours(offsets), np.reshape(expected, (len(rows), len(offsets)))
        )

    @hypothesis.given(masks)
    def test_pooling_takes_the_maximum_of_the_real_frames_of_a_window(self, mask):
        rng = np.random.default_rng(0)
        padded = rng.normal(-3, 1, (*mask.shape, 2)).astype(np.float32)
        frames = Frames.from_mask(tf.constant(mask))
        pooled, pooled_frames = max_pool_pairs(tf.constant(padded[mask]), frames)
        odd = [(0, 0), (0, mask.shape[1] % 2)]
        real = np.where(mask[..., None], padded, -np.inf)
        real = np.pad(real, [*odd, (0, 0)], constant_values=-np.inf)
        expected = real.reshape(len(mask), -1, 2, 2).max(2)
        some = np.pad(mask, odd).reshape(len(mask), -1, 2).any(2)
        np.testing.assert_array_equal(pooled, expected[some])
        np.testing.assert_array_equal(np.less(pooled_frames.row, pooled_frames.total), some)

    def test_pooling_gradient_is_that_of_keras(self):
        x = np.random.default_rng(0).integers(0, 3, (2, 6, 4)).astype(np.float32)  # with ties
        rows, weight = tf.constant(x.reshape(12, 4)), tf.range(6.0)[:, None]
        padded = tf.constant(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([rows, padded])
            ours = tf.reduce_sum(max_pool_pairs(rows, frames_of([6, 6]))[0] * weight)
            pool = keras.layers.MaxPooling1D(2)
            theirs = tf.reduce_sum(tf.reshape(pool(padded), [6, 4]) * weight)
        np.testing.assert_array_equal(
            tape.gradient(ours, rows), tf.reshape(tape.gradient(theirs, padded), [12, 4])
        )

    @hypothesis.given(masks)
    def test_statistics_are_weighted_by_a_softmax_over_each_clips_frames(self, mask):
        rng = np.random.default_rng(0)
        x, score = rng.normal(size=(2, *mask.shape, 3)).astype(np.float32)
        frames = Frames.from_mask(tf.constant(mask))
        found = frames.statistics(tf.constant(x[mask]), tf.constant(score[mask]))
        expected = np.zeros((len(mask), 6))
        for clip, real in enumerate(mask):
            if real.any():
                weight = scipy.special.softmax(score[clip, real], axis=0)
                mean = np.sum(weight * x[clip, real], axis=0)
                variance = np.sum(weight * (x[clip, real] - mean) ** 2, axis=0)
                expected[clip] = np.r_[mean, np.sqrt(variance)]
        np.testing.assert_allclose(found, expected, atol=0.011)
        np.testing.assert_allclose(found[:, :3], expected[:, :3], atol=1e-5)


def test_band_convolution_is_scipys_and_its_gradient_that_of_keras():
    rng = np.random.default_rng(0)
    clips, length, bands, width, filters = 2, 6, 5, 3, 4
    x = rng.standard_normal((clips, length, bands, width)).astype(np.float32)
    weight = rng.standard_normal((clips, length, bands, filters)).astype(np.float32)
    layer = BandConv2D(filters, seed=1)
    layer.build((None, bands, width))
    theirs = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)
    theirs.build(x.shape)
    kernel = layer.kernel.numpy().reshape(width, 3, 3, filters).transpose(1, 2, 0, 3)
    theirs.set_weights([kernel])
    rows, padded = tf.constant(x.reshape(-1, bands, width)), tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([rows, padded])
        y = layer(rows, frames_of([length] * clips))
        total = tf.reduce_sum(y * weight.reshape(y.shape))
        their_total = tf.reduce_sum(theirs(padded) * weight)
    for clip, out in np.ndindex(clips, filters):
        expected = sum(
            scipy.signal.correlate2d(x[clip, ..., i], kernel[..., i, out], mode="same")
            for i in range(width)
        )
        found = y.numpy().reshape(weight.shape)[clip, ..., out]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    by_x, by_kernel = tape.gradient(total, [rows, layer.kernel])
    their_by_x, their_by_kernel = tape.gradient(their_total, [padded, theirs.kernel])
    np.testing.assert_allclose(by_x, tf.reshape(their_by_x, by_x.shape), atol=1e-5)
    by_kernel = tf.transpose(tf.reshape(by_kernel, [width, 3, 3, filters]), [1, 2, 0, 3])
    np.testing.assert_allclose(by_kernel, their_by_kernel, atol=1e-4)


class TestConvolution:
    @pytest.mark.parametrize(("width", "filters"), [(9, 4), (4, 9)])
    @pytest.mark.parametrize("dilation", [1, 4])
    def test_values_and_gradients_are_those_of_numpy(self, width, filters, dilation):
        rng = np.random.default_rng(0)
        clips, length = 3, 11
        x = rng.standard_normal((clips, length, width)).astype(np.float32)
        kernel = rng.standard_normal((3, width, filters)).astype(np.float32)
        weight = rng.standard_normal((clips, length, filters)).astype(np.float32)
        expected, by_x = np.zeros(weight.shape), np.zeros(x.shape)
        by_kernel = np.zeros(kernel.shape)
        for tap, back in enumerate((2 * dilation, dilation, 0)):
            read = slice(0, max(length - back, 0))  # what this tap reads, and what it adds to
            written = slice(back, length)
            expected[:, written] += np.einsum("btw,wf->btf", x[:, read], kernel[tap], dtype=float)
            by_x[:, read] += np.einsum("btf,wf->btw", weight[:, written], kernel[tap], dtype=float)
            by_kernel[tap] = np.einsum("btw,btf->wf", x[:, read], weight[:, written], dtype=float)
        frames = frames_of([length] * clips)
        offsets = (-2 * dilation, -dilation, 0)
        rows = tf.constant(x.reshape(-1, width))
        taps = tf.constant(kernel.transpose(1, 0, 2))
        with tf.GradientTape() as tape:
            tape.watch([rows, taps])
            y = convolve(
                rows, taps, frames.neighbours(offsets), frames.neighbours([-o for o in offsets])
            )
            total = tf.reduce_sum(y * weight.reshape(-1, filters))
        rows_gradient, taps_gradient = tape.gradient(total, [rows, taps])
        np.testing.assert_allclose(y, expected.reshape(-1, filters), atol=1e-5)
        np.testing.assert_allclose(rows_gradient, by_x.reshape(-1, width), atol=1e-5)
        np.testing.assert_allclose(taps_gradient, by_kernel.transpose(1, 0, 2), atol=1e-5)

    def test_masked_frames_read_as_zeros(self):
        rng = np.random.default_rng(0)
        mask = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]], bool)
        x = rng.standard_normal((2, 5, 3)).astype(np.float32)
        conv = FrameConv1D(4, (-1, 0, 1), seed=0)
        conv.build((None, 3))
        kernel = np.transpose(conv.kernel.numpy(), [1, 0, 2])
        padded = np.pad(x * mask[..., None], [(0, 0), (1, 1), (0, 0)])
        expected = sum(padded[:, k : k + 5] @ kernel[k] for k in range(3))
        frames = Frames.from_mask(tf.constant(mask))
        np.testing.assert_allclose(conv(frames.pack(x), frames), expected[mask], atol=1e-5)


@pytest.mark.parametrize("width", [128, 12], ids=["same_width", "other_width"])
@pytest.mark.parametrize("dilation", [1, 8])
def test_residual_block_is_a_plain_causal_dilated_convolution(width, dilation):
    rng = np.random.default_rng(1)
    block = ResidualBlock(CONFIG, width, dilation, seed=0, name="block")
    for norm in block.norms:
        set_random_statistics(norm, rng)
    counts = [30, 17]
    x = rng.standard_normal((sum(counts), width)).astype(np.float32)

    def convolution(x, layer):
        y = np.zeros((len(x), CONFIG.tcn_filters)) + layer.bias.numpy()
        for t in range(len(x)):
            for tap, back in enumerate((2 * dilation, dilation, 0)):
                if t >= back:
                    y[t] += x[t - back] @ layer.kernel.numpy()[:, tap]
        return y

    expected = []
    for clip in np.split(x.astype(np.float64), [counts[0]]):
        y = clip
        for conv, norm in zip(block.convolutions, block.norms, strict=True):
            y = np.maximum(convolution(y, conv), 0)
            gamma, beta, mean, variance = norm.get_weights()
            y = gamma * (y - mean) / np.sqrt(variance + CONFIG.bn_epsilon) + beta
        around = clip
        if width != CONFIG.tcn_filters:
            around = clip @ block.around.kernel.numpy()[:, 0] + block.around.bias.numpy()
        expected.append(np.maximum(y + around, 0))
    np.testing.assert_allclose(
        block(tf.constant(x), frames_of(counts)), np.concatenate(expected), atol=1e-5
    )


class TestRowBatchNorm:
    def test_training_normalises_by_the_real_frames_mean_and_variance(self):
        rng = np.random.default_rng(0)
        x = rng.normal(3, 2, (4, 20, 5)).astype(np.float32)
        mask = np.arange(20) < np.array([20, 3, 0, 11])[:, None]
        real = np.ma.array(x, mask=np.broadcast_to(~mask[..., None], x.shape)).astype(np.float64)
        mean, variance = real.mean((0, 1)).data, real.var((0, 1)).data
        norm = RowBatchNorm(momentum=0.9, epsilon=0.001)
        norm.build((None, 5))
        y = norm(Frames.from_mask(tf.constant(mask)).pack(x), training=True)
        np.testing.assert_allclose(y, ((x - mean) / np.sqrt(variance + 0.001))[mask], atol=1e-5)
        np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, atol=1e-6)
        np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, atol=1e-5)

    def test_values_and_gradients_are_those_of_keras(self):
        rng = np.random.default_rng(0)
        x = tf.constant(rng.normal(1, 2, (50, 6)), tf.float32)
        weight = tf.constant(rng.standard_normal((50, 6)), tf.float32)
        results = []
        for norm in (RowBatchNorm(), keras.layers.BatchNormalization()):
            norm.build((None, 6))
            norm.set_weights([np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6), *[np.ones(6)] * 2])
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = norm(x, training=True)
                total = tf.reduce_sum(y * weight)
            gradients = tape.gradient(total, [x, *norm.trainable_variables])
            results.append([y, *gradients, *norm.get_weights(), norm(x)])
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)

    def test_a_batch_without_rows_leaves_the_statistics_alone(self):
        norm = RowBatchNorm()
        norm.build((None, 3))
        before = norm.get_weights()
        assert norm(tf.zeros([0, 3]), training=True).shape == (0, 3)
        for old, new in zip(before, norm.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


class TestRowDropout:
    def test_drops_at_its_rate_and_keeps_the_mean(self):
        dropout = RowDropout(0.3, seed=1)
        y = dropout(tf.ones([1000, 333]), training=True).numpy()
        # 333,000 draws: five standard deviations are 0.004.
        assert np.mean(y == 0) == pytest.approx(0.3, abs=0.004)
        np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-4)

    def test_draws_again_each_step_and_the_same_from_the_same_seed(self):
        first, second = RowDropout(0.5, seed=1), RowDropout(0.5, seed=1)
        x = tf.ones([20, 10])
        draws = [first(x, training=True).numpy() for _ in range(2)]
        assert (draws[0] != draws[1]).any()
        for draw in draws:
            np.testing.assert_array_equal(draw, second(x, training=True))

    def test_does_nothing_in_evaluation(self):
        x = tf.random.stateless_normal([5, 5], [1, 2])
        np.testing.assert_array_equal(RowDropout(0.5, seed=1)(x), x)


class TestBiLSTM:
    @pytest.fixture
    def pair(self):
        """Ours and Keras' own with the same random weights."""

        def make(return_sequences, width=5, units=3):
            ours = BiLSTM(units, return_sequences=return_sequences, seed=0)
            ours.build((None, width))
            theirs = keras.layers.Bidirectional(
                keras.layers.LSTM(units, return_sequences=return_sequences)
            )
            theirs.build((None, None, width))
            rng = np.random.default_rng(0)
            weights = [rng.standard_normal(w.shape) for w in ours.weights]
            ours.set_weights(weights)
            # Keras' gates are input, forget, candidate, output.
            i, f, o, g = np.split(np.arange(4 * units), 4)
            theirs.set_weights([w[..., np.concatenate([i, f, g, o])] for w in weights])
            return ours, theirs

        return make

    @pytest.mark.parametrize("return_sequences", [True, False])
    def test_each_clip_gets_what_keras_gives_it_alone(self, pair, return_sequences):
        ours, theirs = pair(return_sequences)
        counts = [4, 9, 0, 1, 9, 6]
        x = np.random.default_rng(1).standard_normal((sum(counts), 5)).astype(np.float32)
        y = ours(tf.constant(x), frames_of(counts, 12)).numpy()
        clips = np.split(x, np.cumsum(counts)[:-1])
        if return_sequences:
            expected = np.concatenate([theirs(c[None])[0] for c in clips if len(c)])
        else:
            expected = np.stack([theirs(c[None])[0] if len(c) else np.zeros(6) for c in clips])
        np.testing.assert_allclose(y, expected, atol=1e-5)

    def test_frames_masked_off_inside_a_clip_carry_the_state_as_in_keras(self, pair):
        ours, theirs = pair(return_sequences=False)
        mask = np.array([[1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 1, 1]], bool)
        x = np.random.default_rng(1).standard_normal((2, 6, 5)).astype(np.float32)
        frames = Frames.from_mask(tf.constant(mask))
        expected = theirs(x, mask=tf.constant(mask))
        np.testing.assert_allclose(ours(frames.pack(x), frames), expected, atol=1e-5)

    @pytest.mark.parametrize("return_sequences", [True, False])
    def test_gradients_are_those_of_keras(self, pair, return_sequences):
        ours, theirs = pair(return_sequences)
        counts = [7, 2, 5]
        mask = tf.sequence_mask(counts, 7)
        rng = np.random.default_rng(1)
        padded = tf.constant(rng.standard_normal((3, 7, 5)), tf.float32)
        frames = Frames.from_mask(mask)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(padded)
            y = ours(frames.pack(padded), frames)
            z = theirs(padded, mask=mask)
            if return_sequences:
                z = tf.boolean_mask(z, mask)
            weight = tf.constant(rng.standard_normal(y.shape), tf.float32)
            sums = [tf.reduce_sum(v * weight) for v in (y, z)]
        mine = tape.gradient(sums[0], [padded, *ours.trainable_variables])
        other = tape.gradient(sums[1], [padded, *theirs.trainable_variables])
        i, f, o, g = np.split(np.arange(12), 4)
        np.testing.assert_allclose(tf.convert_to_tensor(mine[0]), other[0], atol=1e-4)
        for a, b in zip(mine[1:], other[1:], strict=True):
            np.testing.assert_allclose(a.numpy()[..., np.concatenate([i, f, g, o])], b, atol=1e-4)

    def test_starts_from_the_initial_values_of_keras(self):
        layer = BiLSTM(8, return_sequences=True, seed=0)
        layer.build((None, 5))
        for kernel, recurrent, bias in layer.directions:
            assert np.abs(kernel.numpy()).max() <= np.sqrt(6 / (5 + 32))
            np.testing.assert_allclose(
                recurrent.numpy() @ recurrent.numpy().T, np.eye(8), atol=1e-5
            )
            np.testing.assert_array_equal(bias, [0.0] * 8 + [1.0] * 8 + [0.0] * 16)
        assert (layer.directions[0][0].numpy() != layer.directions[1][0].numpy()).any()
