from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata import Features, make_dataset
from emotion_tfdata.labels import EMOTIONS
from emotion_tfdata.models import ModelConfig
from emotion_tfdata.stream.level import clip_level
from emotion_tfdata.training import export
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.settings import Settings


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 40))
def test_it_is_the_mean_over_the_frames_that_count(seed, frames):
    rng = np.random.default_rng(seed)
    energies = rng.normal(-40, 20, (2, frames, 5)).astype(np.float32)
    valid = rng.random((2, frames)) < 0.6
    expected = [
        clip[mask].mean() if mask.any() else 0 for clip, mask in zip(energies, valid, strict=True)
    ]
    np.testing.assert_allclose(clip_level(energies, valid), expected, rtol=1e-5)


def test_padding_does_not_change_a_bit_of_stored_energies():
    stored = np.random.default_rng(0).integers(-12_800, 0, (1, 3000, 80)).astype(np.int16)
    valid = np.ones((1, 3000), bool)
    expected = np.float32(stored.mean(dtype=np.float64))
    for padding in (0, 1, 7, 500):
        longer = np.pad(stored, [(0, 0), (0, padding), (0, 0)], constant_values=77)
        mask = np.pad(valid, [(0, 0), (0, padding)])
        level = tf.function(clip_level, jit_compile=True)(longer, mask).numpy()
        assert level == expected
        # In dB it is the same number: a step is a power of two.
        assert clip_level(longer / np.float32(128), mask).numpy() * 128 == expected


def test_an_exported_model_counts_from_the_same_level(fake_data_dir):
    relative = Features("audio", trim_silence_db=8.0, relative_level=True)
    chosen = Settings(
        name="level", model=ModelConfig(modalities="audio"), features=relative, fold=1
    )
    data = Data(fake_data_dir, chosen, num_threads=1)
    heard = {}

    class Listener:
        """Takes what a model is given."""

        config = chosen.model

        def logits(self, features, training):
            heard.update(features)
            return tf.zeros([1, 6])

    views = {"audio": export.view_of(data, "audio")}
    serve, _ = export.serving_function(Listener(), views, relative, EMOTIONS[:6])
    raw = make_dataset(fake_data_dir, "test", fold=1, features=Features("audio", normalize=False))
    held_out = data.batches_of(data.held_out)
    for (features, _), (expected, _) in zip(raw, held_out, strict=True):
        serve(features)
        mask = expected["audio_mask"].numpy()
        np.testing.assert_array_equal(heard["audio_mask"], mask)
        served = heard["audio"].numpy()[mask]
        np.testing.assert_allclose(served, expected["audio"].numpy()[mask], atol=1e-4)
        assert mask.sum() < features["audio_mask"].numpy().sum()
