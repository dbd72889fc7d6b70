"""Learning rate, best epoch and stop against Keras's own callbacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata.training.schedules import Schedule


def schedule(**changes) -> Schedule:
    settings: dict[str, Any] = {
        "learning_rate": 0.001,
        "epochs": 30,
        "kind": "plateau",
        "lr_factor": 0.5,
        "lr_patience": 3,
        "min_learning_rate": 1e-4,
        "stop_patience": 0,
    }
    return Schedule(**settings | changes)


class FakeModel:
    """As much of a model as Keras's callbacks ask for."""

    def __init__(self):
        self.optimizer = keras.optimizers.SGD(0.001)
        self.stop_training = False


losses = st.lists(st.integers(0, 40).map(lambda eighths: eighths / 8), min_size=1, max_size=30)


@given(losses, st.sampled_from([1e-4, 0.01]))
def test_plateau_gives_the_rates_of_keras_reduce_lr_on_plateau(losses, least):
    ours, model = schedule(min_learning_rate=least), FakeModel()
    callback = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=3, min_delta=0, min_lr=least
    )
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        assert ours.rate_of(epoch) == pytest.approx(float(model.optimizer.learning_rate), rel=1e-6)
        ours.observe(epoch, -loss)
        callback.on_epoch_end(epoch, {"loss": loss})


@given(losses)
def test_it_stops_and_chooses_as_keras_early_stopping(losses):
    ours, model = schedule(stop_patience=4), FakeModel()
    callback = keras.callbacks.EarlyStopping(monitor="loss", patience=4, min_delta=0)
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        ours.observe(epoch, -loss)
        callback.on_epoch_end(epoch, {"loss": loss})
        assert ours.should_stop == model.stop_training
        assert ours.best_epoch == callback.best_epoch
        if model.stop_training:
            break


def test_cosine_is_that_of_keras_epoch_by_epoch():
    ours = schedule(kind="cosine")
    expected = keras.optimizers.schedules.CosineDecay(0.001, decay_steps=30)
    rates = [ours.rate_of(epoch) for epoch in range(30)]
    np.testing.assert_allclose(rates, [float(expected(epoch)) for epoch in range(30)], rtol=1e-5)


def test_constant_stays_whatever_is_observed():
    ours = schedule(kind="constant")
    for epoch in range(20):
        assert ours.rate_of(epoch) == 0.001
        ours.observe(epoch, 0.0)


@given(losses, st.integers(0, 29))
def test_restored_state_resumes_as_the_unbroken_one(losses, at):
    unbroken, first = schedule(stop_patience=5), schedule(stop_patience=5)
    for epoch, loss in enumerate(losses):
        if epoch == at:
            second = schedule(stop_patience=5)
            second.restore(first.state())
            first = second
        assert unbroken.observe(epoch, -loss) == first.observe(epoch, -loss)
        assert unbroken == first


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="epoch 1: the score to select on is not a number"):
        schedule().observe(0, float("nan"))
