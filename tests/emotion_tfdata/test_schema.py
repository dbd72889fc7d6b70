from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata import testing
from emotion_tfdata.dataset import schema


@pytest.fixture
def example() -> schema.Example:
    return testing.fake_examples(num_actors=1, clips_per_actor=1)[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 12))
def test_what_is_written_is_read_to_within_half_a_step(seed, audio_frames, landmarks_frames):
    rng = np.random.default_rng(seed)
    valid = rng.random(landmarks_frames) > 0.3
    example = schema.Example(
        *("crema_d/1001_DFA_ANG_XX", "crema_d", "1001", "angry", "XX", "DFA"),
        audio=rng.uniform(-120, 40, (audio_frames, 5)).astype(np.float32),
        landmarks=rng.uniform(-3.9, 3.9, (landmarks_frames, 4, 3)).astype(np.float32),
        landmarks_valid=valid,
        head=rng.standard_normal((landmarks_frames, 4)).astype(np.float32),
    )
    back = schema.decode(schema.encode(example))
    for name in schema.TEXT_FEATURES:
        assert getattr(back, name) == getattr(example, name)
    np.testing.assert_allclose(back.audio, example.audio, atol=schema.AUDIO_STEP_DB / 2 + 1e-5)
    np.testing.assert_allclose(
        back.landmarks, example.landmarks, atol=schema.LANDMARKS_STEP / 2 + 1e-7
    )
    np.testing.assert_array_equal(back.landmarks_valid, example.landmarks_valid)
    np.testing.assert_array_equal(back.head, example.head)


def test_landmarks_are_kept_finer_than_float16_would():
    values = np.linspace(1, 4 - 1 / 4096, 3000).reshape(-1, 1, 3)
    fixed = np.rint(values / schema.LANDMARKS_STEP) * schema.LANDMARKS_STEP
    assert np.abs(fixed - values).max() < 0.51 * np.abs(values.astype(np.float16) - values).max()


def test_the_same_example_gives_the_same_bytes(example):
    assert schema.encode(example) == schema.encode(dataclasses.replace(example))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.zeros((3, 8, 1))}, r"clip-01-000: audio has shape \(3, 8, 1\), expected"),
        ({"landmarks_valid": np.ones(2, bool)}, r"landmarks_valid has shape \(2,\), expected \[Tv"),
        ({"head": np.zeros((2, 3))}, r"head has shape \(2, 3\), expected \[Tv, 4\]"),
        ({"audio": np.full((4, 8), np.nan)}, r"audio is not finite at \(0, 0\)"),
        ({"audio": np.full((4, 8), 300.0)}, r"audio reaches 300, more than the 255\.992"),
        ({"emotion": ""}, r"emotion is empty"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_by_name(example, change, message):
    with pytest.raises(schema.SchemaError, match=message):
        schema.encode(dataclasses.replace(example, **change))


def test_a_record_that_does_not_fit_is_refused_by_name(example):
    with pytest.raises(schema.SchemaError, match=r"shard 3, record 5: not a tf\.train\.Example"):
        schema.decode(b"\xff\xff\xff", "shard 3, record 5")
    record = tf.train.Example.FromString(schema.encode(example))
    record.features.feature["landmarks"].bytes_list.value[0] = b"\0" * 7
    with pytest.raises(
        schema.SchemaError, match=r"clip-01-000: landmarks holds 7 bytes, its shape"
    ):
        schema.decode(record.SerializeToString())
    del record.features.feature["audio"]
    with pytest.raises(schema.SchemaError, match="clip-01-000: feature 'audio' is missing"):
        schema.decode(record.SerializeToString())
