"""A pass over a data set is an epoch, and what is built on a data set is as on any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import served
import tensorflow as tf

from emotion_tfdata import Augment, Features, Reading, make_dataset

# What is quickest to make that is another stream in each epoch, in order and in copies.
_OPTIONS = {
    "split": "train",
    "batch_size": 16,
    "seed": 3,
    "augment": Augment(probability=1.0, warp_share=0.0, noise_share=1.0),
    "features": Features(modalities="audio", with_ids=True),
    "reading": Reading(num_buckets=1, num_threads=1),
}


def _make(data_dir, **options):
    return make_dataset(data_dir, **(_OPTIONS | options))


def _seen(batch):
    features, label = batch
    ids = [example_id.decode() for example_id in np.asarray(features["example_id"])]
    return ids, np.asarray(features["audio"]).tobytes(), np.asarray(label).tolist()


def _pass(dataset):
    return [_seen(batch) for batch in dataset]


@pytest.fixture(scope="module")
def epochs(fake_data_dir):
    """What each of the first four epochs holds, of one pass through all of them."""
    batches = _pass(_make(fake_data_dir, num_epochs=4))
    count = len(batches) // 4
    found = [batches[count * epoch : count * (epoch + 1)] for epoch in range(4)]
    for kind in range(2):  # neither order nor copies are those of another epoch
        assert len({str([batch[kind] for batch in each]) for each in found}) == 4
    return found


def test_every_pass_of_a_loop_is_the_next_epoch(fake_data_dir, epochs):
    dataset = _make(fake_data_dir)
    assert [_pass(dataset) for _ in range(3)] == epochs[:3]


def test_repeat_zip_and_what_is_built_on_it_see_further_epochs(fake_data_dir, epochs):
    dataset = _make(fake_data_dir)
    assert _pass(dataset.repeat(2)) == [*epochs[0], *epochs[1]]
    built = dataset.map(lambda features, label: (features, label)).prefetch(1)
    assert _pass(built) == epochs[2]
    pairs = list(tf.data.Dataset.zip(tf.data.Dataset.range(100), dataset))
    assert [_seen(batch) for _, batch in pairs] == epochs[3]


def test_iterators_of_one_object_are_passes_in_the_order_of_their_first_batches(
    fake_data_dir, epochs
):
    dataset = _make(fake_data_dir)
    unused, one, other = iter(dataset), iter(dataset), iter(dataset)
    firsts = [_seen(next(one)), _seen(next(other))]
    assert firsts == [epochs[0][0], epochs[1][0]]
    assert [_seen(batch) for batch in one] == epochs[0][1:]
    assert [_seen(batch) for batch in other] == epochs[1][1:]
    assert _seen(next(unused)) == epochs[2][0]


def test_a_start_within_an_epoch_holds_for_the_first_pass_alone(fake_data_dir, epochs):
    """And with several epochs a pass, the next one continues after the last of them."""
    dataset = _make(fake_data_dir, num_epochs=2, start_batch=1)
    # How many batches it has differs between passes, so it does not say.
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert [_pass(dataset) for _ in range(2)] == [epochs[0][1:] + epochs[1], epochs[2] + epochs[3]]


def test_what_is_not_random_is_the_same_in_every_pass(fake_data_dir):
    dataset = _make(fake_data_dir, split="test", augment=None)
    assert _pass(dataset) == _pass(dataset)


class _Sums(keras.Model):
    """Sums what it is fed, in its own training step, so that nothing of it is lost."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def train_step(self, data):
        features, label = data
        tf.py_function(
            lambda *values: self.seen.append(_of_step(*values)),
            [features["example_id"], features["audio"], label],
            [],
        )
        return {"loss": tf.constant(0.0)}


def _of_step(ids, audio, label):
    return _seen(({"example_id": ids.numpy(), "audio": audio.numpy()}, label.numpy()))


def test_keras_fit_trains_on_another_epoch_each_time(fake_data_dir, epochs):
    model = _Sums()
    model.compile(optimizer="sgd")
    model.fit(_make(fake_data_dir), epochs=3, verbose=0)
    assert model.seen == [*epochs[0], *epochs[1], *epochs[2]]


_ANOTHER_BACKEND = """
import json, sys
import keras, tensorflow as tf
from emotion_tfdata import Augment, Features, Reading, make_dataset

seen = []

def note(ids):
    seen.append([each.decode() for each in ids.numpy()])

def fed(features, label):
    with tf.control_dependencies([tf.py_function(note, [features["example_id"]], [])]):
        return tf.ensure_shape(tf.identity(features["audio"]), [None, None, 8]), label

train = make_dataset(
    sys.argv[1], "train", batch_size=16, seed=3,
    augment=Augment(probability=1.0, warp_share=0.0, noise_share=1.0),
    features=Features(modalities="audio", with_ids=True),
    reading=Reading(num_buckets=1, num_threads=1),
)
model = keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(6)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(train.map(fed), epochs=2, verbose=0)
print(json.dumps([keras.backend.backend(), seen]))
"""


def test_keras_with_another_backend_looks_at_a_batch_of_a_pass_and_trains_on_those_after_it(
    fake_data_dir, epochs, project_dir
):
    pytest.importorskip("jax", reason="Keras with another backend is tried with jax")
    done = subprocess.run(
        [sys.executable, "-c", _ANOTHER_BACKEND, fake_data_dir],
        capture_output=True,
        text=True,
        check=False,
        cwd=project_dir,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr
    backend, seen = json.loads(done.stdout)
    assert backend == "jax"
    # Keras builds a model by a batch, from an iterator that it then drops.
    assert seen[0] == epochs[0][0][0]
    assert seen[-2 * len(epochs[1]) :] == [ids for ids, _, _ in epochs[1] + epochs[2]]


def test_a_mirrored_strategy_is_given_another_epoch_each_time(fake_data_dir, epochs):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    distributed = strategy.experimental_distribute_dataset(_make(fake_data_dir))
    assert [_pass(distributed) for _ in range(2)] == epochs[:2]


@pytest.mark.parametrize("built_on", [False, True])
def test_a_checkpoint_of_a_later_pass_is_restored_into_a_fresh_object(
    fake_data_dir, epochs, tmp_path, built_on
):
    def make():
        dataset = _make(fake_data_dir)
        return dataset.map(lambda features, label: (features, label)) if built_on else dataset

    dataset = make()
    _pass(dataset)
    iterator = iter(dataset)
    begun = [_seen(next(iterator)) for _ in range(2)]
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "at"))
    assert begun == epochs[1][:2]
    if not built_on:
        assert sum(os.path.getsize(file) for file in tmp_path.glob("at*")) < 6000

    fresh = make()
    restored = iter(fresh)
    tf.train.Checkpoint(iterator=restored).restore(path).expect_partial()
    assert [_seen(batch) for batch in restored] == epochs[1][2:]
    assert [_seen(batch) for batch in iterator] == epochs[1][2:]


def test_a_pass_that_cannot_be_counted_is_still_another_one(fake_data_dir, monkeypatch):
    """Beyond the passes that are counted, an epoch's number is drawn."""
    from emotion_tfdata.stream import passes

    monkeypatch.setattr(passes, "COUNTED_PASSES", 1)
    passes._series.cache_clear()
    try:
        dataset = _make(fake_data_dir)
        found = [_pass(dataset) for _ in range(3)]
    finally:
        monkeypatch.undo()
        passes._series.cache_clear()
    assert len({str(each) for each in found}) == 3
    of = [sorted(i for ids, _, _ in each for i in ids) for each in found]
    assert of[0] == of[1] == of[2]


def _plain(data_dir):
    features = {"audio": tf.zeros([50, 8])}
    return tf.data.Dataset.range(30).map(lambda x: (features, x)).batch(4)


def _served(data_dir):
    return _make(data_dir, split="all", batch_size=4, augment=None)


@pytest.mark.parametrize("make", [_plain, _served])
def test_what_is_built_on_it_behaves_as_on_plain_tf_data(fake_data_dir, tmp_path, make):
    def twice(dataset):
        return [len(list(dataset)) for _ in range(2)]

    def save(dataset):
        iterator = iter(dataset)
        next(iterator)
        return tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "at"))

    dataset = make(fake_data_dir)
    assert twice(dataset.cache(str(tmp_path / "cache"))) == [8, 8]
    assert twice(dataset.snapshot(str(tmp_path / "snapshot"), compression=None)) == [8, 8]
    assert save(dataset.cache())
    assert save(dataset.map(lambda features, label: label))
    with pytest.raises(tf.errors.FailedPreconditionError, match="RandomUniform is stateful"):
        save(dataset.map(lambda features, label: tf.random.uniform([])))
    # No option of its own holds for what is built on it.
    assert dataset.map(lambda *x: x).options() == tf.data.Options()


def test_pose_is_warped_with_the_landmarks_and_meta_is_the_clips_own(fake_data_dir):
    from emotion_tfdata import testing

    examples = {example.example_id: example for example in testing.fake_examples()}
    wanted = {"modalities": "landmarks", "head": True, "with_ids": True}
    features, _ = next(
        iter(served.make(fake_data_dir, "all", num_buckets=1, **wanted, with_meta=True))
    )
    assert features["head"].shape[1:] == (features["landmarks"].shape[1], 4)
    for row, example_id in enumerate(features["example_id"].numpy()):
        example = examples[example_id.decode()]
        mask = features["landmarks_mask"][row].numpy()
        head = features["head"][row].numpy()
        np.testing.assert_allclose(head[mask], example.head[example.landmarks_valid], rtol=1e-5)
        assert not head[~mask].any()
        for name in ("corpus", "actor", "intensity", "sentence"):
            assert features[name][row].numpy().decode() == getattr(example, name)

    def of_copies(stretch):
        augment = Augment(probability=1, warp_share=1, noise_share=0, stretch=(stretch, stretch))
        stream = served.make(fake_data_dir, "train", num_buckets=1, augment=augment, **wanted)
        for features, _ in stream:
            for row, example_id in enumerate(features["example_id"].numpy()):
                example = examples[example_id.decode()]
                rows = features["landmarks_mask"][row].numpy()
                if rows.sum() > len(example.landmarks_valid) or stretch == 1:
                    yield example, features["head"][row].numpy(), rows

    warped = 0
    for example, head, rows in of_copies(1.1):
        if not example.landmarks_valid.all():
            continue
        warped += 1
        at = np.arange(len(rows))[rows] / 1.1
        inside = at <= len(example.head) - 1
        frames = np.arange(len(example.head))
        for column in range(4):
            expected = np.interp(at[inside], frames, example.head[:, column])
            np.testing.assert_allclose(head[rows][inside, column], expected, rtol=2e-3, atol=1e-3)
    assert warped
