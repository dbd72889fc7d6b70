"""The loop: the same to the bit however often it is interrupted, and honest about what it chose."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.features import Features
from emotion_tfdata.grid.job import filled_folds
from emotion_tfdata.labels import class_names
from emotion_tfdata.training import calibration, checkpoint, run, run_dir
from emotion_tfdata.training.data import Data, DataError, with_ids_apart
from emotion_tfdata.training.fit import Fit, StoppedError, TrainingError
from emotion_tfdata.training.learner import Learners
from emotion_tfdata.training.progress import Progress

# What is said below is meant: the steps run one by one, the input pipeline does not.
pytestmark = [
    pytest.mark.usefixtures("step_by_step"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config"),
]


def weights(fit):
    return [np.array(variable) for variable in fit.learner.model.variables]


def assert_equal_weights(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.tobytes() == b.tobytes()


def test_interrupted_at_any_batch_it_ends_with_the_same_weights_and_history(fit, tmp_path):
    whole = fit("whole")
    whole.run()
    batches = whole._data.training_batches(0, 0)[1]

    # Asked to stop before the first step, in the first epoch, while its figures for selection are
    # made, and in the second; then the process is lost without a word, a checkpoint half written.
    # Each asks once before its first step.
    asked = iter([True] + [False] * batches + [True, False, True, False, False, True])
    for _ in range(4):
        with pytest.raises(StoppedError):
            fit("broken", lambda: next(asked)).run()

    def crash():
        raise MemoryError

    with pytest.raises(MemoryError):
        fit("broken", crash, every_s=0.0).run()
    (tmp_path / "broken" / f".{run_dir.CHECKPOINT}").write_bytes(b"half a checkpoint")
    broken = fit("broken")
    broken.run()
    assert_equal_weights(weights(broken), weights(whole))
    assert broken.best_epoch == whole.best_epoch
    for one, other in zip(broken.history, whole.history, strict=True):
        for part in ("train", "selection", "learning_rate"):
            assert one[part] == other[part]


def test_a_training_in_a_process_that_did_others_is_the_same_to_the_bit(
    fake_data_dir, settings, tmp_path, quiet
):
    tf.config.run_functions_eagerly(False)  # what was compiled is what is shared
    changed = {"fold": 2, "seed": 3, "class_weights": "balanced", "learning_rate": 0.02}
    learners = Learners()
    done = []
    for number, (changes, shared) in enumerate(
        [({}, learners), (changed, learners), (changed, None)]
    ):
        chosen = settings(epochs=2, **changes)
        (tmp_path / str(number)).mkdir()
        one = Fit(
            chosen,
            Data(fake_data_dir, chosen, 1),
            tmp_path / str(number),
            progress=quiet,
            learners=shared,
        )
        one.run()
        done.append(
            (one, [np.array(v) for v in one.learner.model.variables], one.predict_held_out())
        )
    (first, _, _), (after, after_weights, after_said), (alone, alone_weights, alone_said) = done
    assert first.learner is after.learner is not alone.learner
    assert_equal_weights(after_weights, alone_weights)
    assert after_said.probabilities.tobytes() == alone_said.probabilities.tobytes()
    assert after.learner.model.get_config() == alone.learner.model.get_config()


def test_tensorboard_has_every_epoch_once_whatever_was_lost(fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lost = fit("lost", epochs=3, every_s=0.0)
    save = lost._save
    lost._save = lambda: save() if lost._at.epoch < 2 else None  # what comes after is lost
    lost.run()
    fit("lost", epochs=3).run()
    events = EventAccumulator(str(tmp_path / "lost" / run_dir.TENSORBOARD))
    events.Reload()
    assert [event.step for event in events.Tensors("train/loss")] == [1, 2, 3]


def test_rate_and_time_left_do_not_count_the_step_that_compiles(fit, monkeypatch):
    one = fit(epochs=3, batch_size=6, augment=None)  # three steps an epoch
    train, now_s, out = one.learner.train, [0.0], io.StringIO()
    steps_s = iter([100.0] + [2.0] * 8)

    def train_by_the_clock(*batch):
        now_s[0] += next(steps_s)
        return train(*batch)

    monkeypatch.setattr(one.learner, "train", train_by_the_clock)
    monkeypatch.setattr("emotion_tfdata.training.fit.time.monotonic", lambda: now_s[0])
    one._progress = Progress(out, log_every_s=-1.0)
    one.run()
    assert re.search(r"epoch 1/3  batch 1/3  loss [\d.]+$", out.getvalue(), re.M)
    assert "epoch 1/3  batch 2/3" in out.getvalue()
    # 18 clips to train on and 6 to select on, at 3 a second; what comes after was measured.
    told = re.findall(r"(\d+) clips/s  input .* at most (\S+) left", out.getvalue())
    assert told == [("3", "0:16"), ("3", "0:06"), ("3", "0:00")]
    assert one.history[0]["seconds"] == 104


def test_the_model_kept_is_the_best_epochs(fit, tmp_path):
    chosen = fit(epochs=3, learning_rate=0.3)
    chosen.run()
    losses = [entry["selection"]["loss"] for entry in chosen.history]
    assert chosen.best_epoch == 1 + int(np.argmin(losses))
    again = chosen.learner.predict(chosen._data.batches_of(chosen._data.selection))
    assert again.loss == min(losses)


def test_without_selection_the_last_epoch_is_kept(fit):
    chosen = fit(select_on="none", lr_schedule="cosine")
    chosen.run()
    assert chosen.best_epoch == 2
    assert "selection" not in chosen.history[0]
    assert chosen.history[1]["learning_rate"] == pytest.approx(0.005)


def test_cross_entropy_and_accuracy_of_an_epoch_are_those_of_its_clips(fit, settings):
    with_dropout_off = dataclasses.replace(
        settings().model,
        tcn_dropout=0.0,
        video_dropout=0.0,
        joined_dropouts=(0.0, 0.0),
    )
    # Nothing is learned at this rate, so the epoch's sums are those of one set of weights.
    chosen = fit(learning_rate=1e-30, augment=None, epochs=1, model=with_dropout_off)
    stream, batches = chosen._data.training_batches(0, 0)
    total = clips = correct = 0
    for features, labels in stream:
        features.pop("example_id")
        logits = chosen.learner.model.logits(features, training=True).numpy().astype(np.float64)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = exponents / exponents.sum(axis=1, keepdims=True)
        total -= np.log(shares[np.arange(len(labels)), labels.numpy()]).sum()
        correct += (shares.argmax(axis=1) == labels.numpy()).sum()
        clips += len(labels)
    chosen.run()
    train = chosen.history[0]["train"]
    assert batches == math.ceil(clips / 12)
    assert train["cross_entropy"] == pytest.approx(total / clips, rel=1e-4)
    assert train["accuracy"] == pytest.approx(correct / clips)


def test_a_loss_that_is_not_finite_names_the_batchs_clips(fit):
    chosen = fit()
    last_bias = chosen.learner.model.trainable_variables[-1]
    last_bias.assign(np.full(last_bias.shape, np.nan))
    with pytest.raises(
        TrainingError, match=r"epoch 1/2, batch 1: the loss is nan. Clips.*ravdess/clip-\d\d-\d\d\d"
    ):
        chosen.run()


def test_an_output_that_is_not_finite_names_the_clips(fit):
    chosen = fit(epochs=1)
    *_, variance = (v for v in chosen.learner.model.variables if v.path.endswith("_variance"))
    variance.assign(np.full(variance.shape, -1e6))  # finite, its root is not; training reads it not
    said = (
        r": the model's output is not finite for 6 of 6: "
        r"(ravdess/clip-0{}-\d{{3}}, ){{4}}.* and 1 "
    )
    with pytest.raises(TrainingError, match=r"^epoch 1/1, the clips to select on" + said.format(2)):
        chosen.run()
    with pytest.raises(TrainingError, match="^the held-out clips" + said.format(1)):
        chosen.predict_held_out()


def test_a_checkpoint_of_another_model_is_refused(fit, settings):
    fit()._save()
    wider = dataclasses.replace(settings().model, tcn_filters=5)
    with pytest.raises(checkpoint.CheckpointError, match="is of another model"):
        fit(model=wider)


def test_inner_selection_takes_another_fold_and_leaves_the_held_out_one_alone(
    fake_data_dir, settings
):
    data = Data(fake_data_dir, settings(fold=4))
    assert data.selection is not None
    parts = [set(part.actors) for part in (data.train, data.selection, data.held_out)]
    assert [len(part) for part in parts] == [3, 1, 1]
    assert set.union(*parts) == {f"ravdess/{actor:02d}" for actor in range(1, 6)}
    assert data.held_out.actors == ["ravdess/05"]


@pytest.mark.parametrize("select_on", ["inner", "held_out", "none"])
def test_the_streams_hold_the_clips_that_the_parts_name(fake_data_dir, settings, select_on):
    chosen = settings(select_on=select_on, lr_schedule="constant", epochs=1, augment=None)
    data = Data(fake_data_dir, chosen, num_threads=1)

    def ids(dataset):
        return sorted(i.decode() for f, _ in dataset for i in f["example_id"].numpy())

    def of(part):
        return sorted(record.example_id for record in part.records)

    assert ids(data.training_batches(0, 0)[0]) == of(data.train)
    assert ids(data.batches_of(data.held_out)) == of(data.held_out)
    if data.selection:
        assert ids(data.batches_of(data.selection)) == of(data.selection)


def test_a_data_set_without_what_is_asked_for_is_refused(fake_data_dir, settings):
    with pytest.raises(DataError, match=r"--fold=5: protocol actor has folds 0 to 4"):
        Data(fake_data_dir, settings(fold=5))
    with pytest.raises(DataError, match="num_classes=8, but it was built with 6 classes"):
        Data(fake_data_dir, settings(features=Features("landmarks", num_classes=8)))


def test_a_fold_without_clips_is_refused(tmp_path, settings):
    from emotion_tfdata import testing

    testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=3))
    with pytest.raises(
        DataError, match=r"fold 4 of 5 \(actor protocol\) holds no clip; folds with clips: 0, 1, 2"
    ):
        Data(str(tmp_path), settings(fold=4))
    assert filled_folds(Manifest.load(str(tmp_path)), "actor") == [0, 1, 2]
    assert Data(str(tmp_path), settings(fold=2)).validation_fold == 0


def test_one_actor_is_told_what_it_can_be_trained_with(tmp_path, settings):
    from emotion_tfdata import testing

    testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=1, clips_per_actor=30))
    for select_on in ("inner", "held_out"):
        with pytest.raises(DataError, match="or --protocol=random, which"):
            Data(str(tmp_path), settings(select_on=select_on))
    assert Data(str(tmp_path), settings(protocol="random")).train.records


def test_two_actors_are_told_to_select_on_the_held_out_one(tmp_path, settings):
    from emotion_tfdata import testing

    testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=2))
    with pytest.raises(DataError, match="or --select_on=held_out, which flatters"):
        Data(str(tmp_path), settings())
    assert Data(str(tmp_path), settings(select_on="held_out")).train.records


def test_balanced_weights_make_up_for_rare_classes(tmp_path, settings):
    from emotion_tfdata import testing

    examples = [e for e in testing.fake_examples() if e.emotion != "sad" or int(e.actor) % 2]
    testing.write_data_set(str(tmp_path), examples)
    data = Data(str(tmp_path), settings(class_weights="balanced", select_on="held_out"))
    clips = np.array([4, 4, 2, 4, 4, 4])
    np.testing.assert_allclose(data.class_weights(), clips.sum() / 6 / clips, rtol=1e-6)


@pytest.fixture(scope="module")
def finished(fake_data_dir, settings, tmp_path_factory):
    """The folder of a training that is over, and its report."""
    options = run.Options(fake_data_dir, tmp_path_factory.mktemp("finished"), input_threads=1)
    tf.config.run_functions_eagerly(True)
    report = run.train_fold(settings(epochs=1), options, Progress(io.StringIO()))
    tf.config.run_functions_eagerly(False)
    return options, report


def test_a_finished_training_is_not_done_again(finished, settings):
    options, report = finished
    out = io.StringIO()
    assert run.train_fold(settings(epochs=1), options, Progress(out)) == report
    assert "finished; remove it to train it again" in out.getvalue()


def test_a_damaged_report_is_made_again_from_the_checkpoint(finished, settings):
    options, report = finished
    (options.model_dir / run_dir.REPORT_JSON).write_text("{")
    again = run.train_fold(settings(epochs=1), options, Progress(io.StringIO()))
    assert again["held_out"] == report["held_out"]
    assert again["history"] == report["history"]


@pytest.mark.parametrize("damage", ["", "{", "[1]", "{}"])
def test_no_damage_is_taken_for_a_report(tmp_path, damage):
    (tmp_path / run_dir.REPORT_JSON).write_text(damage)
    assert run_dir.read_report(tmp_path) is None


def _temperature_on(part, model, data):
    batches = [(model(x).numpy(), y.numpy()) for x, y, _ in with_ids_apart(data.batches_of(part))]
    return calibration.temperature(*map(np.concatenate, zip(*batches, strict=True)))


def test_the_saved_model_says_what_the_predictions_say(finished, fake_data_dir, settings):
    folder = finished[0].model_dir
    model = keras.models.load_model(folder / run_dir.BEST_MODEL)
    data = Data(fake_data_dir, settings(epochs=1), num_threads=1)
    with (folder / run_dir.PREDICTIONS).open() as file:
        rows = {row["example_id"]: row for row in csv.DictReader(file)}
    fitted = finished[1]["held_out"]["calibration"]["temperature"]
    assert fitted == pytest.approx(_temperature_on(data.selection, model, data), rel=1e-4)
    seen = 0
    for features, _, ids in with_ids_apart(data.batches_of(data.held_out)):
        calibrated = calibration.scaled(model(features).numpy(), fitted)
        for example_id, shares in zip(ids, calibrated, strict=True):
            written = [float(rows[example_id][name]) for name in class_names(6)]
            np.testing.assert_allclose(shares, written, atol=2e-6)
            seen += 1
    assert seen == len(rows) == 6
