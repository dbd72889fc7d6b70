from __future__ import annotations

import pytest
import tensorflow as tf

from emotion_tfdata import reader, schema, testing

_EXAMPLE = testing.fake_examples(num_actors=1, clips_per_actor=1)[0]


def _read(tmp_path, *records):
    """Reads the records from a shard of which they are all."""
    path = str(tmp_path / "shard")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    lengths = [len(record) for record in records]
    return reader.read_examples(
        tf.constant([path] * len(records)),
        tf.constant([sum(lengths[:i]) + 16 * i for i in range(len(records))], tf.int64),
        tf.constant(lengths, tf.int64),
        tf.constant([_EXAMPLE.example_id] * len(records)),
        ["audio", "landmarks"],
    )


def _changed(change):
    record = tf.train.Example.FromString(schema.encode(_EXAMPLE))
    change(record.features.feature)
    return record.SerializeToString()


def test_bytes_and_shapes_come_back(tmp_path):
    parsed = _read(tmp_path, *[schema.encode(_EXAMPLE)] * 2)
    stored = schema.stored_arrays(_EXAMPLE)
    for name, (content, shapes) in parsed.items():
        assert content[1].numpy() == stored[name].tobytes()
        assert shapes[1].numpy().tolist() == list(stored[name].shape)


def _shorten(features):
    features["audio"].bytes_list.value[0] = features["audio"].bytes_list.value[0][:-2]


def _remove(features):
    del features["landmarks"]


def _flatten(features):
    features["landmarks_shape"].int64_list.value.pop()


def _rename(features):
    features["example_id"].bytes_list.value[0] = b"ravdess/another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shorten, "audio does not have the bytes its shape needs"),
        (_remove, r"no tf\.train\.Example that has example_id, audio, .*landmarks_shape"),
        (_flatten, r"no tf\.train\.Example that has example_id, audio, .*landmarks_shape"),
        (_rename, "holds another record"),
    ],
)
def test_a_record_that_does_not_fit_is_named_with_shard_and_problem(tmp_path, change, message):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"shard: record ravdess/clip-01-000: {message}"
    ):
        _read(tmp_path, schema.encode(_EXAMPLE), _changed(change))


def test_bytes_that_are_no_example_are_named(tmp_path):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"shard: record ravdess/clip-01-000: no tf\.train"
    ):
        _read(tmp_path, schema.encode(_EXAMPLE), b"\xff\xff\xff")


def test_an_array_of_another_shape_than_the_manifest_says_is_named():
    shapes = tf.constant([[10, 8], [11, 8], [10, 7]], tf.int64)
    names = tf.constant(["a", "b", "c"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="b: record b: audio has another") as e:
        reader.assert_shapes(shapes, tf.constant([10, 10, 10]), [8], names, names, "audio")
    assert "c: record c" in str(e.value)
    assert "a: record a" not in str(e.value)
