from __future__ import annotations

import pytest
import tensorflow as tf

from emotion_tfdata import reader, schema, testing

_EXAMPLE = testing.fake_examples(num_actors=1, clips_per_actor=1)[0]


def _parse(change):
    record = tf.train.Example.FromString(schema.encode(_EXAMPLE))
    change(record.features.feature)
    return reader.parse_records(
        tf.constant([schema.encode(_EXAMPLE), record.SerializeToString()]),
        tf.constant(["shard-a", "shard-b"]),
        tf.constant([_EXAMPLE.example_id] * 2),
        ["audio", "landmarks"],
    )


def test_bytes_and_shapes_come_back():
    parsed = _parse(lambda features: None)
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
        (_shorten, "shard-b: record ravdess/clip-01-000: audio does not have the bytes its shape"),
        (_remove, "shard-b: ravdess/clip-01-000.*landmarks"),
        (_flatten, "shard-b: ravdess/clip-01-000.*landmarks_shape"),
        (_rename, "shard-b: record ravdess/clip-01-000: holds another record"),
    ],
)
def test_a_record_that_does_not_fit_is_named_with_shard_and_feature(change, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        _parse(change)


def test_bytes_that_are_no_example_are_named():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)shard: record.*parse"):
        reader.parse_records(
            *(tf.constant([b"no example"]), tf.constant(["shard"]), tf.constant(["record"])),
            ["audio"],
        )


def test_an_array_of_another_shape_than_the_manifest_says_is_named():
    shapes = tf.constant([[10, 8], [11, 8], [10, 7]], tf.int64)
    names = tf.constant(["a", "b", "c"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="b: record b: audio has another") as e:
        reader.assert_shapes(shapes, tf.constant([10, 10, 10]), [8], names, names, "audio")
    assert "c: record c" in str(e.value)
    assert "a: record a" not in str(e.value)
