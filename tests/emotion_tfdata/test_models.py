"""The model as a whole: what its masks, its seeds and its saved forms promise."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.models import ModelConfig, build_model

# Every kind of layer, in sizes that no test waits for.
SMALL = ModelConfig(
    num_audio_features=7,
    num_landmarks=4,
    audio_filters=(9, 12),
    audio_lstm_units=(8, 6),
    audio_dense_units=8,
    tcn_filters=12,
    tcn_dilations=(1, 2),
    video_lstm_units=8,
    video_dense_units=12,
    joined_units=(16, 10),
)
SYSTEMS = {
    "baseline": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "regularization": ModelConfig(video="bilstm", l2=0.001, l2_tcn=0.0),
    "sync_aug": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "optimizer": ModelConfig(video="bilstm", l2=0.0, l2_tcn=0.0),
    "tcn_video": ModelConfig(video="tcn", l2=0.0, l2_tcn=0.001),
    "tcn": ModelConfig(video="tcn", l2=0.001, l2_tcn=0.001),
}
MODELS = [("tcn", "both"), ("bilstm", "both"), ("tcn", "audio"), ("tcn", "landmarks")]
MODELS += [("bilstm", "landmarks"), ("cnn", "both")]


def small(kind: str = "tcn", modalities: str = "both", **changes) -> ModelConfig:
    """With one part other than the combined model's: `kind` is what reads the audio or the face."""
    changes["audio" if kind == "cnn" else "video"] = kind
    return dataclasses.replace(SMALL, modalities=modalities, **changes)


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

    @pytest.mark.parametrize("kind", ["tcn", "bilstm", "cnn"])
    def test_training_twice_gives_the_same_weights_to_the_bit(self, kind):
        runs = []
        for _ in range(2):
            model = build_model(small(kind), seed=5)
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


@pytest.mark.parametrize(("video", "modalities"), [("cnn", "both"), ("bilstm", "landmarks")])
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
            ({"video": "cnn"}, r"video must be one of tcn, bilstm, got 'cnn'"),
            ({"modalities": "video"}, r"modalities must be one of both, audio, landmarks, got"),
            ({"l2": -0.1}, r"l2 must be in \[0, 1e30\), got -0.1"),
            ({"l2_tcn": float("nan")}, r"l2_tcn must be .*, got nan"),
            ({"num_classes": 0}, r"num_classes must be a whole number in \[1, 65536\], got 0"),
            ({"num_landmarks": 2.5}, r"num_landmarks must be a whole number .*, got 2.5"),
            ({"tcn_dropout": 1.0}, r"tcn_dropout must be in \[0, 1\), got 1.0"),
            ({"tcn_dilations": (0,)}, r"tcn_dilations must be whole numbers .*, got \(0,\)"),
            (
                {"joined_units": (64,)},
                r"joined_dropouts must be one for each of .*, got \(0.5, 0.4\)",
            ),
            ({"joined_dropouts": (0.5, 2)}, r"joined_dropouts must be numbers in \[0, 1\)"),
            ({"bn_epsilon": 0.0}, r"bn_epsilon must be in \(0, 1\), got 0"),
        ],
    )
    def test_a_config_that_cannot_be_says_which_field(self, changes, message):
        with pytest.raises(ValueError, match=message):
            ModelConfig(**changes)
