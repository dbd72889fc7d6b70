"""A training small enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emotion_tfdata.augment import Augment
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training.settings import Settings

# Sizes of `emotion_tfdata.testing`'s made-up data, and a network that starts quickly. It has all
# that a training keeps: kernels, moving statistics and dropout's generators.
SMALL_MODEL = ModelConfig(
    modalities="landmarks",
    num_audio_features=8,
    num_landmarks=6,
    tcn_filters=4,
    tcn_dilations=(1,),
    video_dense_units=8,
    joined_units=(8, 8),
    bn_momentum=0.9,
)


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Makes settings of a small training, with the given changes."""
    return small_settings


def small_settings(**changes) -> Settings:
    chosen: dict[str, Any] = {
        "name": "test",
        "model": SMALL_MODEL,
        "augment": Augment(),
        "modalities": "landmarks",
        "landmarks": "all",
        "num_classes": 6,
        "trim_silence_db": 0.0,
        "protocol": "actor",
        "fold": 0,
        "select_on": "inner",
        "select_by": "loss",
        "batch_size": 12,
        "epochs": 2,
        "learning_rate": 0.01,
        "lr_schedule": "plateau",
        "lr_factor": 0.5,
        "lr_patience": 1,
        "min_learning_rate": 1e-5,
        "early_stopping": 0,
        "class_weights": "none",
        "label_smoothing": 0.0,
        "clip_norm": 0.0,
        "seed": 0,
    }
    return Settings(**chosen | changes)
