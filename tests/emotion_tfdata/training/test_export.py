"""What is saved of a model says what the model says, to whoever has TensorFlow alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata import Features, __version__, make_dataset
from emotion_tfdata.labels import class_names
from emotion_tfdata.models import ModelConfig, build_model
from emotion_tfdata.training import export, run_dir
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.settings import Settings

SIZES = {
    "audio_filters": (4, 4),
    "audio_lstm_units": (4, 4),
    "audio_dense_units": 8,
    "tcn_filters": 4,
    "tcn_dilations": (1, 2),
    "video_lstm_units": 4,
    "video_dense_units": 8,
    "joined_units": (8, 8),
    "num_audio_features": 8,
}
CHOSEN = (0, 2, 5)


def trained(
    data_dir,
    modalities="both",
    landmarks="all",
    trim_silence_db=None,
    relative_level=False,
    dtype=None,
    **config,
):
    """A model that looks trained, no weight where it began, and its data."""
    num_landmarks = 6 if landmarks == "all" else len(landmarks)
    model_config = ModelConfig(modalities=modalities, num_landmarks=num_landmarks, **SIZES | config)
    chosen = Settings(
        name="test",
        model=model_config,
        features=Features(
            modalities,
            landmarks,
            trim_silence_db=trim_silence_db,
            relative_level=relative_level,
        ),
        protocol="random",
        fold=2,
        batch_size=12,
    )
    model = build_model(model_config, dtype=dtype)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        low, high = (0.5, 1.5) if "variance" in weight.path else (-0.3, 0.3)
        weight.assign(weight + rng.uniform(low, high, weight.shape))
    return model, Data(data_dir, chosen, num_threads=1)


@pytest.fixture(scope="module")
def both(fake_data_dir, tmp_path_factory):
    """A model of both modalities and some of the landmarks, its data, and where it is saved."""
    model, data = trained(fake_data_dir, landmarks=CHOSEN)
    folder = tmp_path_factory.mktemp("both")
    export.save_served(model, data, folder)
    return model, data, folder / run_dir.SAVED_MODEL


@pytest.fixture(scope="module")
def served(both):
    return tf.saved_model.load(str(both[2]))


def raw_batches(data):
    """The held-out clips in the data contract's units, nothing chosen, scaled or trimmed."""
    settings = data.settings
    return make_dataset(
        data.data_dir,
        "test",
        fold=settings.fold,
        protocol=settings.protocol,
        batch_size=settings.batch_size,
        features=Features(settings.features.modalities, normalize=False),
    )


def assert_says_the_same(served, model, data, atol=1e-5):
    clips = 0
    for (raw, _), (features, _) in zip(
        raw_batches(data), data.batches_of(data.held_out), strict=True
    ):
        expected = model.logits(features).numpy()
        outputs = served(raw)
        np.testing.assert_allclose(outputs["logits"], expected, atol=atol)
        shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(outputs["probabilities"], shares, atol=atol)
        assert expected.std(axis=0).min() > 100 * atol  # clips differ by what is compared
        clips += len(expected)
    assert clips == 6


def test_from_unnormalised_features_it_gives_the_models_logits(both, served):
    model, data, _ = both
    assert_says_the_same(served, model, data)


@pytest.mark.parametrize(
    "options",
    [
        {"modalities": "audio", "trim_silence_db": 6.0, "relative_level": True},
        {"modalities": "landmarks", "video": "bilstm"},
    ],
    ids=["audio, trimmed, levelled", "landmarks"],
)
def test_so_does_a_model_of_one_modality(fake_data_dir, tmp_path, options):
    model, data = trained(fake_data_dir, **options)
    export.save_served(model, data, tmp_path)
    alone = tf.saved_model.load(str(tmp_path / run_dir.SAVED_MODEL))
    assert_says_the_same(alone, model, data)


def test_trimming_and_levelling_do_matter(fake_data_dir):
    # Else the test above would not see whether they are inside.
    logits = []
    for options in ({}, {"trim_silence_db": 6.0}, {"relative_level": True}):
        model, data = trained(fake_data_dir, modalities="audio", **options)
        views = {"audio": export.view_of(data, "audio")}
        serve, _ = export.serving_function(model, views, data.settings.features, class_names(6))
        logits.append(serve(next(iter(raw_batches(data)))[0])["logits"].numpy())
    plain, trimmed, levelled = logits
    assert np.abs(trimmed - plain).max() > 1e-3
    assert np.abs(levelled - plain).max() > 1e-3


def test_no_feature_is_served_that_the_saved_model_might_lack():
    inside = {"modalities", "landmarks", "normalize", "trim_silence_db", "relative_level"}
    not_for_the_model = {"head", "with_ids", "with_meta", "num_classes", "labels"}
    assert {field.name for field in dataclasses.fields(Features)} == inside | not_for_the_model


_LOAD = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("emotion_tfdata", "preprocess"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
inputs = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
by_name = model.signatures["serving_default"](**inputs)
as_one = model(inputs)
np.savez(sys.argv[3], by_name=by_name["logits"], as_one=as_one["logits"],
         names=[name.decode() for name in by_name["class_names"].numpy()])
"""


def test_it_loads_where_this_library_is_not_and_names_the_classes(both, tmp_path):
    model, data, saved_model = both
    raw = next(iter(raw_batches(data)))[0]
    np.savez(tmp_path / "in.npz", **{name: value.numpy() for name, value in raw.items()})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", _LOAD, str(saved_model)),
            *(str(tmp_path / "in.npz"), str(tmp_path / "out.npz")),
        ],
        cwd=elsewhere,
        env={"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    features = next(iter(data.batches_of(data.held_out)))[0]
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["by_name"], model.logits(features), atol=1e-5)
        np.testing.assert_allclose(out["as_one"], out["by_name"], atol=1e-6)
        assert tuple(out["names"]) == class_names(6)


def test_padding_and_company_change_nothing(both, served):
    raw = next(iter(raw_batches(both[1])))[0]
    together = served(raw)["logits"].numpy()
    for clip in range(len(together)):
        alone = {}
        for name in ("audio", "landmarks"):
            frames = int(np.flatnonzero(raw[f"{name}_mask"][clip]).max()) + 1
            alone[name] = raw[name][clip : clip + 1, :frames]
            alone[f"{name}_mask"] = raw[f"{name}_mask"][clip : clip + 1, :frames]
        np.testing.assert_allclose(served(alone)["logits"][0], together[clip], atol=1e-5)


def test_beside_it_stands_how_a_clip_becomes_its_input(both):
    content = json.loads((both[2] / run_dir.FEATURES).read_text())
    assert content["emotion_tfdata"] == __version__
    assert content["provenance"] == "made-up data"
    assert content["build"] == {"made_by": "emotion_tfdata.testing"}
    assert content["inputs"]["audio"]["frame_shape"] == [8]
    assert content["inputs"]["landmarks"]["frame_shape"] == [6, 3]
    assert content["inputs"]["landmarks"]["rate_hz"] == 30
    assert content["inside"]["landmarks"] == list(CHOSEN)
    assert content["trained_actors"] == sorted({*both[1].train.actors, *both[1].selection.actors})
    assert content["temperature"] is None  # it was not asked for
    assert content["inside"]["scaled_by"] == "random folds 0, 1, 4"  # 3 is selected on


def test_one_that_breaks_off_leaves_the_one_before(fake_data_dir, tmp_path, monkeypatch):
    model, data = trained(fake_data_dir, modalities="landmarks")
    export.save_served(model, data, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "write_json", full_disk)
        with pytest.raises(OSError, match="No space left"):
            export.save_served(model, data, tmp_path)
    target = tmp_path / run_dir.SAVED_MODEL
    after = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    assert after == before
    # What lies there half written is in nobody's way.
    export.save_served(model, data, tmp_path)
    assert os.listdir(tmp_path) == [run_dir.SAVED_MODEL]
    assert_says_the_same(tf.saved_model.load(str(target)), model, data)


def test_the_keras_file_keeps_weights_and_precision(fake_data_dir, tmp_path):
    model, data = trained(fake_data_dir, modalities="landmarks", dtype="mixed_bfloat16")
    export.save_keras(model, tmp_path)
    assert os.listdir(tmp_path) == [run_dir.BEST_MODEL]
    again = keras.models.load_model(tmp_path / run_dir.BEST_MODEL)
    assert again.dtype_policy.name == "mixed_bfloat16"
    features = next(iter(data.batches_of(data.held_out)))[0]
    np.testing.assert_array_equal(again.logits(features), model.logits(features))
    assert keras.config.dtype_policy().name == "float32"
