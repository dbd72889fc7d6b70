"""The model against plain numpy, Keras' own layers, and what the masks promise."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.extra.numpy
import keras
import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.models import ModelConfig, build_model
from emotion_tfdata.models.branches import ResidualBlock
from emotion_tfdata.models.frames import Frames
from emotion_tfdata.models.layers import (
    FrameConv1D,
    RowBatchNorm,
    RowDropout,
    convolve,
    max_pool_pairs,
)
from emotion_tfdata.models.lstm import BiLSTM

SMALL = ModelConfig(num_audio_features=7, num_landmarks=4)
SYSTEMS = {
    "baseline": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "regularization": ModelConfig(video="bilstm", l2=0.001, l2_tcn=0.0),
    "sync_aug": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "optimizer": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "tcn_video": ModelConfig(video="tcn", l2=0.0, l2_tcn=0.001),
    "tcn": ModelConfig(video="tcn", l2=0.001, l2_tcn=0.001),
}
MODELS = [("tcn", "both"), ("bilstm", "both"), ("tcn", "audio"), ("tcn", "landmarks")]
MODELS += [("bilstm", "landmarks")]

masks = hypothesis.extra.numpy.arrays(
    bool, hypothesis.extra.numpy.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
)


def small(video: str = "tcn", modalities: str = "both", **changes) -> ModelConfig:
    return dataclasses.replace(SMALL, video=video, modalities=modalities, **changes)


def draw_clips(audio_frames, video_frames, *, seed=0, padding=0, missing_faces=True):
    """A batch of features as the pipeline makes them; each clip drawn from its own number."""
    features = {}
    for name, counts, shape in (
        ("audio", audio_frames, (SMALL.num_audio_features,)),
        ("landmarks", video_frames, (SMALL.num_landmarks, 3)),
    ):
        longest = max(counts) + padding
        x = np.zeros((len(counts), longest, *shape), np.float32)
        mask = np.zeros((len(counts), longest), bool)
        for clip, count in enumerate(counts):
            rng = np.random.default_rng([seed, clip, len(shape)])
            x[clip, :count] = rng.standard_normal((count, *shape))
            mask[clip, :count] = True
            if missing_faces and name == "landmarks" and count > 8:
                mask[clip, [3, 5, 6]] = False
        features[name], features[f"{name}_mask"] = x, mask
    return features


def clip_of(features, clip):
    return {name: value[clip : clip + 1] for name, value in features.items()}


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


class TestConvolution:
    @pytest.mark.parametrize(("width", "filters"), [(9, 4), (4, 9)])
    @pytest.mark.parametrize("dilation", [1, 4])
    def test_values_and_gradients_are_those_of_tensorflow(self, width, filters, dilation):
        rng = np.random.default_rng(0)
        x = tf.constant(rng.standard_normal((3, 11, width)), tf.float32)
        kernel = tf.constant(rng.standard_normal((3, width, filters)), tf.float32)
        weight = tf.constant(rng.standard_normal((3, 11, filters)), tf.float32)
        frames = frames_of([11, 11, 11])
        offsets = (-2 * dilation, -dilation, 0)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, kernel])
            causal = tf.pad(x, [[0, 0], [2 * dilation, 0], [0, 0]])
            theirs = tf.nn.conv1d(causal, kernel, 1, "VALID", dilations=dilation)
            ours = convolve(
                tf.reshape(x, [-1, width]),
                tf.transpose(kernel, [1, 0, 2]),
                frames.neighbours(offsets),
                frames.neighbours([-o for o in offsets]),
            )
            ours = tf.reshape(ours, theirs.shape)
            sums = [tf.reduce_sum(y * weight) for y in (ours, theirs)]
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for mine, other in zip(*(tape.gradient(s, [x, kernel]) for s in sums), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)

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
    block = ResidualBlock(SMALL, width, dilation, seed=0, name="block")
    for norm in block.norms:
        set_random_statistics(norm, rng)
    counts = [30, 17]
    x = rng.standard_normal((sum(counts), width)).astype(np.float32)

    def convolution(x, layer):
        y = np.zeros((len(x), SMALL.tcn_filters)) + layer.bias.numpy()
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
            y = gamma * (y - mean) / np.sqrt(variance + SMALL.bn_epsilon) + beta
        around = clip
        if width != SMALL.tcn_filters:
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

    def test_draws_anew_each_step_and_the_same_from_the_same_seed(self):
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


@pytest.fixture(scope="module")
def trained():
    """Models whose moving statistics have moved, so that no layer is the identity."""
    made = {}

    def make(video, modalities):
        if (video, modalities) not in made:
            model = build_model(small(video, modalities, bn_momentum=0.5), seed=1)
            for seed in range(3):
                model(draw_clips([40, 23, 31], [13, 20, 9], seed=seed), training=True)
            made[video, modalities] = model
        return made[video, modalities]

    return make


@pytest.mark.parametrize(("video", "modalities"), MODELS)
class TestMasks:
    counts = [61, 22, 47, 38], [19, 30, 2, 11]

    def test_logits_do_not_change_with_padding(self, trained, video, modalities):
        model = trained(video, modalities)
        plain, padded = (model.logits(draw_clips(*self.counts, padding=n)) for n in (0, 200))
        np.testing.assert_allclose(plain, padded, atol=1e-5)

    def test_logits_do_not_change_with_company(self, trained, video, modalities):
        model, features = trained(video, modalities), draw_clips(*self.counts)
        together = model.logits(features)
        for clip in range(4):
            np.testing.assert_allclose(
                model.logits(clip_of(features, clip)), together[clip : clip + 1], atol=1e-5
            )
        assert np.ptp(together, axis=0).max() > 0.05  # the clips do differ

    def test_what_stands_under_a_false_mask_is_never_read(self, trained, video, modalities):
        model, features = trained(video, modalities), draw_clips(*self.counts, padding=5)
        spoilt = dict(features)
        for name in ("audio", "landmarks"):
            spoilt[name] = features[name].copy()
            spoilt[name][~features[f"{name}_mask"]] = np.nan
        np.testing.assert_array_equal(model(features), model(spoilt))

    def test_a_training_step_does_not_change_with_padding(self, video, modalities):
        weights = []
        for padding in (0, 200):
            model = build_model(small(video, modalities), seed=2)
            train_step(model, draw_clips(*self.counts, padding=padding), [0, 1, 2, 3])
            weights.append(model.get_weights())
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)

    def test_a_clip_without_frames_gives_numbers_and_gradients(self, video, modalities):
        model = build_model(small(video, modalities), seed=2)
        for counts in (([20, 0, 9], [0, 12, 9]), ([0, 0], [0, 0])):
            before = model(draw_clips(*counts))
            assert np.isfinite(before).all()
            np.testing.assert_allclose(tf.reduce_sum(before, axis=1), 1, atol=1e-5)
            train_step(model, draw_clips(*counts), np.arange(len(counts[0])))
        assert all(np.isfinite(w).all() for w in model.get_weights())


def train_step(model, features, labels):
    with tf.GradientTape() as tape:
        logits = model.logits(features, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(
            np.array(labels), logits, from_logits=True
        )
        loss = tf.reduce_mean(loss) + sum(model.losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    keras.optimizers.SGD(0.1).apply(gradients, model.trainable_variables)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_penalises_what_the_table_says(name):
    config = dataclasses.replace(SYSTEMS[name], num_audio_features=7, num_landmarks=4)
    model = build_model(config)
    dense = [model.audio.dense, model.video.dense, model.head.logits]
    dense += [layer for layer, _, _ in model.head.stages]
    convolutions = [c for block in model.video.blocks for c in block.convolutions]
    convolutions += [block.around for block in model.video.blocks if block.around]
    expected = 0.0
    if name in ("regularization", "tcn"):
        expected += 0.001 * sum(np.sum(layer.kernel.numpy() ** 2) for layer in dense)
    if name in ("tcn_video", "tcn"):
        assert len(convolutions) == 9
        expected += 0.001 * sum(np.sum(layer.kernel.numpy() ** 2) for layer in convolutions)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert (model.video.lstm is not None) == (not convolutions)


def test_the_combined_model_has_the_layers_of_the_document():
    def lstm(width, units):
        return 2 * 4 * units * (width + units + 1)

    norm, width = 4, 478 * 3
    audio = 64 * (3 * 80 + 1 + norm) + 128 * (3 * 64 + 1 + norm)
    audio += lstm(128, 128) + lstm(256, 64) + 128 * (128 + 1)
    tcn = 128 * (3 * width + 1 + norm) + 128 * (width + 1) + 7 * 128 * (3 * 128 + 1 + norm)
    joined = 256 * (384 + 1 + norm) + 128 * (256 + 1 + norm) + 6 * (128 + 1)
    model = build_model(ModelConfig())
    assert model.count_params() == audio + tcn + 256 * (128 + 1) + joined
    generators = [v for v in model.variables if "seed_generator" in v.path]
    assert len(generators) == 2 + 8 + 1 + 2  # one a dropout: audio, TCN, video, joined


class TestReproducibility:
    def test_same_seed_same_weights_to_the_bit(self):
        first, second, other = (build_model(SMALL, seed=s).get_weights() for s in (3, 3, 4))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

    def test_building_neither_reads_nor_sets_the_global_generators(self):
        keras.utils.set_random_seed(1)
        first = build_model(SMALL, seed=3).get_weights()
        drawn = np.random.random()
        keras.utils.set_random_seed(2)
        second = build_model(SMALL, seed=3).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        np.random.seed(1)
        assert np.random.random() == drawn

    def test_a_part_starts_the_same_whatever_stands_beside_it(self):
        both, alone = build_model(small("tcn", "both")), build_model(small("tcn", "audio"))
        for a, b in zip(both.audio.get_weights(), alone.audio.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("video", ["tcn", "bilstm"])
    def test_training_twice_gives_the_same_weights_to_the_bit(self, video):
        runs = []
        for _ in range(2):
            model = build_model(small(video), seed=5)
            for step in range(3):
                features = draw_clips([30, 41, 12, 25], [9, 14, 11, 3], seed=step)
                train_step(model, features, np.arange(4))
            runs.append(model.get_weights())
        assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def fit(model, epochs=1, learning_rate=0.001):
    features, labels = draw_clips([30, 41, 12, 25], [9, 14, 11, 3]), np.arange(4, dtype=np.int32)
    ds = tf.data.Dataset.from_tensors((features, labels)).repeat(5)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model.fit(ds, epochs=epochs, verbose=0).history


@pytest.mark.parametrize(("video", "modalities"), [("tcn", "both"), ("bilstm", "landmarks")])
def test_fit_learns_and_a_saved_model_gives_what_it_gave(tmp_path, video, modalities):
    model = build_model(small(video, modalities), seed=5)
    history = fit(model, epochs=6, learning_rate=0.01)
    assert history["loss"][-1] < history["loss"][0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    features = draw_clips([30, 7], [9, 30])
    np.testing.assert_array_equal(model(features), again(features))
    assert again.config == model.config
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)  # the state of every dropout's generator included


def test_savedmodel_gives_what_the_model_gives(tmp_path):
    model = build_model(SMALL, seed=5)
    signature = {
        "audio": tf.TensorSpec([None, None, 7], name="audio"),
        "audio_mask": tf.TensorSpec([None, None], tf.bool, name="audio_mask"),
        "landmarks": tf.TensorSpec([None, None, 4, 3], name="landmarks"),
        "landmarks_mask": tf.TensorSpec([None, None], tf.bool, name="landmarks_mask"),
    }
    serve = tf.function(lambda features: model(features, training=False))
    tf.saved_model.save(model, str(tmp_path), serve.get_concrete_function(signature))
    again = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    features = {k: tf.constant(v) for k, v in draw_clips([30, 7], [9, 30]).items()}
    (probabilities,) = again(**features).values()
    np.testing.assert_allclose(probabilities, model(features), atol=1e-6)


def test_the_compiled_loss_is_finite_where_the_probability_rounds_to_zero():
    model = build_model(SMALL)
    kernel, _ = model.head.logits.get_weights()
    model.head.logits.set_weights([0 * kernel, np.array([0, 300, 0, 0, 0, 0.0])])
    model.compile(loss="sparse_categorical_crossentropy")
    ds = tf.data.Dataset.from_tensors((draw_clips([9], [9]), np.array([0], np.int32)))
    penalty = float(sum(model.losses))
    assert model.evaluate(ds, verbose=0) == pytest.approx(300 + penalty, rel=1e-4)


class TestErrors:
    def test_a_missing_feature_is_named(self):
        features = draw_clips([9], [9])
        del features["landmarks_mask"]
        with pytest.raises(KeyError, match=r"'landmarks_mask'.*'audio'"):
            build_model(SMALL)(features)

    @pytest.mark.parametrize("modalities", ["audio", "landmarks"])
    def test_the_other_modality_is_not_needed(self, modalities):
        features = {k: v for k, v in draw_clips([9], [9]).items() if k.startswith(modalities)}
        assert build_model(small("tcn", modalities))(features).shape == (1, 6)

    def test_a_feature_of_another_width_is_named_with_both_widths(self):
        features = draw_clips([9], [9])
        features["audio"] = features["audio"][..., :6]
        with pytest.raises(ValueError, match=r"'audio' has shape \(1, 9, 6\).*\(None, None, 7\)"):
            build_model(SMALL)(features)

    def test_a_mask_that_is_not_bool_is_refused(self):
        features = draw_clips([9], [9])
        features["audio_mask"] = features["audio_mask"].astype(np.float32)
        with pytest.raises(ValueError, match="'audio_mask' is float32"):
            build_model(SMALL)(features)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"video": "cnn"}, r"video is 'cnn'.*tcn"),
            ({"modalities": "video"}, r"modalities is 'video'.*landmarks"),
            ({"l2": -0.1}, r"l2 is -0.1"),
            ({"l2_tcn": float("nan")}, r"l2_tcn is nan"),
            ({"num_classes": 0}, r"num_classes is 0"),
            ({"num_landmarks": 2.5}, r"num_landmarks is 2.5"),
            ({"tcn_dropout": 1.0}, r"tcn_dropout is 1.0"),
            ({"tcn_dilations": ()}, r"tcn_dilations is \(\)"),
            ({"audio_filters": (64,)}, r"audio_filters is \(64,\).*2 values"),
            ({"joined_dropouts": (0.5, 2)}, r"joined_dropouts is 2"),
            ({"bn_epsilon": 0.0}, r"bn_epsilon is 0"),
        ],
    )
    def test_a_config_that_cannot_be_says_which_field(self, changes, message):
        with pytest.raises(ValueError, match=message):
            ModelConfig(**changes)
