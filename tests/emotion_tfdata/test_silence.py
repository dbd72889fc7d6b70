"""Silence before and after a clip's sound, against a plain search and in the stream."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata import Features, make_dataset
from emotion_tfdata.stream.silence import sounding


@given(
    st.lists(st.lists(st.integers(-100, 0), min_size=9, max_size=9), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(1, 60),
)
def test_what_is_kept_lies_between_the_first_and_the_last_loud_frame(levels, frames, range_db):
    energies = np.array(levels, np.int16)[..., None] - np.array([0, 5], np.int16)
    valid = np.broadcast_to(np.arange(9) < frames, energies.shape[:2])
    kept = sounding(tf.constant(energies), tf.constant(valid), float(range_db)).numpy()
    for row, level in zip(kept, levels, strict=True):
        real = level[:frames]
        loud = [i for i, value in enumerate(real) if value >= max(real) - range_db]
        expected = [bool(loud) and loud[0] <= i <= loud[-1] for i in range(9)]
        assert row.tolist() == expected


def test_a_stream_masks_the_silence_and_nothing_else(fake_data_dir):
    def batches(**options):
        features = Features(normalize=False, **options)
        stream = make_dataset(fake_data_dir, "test", features=features)
        return [features for features, _ in stream]

    for whole, trimmed in zip(batches(), batches(trim_silence_db=20.0), strict=True):
        kept, there = trimmed["audio_mask"].numpy(), whole["audio_mask"].numpy()
        level = np.where(there, whole["audio"].numpy().max(axis=2), -np.inf)
        for clip in range(len(level)):
            loud = np.flatnonzero(level[clip] >= level[clip].max() - 20)
            np.testing.assert_array_equal(np.flatnonzero(kept[clip]), range(loud[0], loud[-1] + 1))
        assert (kept.sum(axis=1) < there.sum(axis=1)).any()
        expected = np.where(kept[..., None], whole["audio"].numpy(), 0)
        np.testing.assert_array_equal(trimmed["audio"].numpy(), expected)
        for name in ("landmarks", "landmarks_mask"):
            np.testing.assert_array_equal(trimmed[name].numpy(), whole[name].numpy())


def test_a_range_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"trim_silence_db must be in \(0, 200\), got 0"):
        Features(trim_silence_db=0)
