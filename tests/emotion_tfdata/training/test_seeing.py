"""What a training shows while it runs, and what it does not let pass unseen."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.features import Features
from emotion_tfdata.labels import class_names
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training import checkpoint, run, run_dir
from emotion_tfdata.training.fit import TrainingError
from emotion_tfdata.training.learner import Learner
from emotion_tfdata.training.profiling import ProfiledSteps
from emotion_tfdata.training.progress import Progress

pytestmark = [
    pytest.mark.usefixtures("step_by_step"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config"),
]


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: {e.step: tf.make_ndarray(e.tensor_proto).item() for e in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_gets_what_the_history_has(fake_data_dir, settings, tmp_path):
    out = io.StringIO()
    options = run.Options(fake_data_dir, tmp_path, input_threads=1, profile=ProfiledSteps(2, 2))
    report = run.train_fold(settings(), options, Progress(out))
    history = run_dir.read_json(tmp_path / run_dir.HISTORY)
    events = events_of(tmp_path / run_dir.TENSORBOARD)
    for entry in history:
        epoch = entry["epoch"]
        wanted = {
            "learning_rate": entry["learning_rate"],
            "input_wait_share": entry["input_wait_share"],
            "train/loss": entry["train"]["loss"],
            "train/accuracy": entry["train"]["accuracy"],
            "selection/loss": entry["selection"]["loss"],
            "selection/accuracy": entry["selection"]["accuracy"],
            "selection/uar": entry["selection"]["uar"],
        }
        for name, recall in entry["selection"]["recall"].items():
            wanted[f"selection_recall/{name}"] = recall
        for tag, value in wanted.items():
            assert events[tag][epoch] == pytest.approx(value, rel=1e-6), tag
        assert 0 <= entry["input_wait_share"] <= 1
    kept = report["best_epoch"]
    assert events["held_out/uar"][kept] == pytest.approx(report["held_out"]["uar"])
    assert {f"held_out_recall/{name}" for name in class_names(6)} < events.keys()
    # A profile of the steps asked for lies where TensorBoard looks for it.
    assert list((tmp_path / run_dir.TENSORBOARD).glob("plugins/profile/*/*.xplane.pb"))
    assert "profile of steps 2 to 2:" in out.getvalue()


def test_what_a_checkpoint_counts_as_done_is_told_before(fit, tmp_path, monkeypatch):
    told = []
    save = checkpoint.save

    def save_and_look(path, arrays, state):
        if state["history"]:
            told.append(events_of(tmp_path / "run" / run_dir.TENSORBOARD))
        save(path, arrays, state)

    monkeypatch.setattr(checkpoint, "save", save_and_look)
    fit("run", every_s=0.0, epochs=1).run()
    assert all(1 in told[0][f"selection_recall/{name}"] for name in class_names(6))


HEARS = ModelConfig(
    modalities="audio",
    num_audio_features=8,
    audio_filters=(4, 4),
    audio_lstm_units=(4, 4),
    audio_dense_units=8,
    joined_units=(8, 8),
)


def test_a_nan_in_the_first_convolution_is_found_though_it_may_not_reach_the_loss(settings):
    tf.config.run_functions_eagerly(False)  # compiled, ReLU and max pooling pass it over
    learner = Learner(settings(model=HEARS, features=Features("audio")), np.ones(6, np.float32))
    kernel = learner.model.audio.convolutions[0].kernel
    values = np.array(kernel)
    values[0, 1, 2] = np.nan
    kernel.assign(values)
    audio = tf.constant(np.random.default_rng(0).normal(size=(6, 40, 8)), tf.float32)
    step = learner.train({"audio": audio, "audio_mask": tf.ones([6, 40], bool)}, tf.range(6))
    assert not step.finite
    assert any(path.endswith("conv1/kernel") for path in learner.not_finite())


def poisoned(fit):
    """A training with a NaN that no loss can show: evaluation alone reads the moving variance."""
    chosen = fit()
    variance = chosen.learner.model.video.blocks[0].norms[0].moving_variance
    variance.assign(np.full(variance.shape, np.nan))
    return chosen


def test_weights_that_are_not_finite_are_named_with_the_batch(fit):
    with pytest.raises(
        TrainingError,
        match=r"epoch 1/2, batch 1: not finite are the weights \S*norm1/moving_variance "
        r"\(the loss is \d.*\)\. Clips of this batch: ravdess/clip-",
    ):
        poisoned(fit).run()


def test_a_gradient_beyond_all_numbers_is_found(fit):
    chosen = fit(learning_rate=1e-30)
    kernel = chosen.learner.model.head.logits.kernel
    kernel.assign(np.full(kernel.shape, 1e25))  # finite, but its square is not
    with pytest.raises(TrainingError, match=r"epoch 1/2, batch 1: the (loss|gradient) is"):
        chosen.run()


def test_what_is_not_finite_gets_into_no_checkpoint(fit, tmp_path):
    chosen = poisoned(fit)
    chosen._every_s = 0.0
    with pytest.raises(TrainingError):
        chosen.run()
    assert not (tmp_path / "m" / run_dir.CHECKPOINT).exists()
