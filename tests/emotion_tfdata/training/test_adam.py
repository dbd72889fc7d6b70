"""Adam in one operation: the published algorithm, and Keras's but for rounding."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from emotion_tfdata.training.adam import Adam

RATES = (0.1, 0.05, 0.2, 0.025)


def moved(optimizer, start, gradients, dtype):
    """A weight, and what the optimizer keeps, after a step with each gradient."""
    variable = keras.Variable(start, dtype=dtype)
    optimizer.build([variable])
    for rate, gradient in zip(RATES, gradients, strict=True):
        optimizer.learning_rate.assign(rate)
        optimizer.apply([gradient], [variable])
    return [np.array(v) for v in (variable, *optimizer.variables)]


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-8)])
def test_it_is_kingma_and_bas_algorithm_and_keras_own(dtype, atol):
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((4, 4, 3))
    ours = moved(Adam(), start, gradients, dtype)
    weight, m, v = start, 0, 0
    for t, (rate, g) in enumerate(zip(RATES, gradients, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        weight = weight - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(ours[0], weight, atol=atol)
    # Keras casts its constants by way of float32.
    expected = moved(keras.optimizers.Adam(), start, gradients, dtype)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
