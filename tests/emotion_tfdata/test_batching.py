from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from emotion_tfdata.augment import Augment
from emotion_tfdata.dataset.index import example_key
from emotion_tfdata.dataset.table import Table
from emotion_tfdata.stream import batching


def _table(num_clips: int, seed: int = 0) -> Table:
    durations_s = np.random.default_rng(seed).uniform(2.2, 4.8, num_clips)
    ids = np.array([f"crema_d/{i:04d}" for i in range(num_clips)])
    return Table(
        example_ids=ids,
        keys=np.array([example_key(i) for i in ids], np.int64),
        labels=np.zeros(num_clips, np.int32),
        audio_frames=(durations_s * 100).astype(np.int32) + 1,
        landmarks_frames=(durations_s * 30).astype(np.int32) + 1,
        shards=np.zeros(num_clips, np.int32),
        offsets=np.zeros(num_clips, np.int64),
        lengths=np.zeros(num_clips, np.int64),
        places=np.arange(num_clips),
        paths=np.array(["shard"]),
    )


def _plan(table, augment=None, epoch=0, batch_size=24, shuffle=True, num_buckets=8, seed=0):
    stretch = augment.stretch if augment else (1.0, 1.0)
    buckets = batching.make_buckets(table, num_buckets, stretch)
    plan = batching.plan_epoch(
        table,
        buckets,
        seed=seed,
        epoch=tf.constant(epoch, tf.int64),
        batch_size=batch_size,
        augment=augment,
        shuffle=shuffle,
    )
    return tf.nest.map_structure(lambda values: values.numpy(), plan), buckets


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 3.25])
def test_every_clip_and_the_stated_copies_come_once_an_epoch(factor):
    augment = Augment(factor=factor)
    plan, _ = _plan(_table(100), augment)
    counts = Counter(plan.clip[plan.clip >= 0].tolist())
    assert set(counts) == set(range(100))
    assert sum(counts.values()) == round(100 * factor)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(plan.clip) == batching.num_batches(100, augment, 24)


def test_only_the_last_batch_is_smaller():
    plan, _ = _plan(_table(101), Augment(factor=1.5))
    assert (plan.clip[:-1] >= 0).all()
    assert (plan.clip[-1] >= 0).sum() == (101 + 50) % 24


def test_other_clips_are_copied_every_epoch():
    def copied(epoch):
        plan, _ = _plan(_table(200), Augment(factor=1.5), epoch)
        return {c for c, n in Counter(plan.clip[plan.clip >= 0].tolist()).items() if n == 2}

    assert len(copied(0)) == 100
    assert 25 < len(copied(0) & copied(1)) < 75


@pytest.mark.parametrize("stretch", [(0.8, 1.25), (1.1, 1.1), (1.2, 2.0), (0.5, 0.7), (1, 1)])
def test_every_clip_fits_the_shape_of_its_batch(stretch):
    table = _table(500)
    plan, buckets = _plan(table, Augment(stretch=stretch), num_buckets=6)
    for modality in ("audio", "landmarks"):
        served = getattr(buckets, f"{modality}_frames")[plan.bucket]
        assert (getattr(plan, f"{modality}_frames") <= served[:, None]).all()
        source = getattr(table, f"{modality}_frames")[plan.clip]
        capacity = getattr(buckets, f"source_{modality}_frames")[plan.bucket]
        assert (np.where(plan.clip >= 0, source, 0) <= capacity[:, None]).all()


def test_padding_is_at_most_a_tenth():
    plan, buckets = _plan(_table(600), Augment())
    for modality in ("audio", "landmarks"):
        present = (plan.clip >= 0).sum(axis=1)
        served = getattr(buckets, f"{modality}_frames")[plan.bucket] * present
        assert 1 - getattr(plan, f"{modality}_frames").sum() / served.sum() <= 0.10


def test_order_is_another_one_every_epoch_and_for_every_seed():
    base, _ = _plan(_table(200))
    for other in (_plan(_table(200), epoch=1)[0], _plan(_table(200), seed=1)[0]):
        assert sorted(base.clip.ravel()) == sorted(other.clip.ravel())
        assert (base.clip == other.clip).mean() < 0.1
    again, _ = _plan(_table(200))
    for one, same in zip(tf.nest.flatten(base), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_clips_neighbours_change_from_epoch_to_epoch():
    def neighbours(epoch):
        plan, _ = _plan(_table(480), epoch=epoch)
        return {frozenset(p) for row in plan.clip for p in itertools.pairwise(row)}

    assert len(neighbours(0) & neighbours(1)) < len(neighbours(0)) / 10


def test_batches_of_all_lengths_are_spread_over_the_epoch():
    plan, _ = _plan(_table(2000))
    halves = np.array_split(plan.bucket[:-1], 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 1.5


def test_without_shuffling_clips_come_in_the_tables_order():
    plan, _ = _plan(_table(50), shuffle=False)
    np.testing.assert_array_equal(plan.clip[plan.clip >= 0], np.arange(50))


def test_equal_durations_make_one_bucket():
    table = _table(10)
    table.audio_frames[:], table.landmarks_frames[:] = 301, 91
    buckets = batching.make_buckets(table, 8, (1.0, 1.0))
    np.testing.assert_array_equal(buckets.audio_frames, [301])
    np.testing.assert_array_equal(buckets.landmarks_frames, [91])
