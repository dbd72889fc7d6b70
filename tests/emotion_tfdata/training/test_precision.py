"""bfloat16 where the processor has it, and only in the products of matrices."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.models import ModelConfig, build_model, lstm
from emotion_tfdata.models.layers import RowBatchNorm
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.fit import Fit, StoppedError
from emotion_tfdata.training.learner import Learner
from emotion_tfdata.training.precision import check_precision
from emotion_tfdata.training.progress import Progress

BOTH = ModelConfig(
    num_audio_features=8,
    num_landmarks=6,
    audio_filters=(8, 8),
    audio_lstm_units=(8, 8),
    audio_dense_units=16,
    tcn_filters=16,
    tcn_dilations=(1, 2),
    video_lstm_units=8,
    video_dense_units=16,
    joined_units=(16, 16),
)
MIXED = "mixed_bfloat16"


def clips(seed=0, count=5):
    rng = np.random.default_rng(seed)
    audio, face = rng.integers(20, 60, count), rng.integers(8, 20, count)
    return {
        "audio": tf.constant(rng.standard_normal((count, 60, 8)), tf.float32),
        "audio_mask": tf.sequence_mask(audio, 60),
        "landmarks": tf.constant(rng.standard_normal((count, 20, 6, 3)), tf.float32),
        "landmarks_mask": tf.sequence_mask(face, 20),
    }


@pytest.mark.parametrize(
    ("line", "has_it"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16 avx512_vnni", True),
        ("flags\t\t: fpu sse amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu sse avx2 avx512f avx512_fp16", False),
        ("model name\t: a processor called bf16", False),
    ],
)
def test_it_is_refused_where_the_processor_lacks_it(tmp_path, line, has_it):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips\t: 5200\n\n")
    check_precision("float32", cpuinfo)
    if has_it:
        check_precision(MIXED, cpuinfo)
    else:
        with pytest.raises(ValueError, match=r"does not multiply bfloat16 .*avx512_bf16.*float32"):
            check_precision(MIXED, cpuinfo)


def test_where_nobody_says_what_the_processor_has_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none does not tell what this processor can"):
        check_precision(MIXED, tmp_path / "none")
    with pytest.raises(ValueError, match=r"must be one of float32, .*, float64, got 'half'"):
        check_precision("half")


@pytest.mark.parametrize("parts", [{"audio": "cnn", "video": "tcn"}, {"video": "bilstm"}])
def test_logits_are_those_of_float32_but_for_rounding(parts):
    config = dataclasses.replace(BOTH, **parts)
    plain, mixed = build_model(config), build_model(config, dtype=MIXED)
    rng = np.random.default_rng(1)
    for one, other in zip(plain.weights, mixed.weights, strict=True):
        assert other.dtype == "float32"
        one.assign(one + np.abs(rng.normal(0, 0.2, one.shape)))
        other.assign(one)
    expected, found = plain.logits(clips()).numpy(), mixed.logits(clips())
    assert found.dtype == tf.float32
    # bfloat16 keeps 8 bits, so that a product is right to 1/256, and errors add up over layers.
    error = np.abs(found - expected).max() / np.abs(expected - expected.mean(axis=0)).max()
    assert 1e-6 < error < 0.1


def test_recurrence_and_the_last_layer_compute_in_float32(monkeypatch):
    seen = []
    recur = lstm.recur

    def watched(gates, recurrent, size):
        seen.append((gates.dtype, recurrent.dtype))
        return recur(gates, recurrent, size)

    monkeypatch.setattr(lstm, "recur", watched)
    model = build_model(BOTH, dtype=MIXED)
    model.logits(clips())
    assert set(seen) == {(tf.float32, tf.float32)}
    assert model.head.logits.compute_dtype == "float32"
    assert model.audio.convolutions[0].compute_dtype == "bfloat16"


def test_statistics_are_summed_in_float32():
    norm = RowBatchNorm(momentum=0.0, dtype=MIXED)
    norm.build((None, 4))
    # Many rows far from zero: in bfloat16 their sum would stop growing after a few hundred.
    x = tf.cast(np.random.default_rng(0).normal(5, 1, (5000, 4)), tf.bfloat16)
    norm(x, training=True)
    exact = tf.cast(x, tf.float64).numpy()
    np.testing.assert_allclose(norm.moving_mean, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, exact.var(axis=0), rtol=1e-4)


def test_training_lowers_the_loss(settings):
    config = dataclasses.replace(
        BOTH,
        modalities="landmarks",
        tcn_dropout=0.0,
        video_dropout=0.0,
        joined_dropouts=(0.0, 0.0),
    )
    learner = Learner(settings(model=config, precision=MIXED), np.ones(6, np.float32))
    features, labels = clips(count=6), tf.range(6)
    losses = [learner.train(features, labels).cross_entropy / 6 for _ in range(25)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    assert all(np.isfinite(losses))
    assert all(v.dtype == "float32" for v in learner.optimizer.variables[2:])


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_interrupted_it_ends_with_the_same_weights(fake_data_dir, settings, tmp_path):
    chosen = settings(
        precision=MIXED, batch_size=18, select_on="none", lr_schedule="constant", epochs=1
    )
    tf.config.run_functions_eagerly(True)
    try:

        def fit(name, stop=lambda: False):
            (tmp_path / name).mkdir(exist_ok=True)
            return Fit(
                chosen,
                Data(fake_data_dir, chosen, num_threads=1),
                tmp_path / name,
                checkpoint_every_s=1e9,
                should_stop=stop,
                progress=Progress(io.StringIO()),
            )

        whole = fit("whole")
        whole.run()
        asked = iter([False, True])
        with pytest.raises(StoppedError):
            fit("broken", lambda: next(asked)).run()
        broken = fit("broken")
        broken.run()
    finally:
        tf.config.run_functions_eagerly(False)
    for one, other in zip(
        whole.learner.model.variables, broken.learner.model.variables, strict=True
    ):
        assert np.array(one).tobytes() == np.array(other).tobytes()


def test_it_is_part_of_what_a_training_is(settings):
    assert settings().as_dict()["precision"] == "float32"
    assert settings(precision=MIXED).as_dict()["precision"] == MIXED
    one_of = "precision must be one of float32, mixed_bfloat16, float64"
    with pytest.raises(ValueError, match=one_of):
        settings(precision="float16")
