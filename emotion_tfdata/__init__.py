"""tf.data pipelines for emotion recognition from voice and face."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_tfdata.augment.config import Augment
    from emotion_tfdata.features import Features, Reading
    from emotion_tfdata.records import Records
    from emotion_tfdata.stream.allocator import keep_freed_memory
    from emotion_tfdata.stream.pipeline import class_weights, make_dataset

__version__ = "0.1.0"
__all__ = [
    "Augment",
    "Features",
    "Reading",
    "Records",
    "class_weights",
    "keep_freed_memory",
    "make_dataset",
]

# Looked up when first used: what reads no tensors must not wait for TensorFlow to load.
_HOMES = {
    "Augment": "emotion_tfdata.augment.config",
    "Features": "emotion_tfdata.features",
    "Reading": "emotion_tfdata.features",
    "Records": "emotion_tfdata.records",
    "class_weights": "emotion_tfdata.stream.pipeline",
    "keep_freed_memory": "emotion_tfdata.stream.allocator",
    "make_dataset": "emotion_tfdata.stream.pipeline",
}


_OLDEST_TENSORFLOW = (2, 16)
_WITHOUT_TENSORFLOW = tuple(
    f"emotion_tfdata.{name}" for name in ("augment.config", "features", "records")
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] not in _WITHOUT_TENSORFLOW:
        _check_tensorflow()
    return getattr(importlib.import_module(_HOMES[name]), name)


def _check_tensorflow() -> None:
    """Say what is missing before an import fails in the middle of it.

    Raises:
      ImportError: for a TensorFlow that is too old.
    """
    import tensorflow as tf

    found = tuple(int(number) for number in tf.__version__.split(".")[:2])
    if found < _OLDEST_TENSORFLOW:
        raise ImportError(
            f"emotion_tfdata needs TensorFlow {'.'.join(map(str, _OLDEST_TENSORFLOW))} or later, "
            f"this is {tf.__version__}: pip install --upgrade tensorflow"
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
