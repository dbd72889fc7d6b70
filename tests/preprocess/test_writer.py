"""Shards: what goes where, what is in them, and what the manifest's numbers are."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.schema import Example
from preprocess.builder import writer
from preprocess.builder.writer import ShardPlan, plan_shards, write_shard
from preprocess.clip.measurements import Measurements


def example(index, audio=True, landmarks=True):
    rng = np.random.default_rng(index)
    rows, frames = int(rng.integers(3, 9)) * landmarks, int(rng.integers(10, 30)) * audio
    valid = rng.uniform(size=rows) < 0.7
    points = rng.normal(0, 1, (rows, 5, 3)).clip(-3.9, 3.9)
    points[~valid] = 0
    return Example(
        example_id=f"ravdess/{index:03d}",
        corpus="ravdess",
        actor=f"{index % 7:02d}",
        emotion="happy",
        intensity="normal",
        sentence="01",
        audio=rng.normal(-50, 20, (frames, 4)).astype(np.float32),
        landmarks=points.astype(np.float32),
        landmarks_valid=valid,
        head=np.ones((rows, 4), np.float32),
    )


EXAMPLES = {f"ravdess/{index:03d}": example(index) for index in range(12)}
RANDOM_FOLDS = {name: index % 3 for index, name in enumerate(EXAMPLES)}
MODALITIES = schema.modalities(4, 5)
NAME = "fold-1-of-5.tfrecord-00000-of-00001"


MEASURED = {name: Measurements(-float(index)) for index, name in enumerate(EXAMPLES)}


def load(example_id):
    return EXAMPLES[example_id], MEASURED[example_id]


def write(tmp_path, ids=tuple(EXAMPLES), name=NAME, fold=1):
    plan = ShardPlan(name, fold, tuple(ids), tuple(RANDOM_FOLDS[each] for each in ids))
    return write_shard(tmp_path, plan, load, MODALITIES)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50_000)), min_size=1, max_size=40),
    max_bytes=st.integers(60_000, 200_000),
)
@settings(max_examples=50, deadline=None)
def test_every_clip_stands_once_in_a_shard_of_its_fold(sizes, max_bytes):
    clips = [(f"c/{index:03d}", fold, index % 5, size) for index, (fold, size) in enumerate(sizes)]
    plans = plan_shards(clips, 5, max_bytes)
    assert plans == plan_shards(clips[::-1], 5, max_bytes)
    folds = {example_id: fold for example_id, fold, _, _ in clips}
    size_of = {example_id: size for example_id, _, _, size in clips}
    random_folds = {example_id: fold for example_id, _, fold, _ in clips}
    placed = [(example_id, plan.fold) for plan in plans for example_id in plan.example_ids]
    assert sorted(placed) == sorted(folds.items())
    for fold in range(5):
        names = [plan.name for plan in plans if plan.fold == fold]
        count = len(names)
        assert names == [f"fold-{fold}-of-5.tfrecord-{i:05d}-of-{count:05d}" for i in range(count)]
    for plan in plans:
        assert list(plan.example_ids) == sorted(plan.example_ids)
        assert list(plan.random_folds) == [random_folds[name] for name in plan.example_ids]
        assert sum(size_of[example_id] for example_id in plan.example_ids) <= max_bytes


def test_shards_may_keep_folds_of_another_protocol_apart_as_well():
    clips = [(f"c/{index:02d}", index % 2, index % 3, 10) for index in range(12)]
    random_folds = {example_id: random_fold for example_id, _, random_fold, _ in clips}
    plans = plan_shards(clips, 3, 10**6, random_folds)
    assert [plan.name for plan in plans][:2] == [
        "fold-0-of-3-part-0.tfrecord-00000-of-00001",
        "fold-0-of-3-part-1.tfrecord-00000-of-00001",
    ]
    assert len(plans) == 6
    for plan in plans:
        assert {random_folds[example_id] for example_id in plan.example_ids} == {
            int(plan.name.split("-part-")[1][0])
        }
    assert sorted(name for plan in plans for name in plan.example_ids) == sorted(random_folds)


def test_a_clip_larger_than_a_shard_has_one_of_its_own():
    plans = plan_shards([("a", 0, 0, 10), ("b", 0, 1, 10**6), ("c", 0, 2, 10)], 5, 10**4)
    assert [plan.example_ids for plan in plans] == [("a",), ("b",), ("c",)]


def test_a_shard_holds_the_examples_in_order(tmp_path):
    import tensorflow as tf

    write(tmp_path)
    payloads = tf.data.TFRecordDataset(str(tmp_path / NAME)).as_numpy_iterator()
    assert list(payloads) == [schema.encode(each) for each in EXAMPLES.values()]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_manifest_s_numbers_of_a_shard_are_those_of_its_file(tmp_path):
    written = write(tmp_path)
    shard = written.shard
    content = (tmp_path / NAME).read_bytes()
    assert (shard.name, shard.bytes, shard.records) == (NAME, len(content), len(EXAMPLES))
    assert shard.sha256 == hashlib.sha256(content).hexdigest()
    for record in written.records:
        whole = EXAMPLES[record.example_id]
        payload = content[record.offset + 12 : record.offset + 12 + record.length]
        assert payload == schema.encode(whole)
        assert record.frames == {"audio": len(whole.audio), "landmarks": len(whole.landmarks)}
        assert record.valid_frames == {"landmarks": whole.landmarks_valid.sum()}
        assert record.random_fold == RANDOM_FOLDS[record.example_id]
        assert (record.actor, record.emotion) == (whole.actor, whole.emotion)


def test_no_record_is_larger_than_the_plan_reckons():
    for each in EXAMPLES.values():
        arrays = sum(array.nbytes for array in schema.stored_arrays(each).values())
        assert len(schema.encode(each)) < arrays + writer._TEXT_BYTES


def test_statistics_of_any_grouping_are_numpy_s_over_its_records(tmp_path):
    ids = list(EXAMPLES)
    parts = ((0, ids[:5]), (1, ids[5:8]), (1, ids[8:]))
    shards = [write(tmp_path, part, f"shard-{number}", f) for number, (f, part) in enumerate(parts)]
    manifest = writer.make_manifest(
        shards,
        provenance="",
        classes=("happy",),
        num_folds=3,
        modalities=MODALITIES,
        settings={},
        skipped=(),
    )
    statistics, index = manifest.statistics, manifest.index
    choices = np.random.default_rng(0).random((20, len(index.actor_names))) < 0.5
    for modality in MODALITIES:
        for chosen in choices:
            moments = statistics.by_actor[modality].total(chosen)
            check(moments, [name for name, a in zip(ids, index.actors, strict=True) if chosen[a]])
        for fold in range(3):
            moments = manifest.moments(modality, "random", [fold])
            check(moments, [name for name in ids if RANDOM_FOLDS[name] == fold])


def check(moments, names):
    """Compares with numpy over the rows of some clips, of the modality that has their shape."""
    modality = "audio" if moments.mean.shape == (4,) else "landmarks"
    stored = [schema.decode(schema.encode(EXAMPLES[name])) for name in names]
    rows = [schema.valid_rows(each, MODALITIES)[modality] for each in stored]
    assert moments.count == sum(map(len, rows))
    if moments.count:
        every = np.concatenate(rows).astype(np.float64)
        np.testing.assert_allclose(moments.mean, every.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(moments.deviation, every.std(axis=0), atol=1e-9)


def test_a_shard_that_does_not_read_back_as_written_is_not_kept(tmp_path, monkeypatch):
    whole = writer.digest_of

    def of_a_bad_disk(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        return whole(path)

    monkeypatch.setattr(writer, "digest_of", of_a_bad_disk)
    with pytest.raises(OSError, match="does not read back as it was written"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_was_measured_of_a_clip_goes_with_its_shard(tmp_path):
    assert write(tmp_path).measurements == MEASURED


def test_an_interrupted_shard_leaves_nothing(tmp_path):
    def interrupted(example_id):
        if example_id == "ravdess/005":
            raise KeyboardInterrupt
        return load(example_id)

    plan = ShardPlan(NAME, 1, tuple(EXAMPLES), tuple(RANDOM_FOLDS.values()))
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, plan, interrupted, MODALITIES)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_take_a_shard_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=NAME):
        write(tmp_path / "missing")
