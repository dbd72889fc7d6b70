from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata import testing
from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.table import Table
from emotion_tfdata.stream import reader

_EXAMPLE = testing.fake_examples(num_actors=1, clips_per_actor=1)[0]


def _read(tmp_path, *records):
    """Reads the records from a shard of which they are all: their bytes and what is wrong."""
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    lengths = [len(record) for record in records]
    count = len(records)
    table = Table(
        example_ids=np.array([_EXAMPLE.example_id] * count),
        keys=np.zeros(count, np.int64),
        labels=np.zeros(count, np.int32),
        audio_frames=np.full(count, len(_EXAMPLE.audio), np.int32),
        landmarks_frames=np.full(count, len(_EXAMPLE.landmarks), np.int32),
        shards=np.zeros(count, np.int32),
        offsets=np.array([sum(lengths[:i]) + 16 * i for i in range(count)], np.int64),
        lengths=np.array(lengths, np.int64),
        places=np.arange(count),
        paths=np.array([path]),
    )
    wanted = {"audio": ("audio", (8,)), "landmarks": ("landmarks", (6, 3))}
    contents, problem = reader.read_examples(table, tf.range(count), wanted)
    return table, contents, [words.decode() for words in problem.numpy()]


def _changed(change):
    record = tf.train.Example.FromString(schema.encode(_EXAMPLE))
    change(record.features.feature)
    return record.SerializeToString()


def test_the_bytes_of_sound_records_come_back(tmp_path):
    _, contents, problems = _read(tmp_path, *[schema.encode(_EXAMPLE)] * 2)
    assert problems == ["", ""]
    for name, values in contents.items():
        assert values[1].numpy() == schema.stored_arrays(_EXAMPLE)[name].tobytes()


def _shorten(features):
    features["audio"].bytes_list.value[0] = features["audio"].bytes_list.value[0][:-2]


def _remove(features):
    del features["landmarks"]


def _flatten(features):
    features["landmarks_shape"].int64_list.value.pop()


def _rename(features):
    features["example_id"].bytes_list.value[0] = b"ravdess/another"


def _transpose(features):
    shape = features["landmarks_shape"].int64_list.value
    shape[1], shape[2] = shape[2], shape[1]


def _lengthen(features):
    features["audio_shape"].int64_list.value[0] += 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_shorten, "audio does not have the bytes its shape needs"),
        (_remove, "no tf.train.Example that has example_id, audio, audio_shape, landmarks"),
        (_flatten, "no tf.train.Example that has example_id, audio, audio_shape, landmarks"),
        (_rename, "holds another record"),
        (_transpose, "landmarks has another shape than the manifest says"),
        (_lengthen, "audio has another shape than the manifest says"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_and_its_neighbours_are_read(
    tmp_path, change, expected
):
    whole = schema.encode(_EXAMPLE)
    _, contents, problems = _read(tmp_path, whole, _changed(change), whole)
    assert problems[1].startswith(expected)
    assert (problems[0], problems[2]) == ("", "")
    assert contents["audio"][2].numpy() == schema.stored_arrays(_EXAMPLE)["audio"].tobytes()


def test_bytes_that_are_no_example_are_told_from_bytes_that_cannot_be_read(tmp_path):
    table, _, problems = _read(tmp_path, schema.encode(_EXAMPLE), b"\xff\xff\xff")
    assert problems[1].startswith("no tf.train.Example that has")
    content = bytearray((tmp_path / "shard").read_bytes())
    content[-6] ^= 1
    (tmp_path / "shard").write_bytes(content)
    wanted = {"audio": ("audio", (8,))}
    _, problem = reader.read_examples(table, tf.range(2), wanted)
    assert problem[1].numpy() == b"missing, cut short, or its bytes do not match their checksum"


def test_a_problem_is_raised_with_shard_and_record(tmp_path):
    table, _, problems = _read(tmp_path, schema.encode(_EXAMPLE), _changed(_rename))
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="shard: record ravdess/clip-01-000: holds another record",
    ):
        reader.assert_sound(table, tf.range(2), tf.constant(problems))
    reader.assert_sound(table, tf.range(1), tf.constant([""]))


def test_everything_is_read_in_order_whatever_is_corrupt(tmp_path):
    whole = schema.encode(_EXAMPLE)
    table, *_ = _read(tmp_path, *[whole] * 40, _changed(_rename), *[whole] * 9)
    contents, sound, named = reader.read_all(table, {"audio": ("audio", (8,))}, num_threads=2)
    assert np.flatnonzero(~sound).tolist() == [40]
    assert len(named) == 1
    assert named[0].endswith("shard: record ravdess/clip-01-000: holds another record")
    assert contents["audio"].shape == (50,)
