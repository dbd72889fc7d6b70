"""The assertions that other people's tests rest on must fail where they should."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata import testing


def test_streams_that_differ_in_one_bit_are_told_apart():
    one = [({"x": np.float32([1, 2])}, np.int32([0]))]
    testing.assert_same_stream(one, one)
    other = [({"x": np.nextafter(np.float32([1, 2]), np.float32(9))}, np.int32([0]))]
    with pytest.raises(AssertionError, match=r"batch 0, tensor 0.*differs: float32\(2,\)"):
        testing.assert_same_stream(one, other)
    with pytest.raises(AssertionError, match="1 batches, expected 2"):
        testing.assert_same_stream(one, one * 2)
    testing.assert_same_stream([np.float32([np.nan])], [np.float32([np.nan])])
    with pytest.raises(AssertionError):
        testing.assert_same_stream([np.float32([0.0])], [np.float32([-0.0])])


def test_a_stream_that_starts_wrong_is_caught():
    def right(epoch, batch):
        return tf.data.Dataset.range(4 * epoch + batch, 8)

    def wrong(epoch, batch):
        return tf.data.Dataset.range(4 * epoch + max(batch - 1, 0), 8)

    testing.assert_resumes_at_every_batch(right, num_epochs=2)
    with pytest.raises(AssertionError, match="batch 0, tensor 0"):
        testing.assert_resumes_at_every_batch(wrong, num_epochs=2)
