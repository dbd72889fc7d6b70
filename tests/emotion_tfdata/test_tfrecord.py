"""The bytes of TFRecord and tf.train.Example, against TensorFlow's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata import testing
from emotion_tfdata.dataset import schema, tfrecord


@pytest.mark.parametrize(
    ("content", "crc"),
    [
        # RFC 3720, appendix B.4, and the check value that catalogues of CRCs give.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksums_are_crc_32c(content, crc):
    assert tfrecord.crc32c(content) == crc


@given(st.lists(st.integers(0, 3000), max_size=4), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_tensorflow_reads_what_is_framed_here(tmp_path_factory, sizes, seed):
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    payloads = [rng.bytes(size) for size in sizes]
    path = tmp_path_factory.mktemp("records") / "a.tfrecord"
    path.write_bytes(b"".join(tfrecord.frame(payload) for payload in payloads))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == payloads
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert path.read_bytes() == b"".join(tfrecord.frame(payload) for payload in payloads)


def test_examples_are_tensorflow_s_own_to_the_byte():
    import tensorflow as tf

    for example in testing.fake_examples()[:5]:
        serialized = schema.encode(example)
        theirs = tf.train.Example.FromString(serialized)
        assert theirs.SerializeToString(deterministic=True) == serialized
        features = theirs.features.feature
        assert features["example_id"].bytes_list.value[0].decode() == example.example_id
        assert tuple(features["landmarks_shape"].int64_list.value) == example.landmarks.shape
        stored = schema.stored_arrays(example)["landmarks"]
        assert features["landmarks"].bytes_list.value[0] == stored.tobytes()


def test_no_tensorflow_is_loaded_for_it(project_dir):
    code = "import sys, emotion_tfdata.dataset.schema; print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project_dir
    )
    assert done.stdout == "False\n"
