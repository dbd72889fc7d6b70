"""A training small enough for tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emotion_tfdata.augment import Augment
from emotion_tfdata.features import Features
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.fit import Fit
from emotion_tfdata.training.progress import Progress
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


@pytest.fixture(scope="session")
def settings() -> Callable[..., Settings]:
    """Makes settings of a small training, with the given changes."""
    return small_settings


@pytest.fixture
def quiet() -> Progress:
    """Progress that nobody sees."""
    return Progress(io.StringIO())


@pytest.fixture
def fit(fake_data_dir: str, tmp_path: Path, quiet: Progress) -> Callable[..., Fit]:
    """Makes a training in a folder of its own, or resumes the one in `name`."""

    def make(name="m", should_stop=lambda: False, every_s=1e9, **changes) -> Fit:
        (tmp_path / name).mkdir(exist_ok=True)
        chosen = small_settings(**changes)
        return Fit(
            chosen,
            Data(fake_data_dir, chosen, num_threads=1),
            tmp_path / name,
            checkpoint_every_s=every_s,
            should_stop=should_stop,
            progress=quiet,
        )

    return make


def small_settings(**changes) -> Settings:
    chosen: dict[str, Any] = {
        "name": "test",
        "model": SMALL_MODEL,
        "augment": Augment(),
        "features": Features("landmarks"),
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
