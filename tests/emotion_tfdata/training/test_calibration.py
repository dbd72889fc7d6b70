"""Calibration figures and temperature, against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from emotion_tfdata.training import calibration


@pytest.fixture(scope="module")
def overconfident():
    """Probabilities that say more than is so, and labels drawn from softer ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 6))
    labels = np.array([rng.choice(6, p=p) for p in softmax(1.5 * logits, axis=1)])
    return softmax(4 * logits, axis=1).astype(np.float32), labels, 4 * logits


def test_temperature_is_the_minimum_that_scipy_finds(overconfident):
    probabilities, labels, logits = overconfident

    def loss(log_temperature):
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    expected = np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)
    fitted = calibration.temperature(probabilities, labels)
    assert fitted == pytest.approx(expected, rel=1e-4)
    after = calibration.scaled(probabilities, fitted)
    np.testing.assert_allclose(after, softmax(logits / fitted, axis=1), atol=1e-5)
    before = calibration.figures(probabilities, labels)
    better = calibration.figures(after, labels)
    for name in ("cross_entropy", "brier", "ece"):
        assert better[name] < before[name]


def test_figures_are_those_of_scikit_learn(overconfident):
    probabilities, labels, _ = overconfident
    found = calibration.figures(probabilities, labels)
    assert found["cross_entropy"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    brier = np.square(probabilities - np.eye(6)[labels]).sum(axis=1).mean()
    assert found["brier"] == pytest.approx(brier, rel=1e-5)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=calibration.NUM_BINS)
    bins = found["bins"]
    filled = np.array(bins["clips"]) > 0
    np.testing.assert_allclose(np.array(bins["accuracy"])[filled], accuracy)
    np.testing.assert_allclose(np.array(bins["confidence"])[filled], mean, rtol=1e-6)
    weights = np.array(bins["clips"])[filled] / len(labels)
    assert found["ece"] == pytest.approx((weights * abs(accuracy - mean)).sum())


def test_a_model_that_is_always_right_gets_the_least_temperature():
    assert calibration.temperature(np.eye(3) * 0.4 + 0.2, np.arange(3)) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no clips"):
        calibration.temperature(np.zeros((0, 3)), np.zeros(0, int))
