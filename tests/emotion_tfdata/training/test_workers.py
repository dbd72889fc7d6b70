"""What workers of one training exchange; `grid/test_on_ray.py` has several train together."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.models import ModelConfig, build_model
from emotion_tfdata.training import run
from emotion_tfdata.training.data import DataError
from emotion_tfdata.training.workers import Workers


def test_a_worker_without_a_row_gives_no_gradient():
    model = build_model(
        ModelConfig(
            num_audio_features=3,
            num_landmarks=2,
            audio_filters=(4, 4),
            audio_lstm_units=(4, 4),
            tcn_filters=4,
            tcn_dilations=(1, 2),
        )
    )
    nothing = {
        "audio": tf.zeros([0, 20, 3]),
        "audio_mask": tf.zeros([0, 20], tf.bool),
        "landmarks": tf.zeros([0, 7, 2, 3]),
        "landmarks_mask": tf.zeros([0, 7], tf.bool),
    }
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model.logits(nothing, training=True))
    for gradient in tape.gradient(total, model.trainable_variables):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_workers_of_other_versions_or_data_are_told():
    class Two(Workers):
        count = 2

        def gather(self, content):
            return [content, content.replace(b"abc", b"def")]

    run.agree(Two(), {"data_manifest_sha256": "012"})
    with pytest.raises(DataError, match=r"worker 1 would not do .* there def, asked for abc"):
        run.agree(Two(), {"data_manifest_sha256": "abc"})


def test_alone_nothing_is_exchanged():
    alone = Workers()
    assert (alone.index, alone.count, alone.is_chief) == (0, 1, True)
    assert alone.run(lambda a, b: a + b, 1, 2) == 3
    assert [alone.any(flag) for flag in (False, True)] == [False, True]
    assert alone.share(lambda: b"x") == b"x"
    assert alone.gather(b"x") == [b"x"]
