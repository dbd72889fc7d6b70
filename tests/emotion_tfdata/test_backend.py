"""Models that are TensorFlow's, where Keras is set to something else."""

from __future__ import annotations

import keras
import pytest

from emotion_tfdata.models import backend


def test_another_backend_is_one_line_that_says_what_to_do(monkeypatch):
    backend.check()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"set to 'jax', by KERAS_BACKEND .*=tensorflow before"):
        backend.check()
