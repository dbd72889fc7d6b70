"""Keras's backend, which must be TensorFlow: the models' layers are made of its operations."""

from __future__ import annotations

import os


def check() -> None:
    """Refuse any backend of Keras but TensorFlow.

    Raises:
      ImportError: if it is another than TensorFlow.
    """
    try:
        import keras

        backend = keras.config.backend()
    except ImportError as error:
        if error.name == "keras":
            raise
        # Keras does not load without the package that it is set to.
        backend = os.environ.get("KERAS_BACKEND", error.name)
    if backend != "tensorflow":
        raise ImportError(
            f"emotion_tfdata's models need Keras on TensorFlow, and it is set to {backend!r}, by "
            "KERAS_BACKEND or ~/.keras/keras.json: set KERAS_BACKEND=tensorflow before Keras is "
            "imported. make_dataset works with any backend"
        )
