"""make_dataset, end to end on made-up data, against the arithmetic written out in numpy."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import served
import tensorflow as tf

from emotion_tfdata import Augment, Features, class_weights, labels, make_dataset, testing
from emotion_tfdata.dataset.manifest import Manifest, ManifestError
from emotion_tfdata.stream.reader import CorruptDataError

_EXAMPLES = {e.example_id: e for e in testing.fake_examples()}
# What is quickest to make, where it is not the features that matter.
_QUICK = {"modalities": "audio", "num_buckets": 1, "num_threads": 1}


def test_test_serves_every_held_out_clip_normalised_by_the_training_folds(fake_data_dir):
    manifest = Manifest.load(fake_data_dir)
    held_out = {e.decode() for e in manifest.index.example_ids[manifest.index.folds == 1]}
    kept = [e for i, e in _EXAMPLES.items() if i not in held_out]
    audio = np.concatenate([e.audio for e in kept])
    faces = np.concatenate([e.landmarks[e.landmarks_valid] for e in kept])
    clips = list(served.clips(served.batches(fake_data_dir, "test", fold=1)))
    assert {c[0] for c in clips} == held_out
    assert len(clips) == len(held_out)
    for example_id, label, served_audio, landmarks, mask in clips:
        example = _EXAMPLES[example_id]
        assert labels.EMOTIONS[label] == example.emotion
        expected = (example.audio - audio.mean(axis=0)) / audio.std(axis=0)
        np.testing.assert_allclose(served_audio, expected, atol=2e-3)
        np.testing.assert_array_equal(mask[: len(example.landmarks_valid)], example.landmarks_valid)
        assert not mask[len(example.landmarks_valid) :].any()
        expected = (example.landmarks - faces.mean(axis=0)) / faces.std(axis=0)
        np.testing.assert_allclose(
            landmarks[mask], expected[example.landmarks_valid], atol=2e-3, rtol=1e-3
        )


def test_what_the_masks_leave_out_is_zero(fake_data_dir):
    for features, _ in served.batches(fake_data_dir, augment=Augment(noise_level=(0.5, 0.5))):
        for name in ("audio", "landmarks"):
            assert not features[name].numpy()[~features[f"{name}_mask"].numpy()].any()
            assert features[f"{name}_mask"].numpy().any(axis=1).all()


def test_without_normalising_values_are_in_decibels_and_eye_distances(fake_data_dir):
    for example_id, _, audio, landmarks, mask in served.clips(
        served.batches(fake_data_dir, "all", normalize=False)
    ):
        example = _EXAMPLES[example_id]
        np.testing.assert_allclose(audio, example.audio, atol=0.5 / 128 + 1e-4)
        faces = example.landmarks[example.landmarks_valid]
        np.testing.assert_allclose(landmarks[mask], faces, atol=0.5 / 8192 + 1e-5)


def test_a_warped_copy_is_the_interpolated_clip_in_both_modalities(fake_data_dir):
    augment = Augment(probability=1.0, warp_share=1.0, noise_share=0.0, stretch=(1.1, 1.1))
    seen = 0
    for example_id, _, audio, landmarks, mask in served.clips(
        served.batches(fake_data_dir, "all", augment=augment, normalize=False)
    ):
        example = _EXAMPLES[example_id]
        if len(audio) == len(example.audio):  # the clip as it is
            np.testing.assert_allclose(audio, example.audio, atol=0.5 / 128 + 1e-4)
            continue
        seen += 1
        at = np.arange(len(audio)) / 1.1
        expected = np.interp(at, np.arange(len(example.audio)), example.audio[:, 2])
        np.testing.assert_allclose(audio[:, 2], expected, atol=0.01)
        rows = np.flatnonzero(mask)
        expected = np.interp(
            rows / 1.1, np.arange(len(example.landmarks)), example.landmarks[:, 3, 1]
        )
        np.testing.assert_allclose(landmarks[rows, 3, 1], expected, atol=1e-3)
    assert seen == len(_EXAMPLES)


def test_noise_is_measured_in_each_features_deviation(fake_data_dir):
    augment = Augment(
        probability=1.0,
        warp_share=0.0,
        noise_share=1.0,
        noise_level=(0.1, 0.1),
        noise_correlation=0.0,
    )
    manifest = Manifest.load(fake_data_dir)
    for normalize in (True, False):
        plain = {
            c[0]: c for c in served.clips(served.batches(fake_data_dir, "all", normalize=normalize))
        }
        residuals = [
            audio - plain[example_id][2]
            for example_id, _, audio, _, _ in served.clips(
                served.batches(fake_data_dir, "all", augment=augment, normalize=normalize)
            )
        ]
        noise = np.concatenate([r for r in residuals if r.any()])
        assert len(noise) > 3000
        unit = 1.0
        if not normalize:
            unit = manifest.moments("audio", "actor", range(1, 5)).deviation
        np.testing.assert_allclose(noise.std(axis=0), 0.1 * unit * np.ones(8), rtol=0.06)


def test_the_stream_is_the_same_for_any_number_of_threads(fake_data_dir):
    reference = served.batches(fake_data_dir, augment=Augment(), num_epochs=2, num_threads=1)
    testing.assert_same_stream(
        served.batches(fake_data_dir, augment=Augment(), num_epochs=2, num_threads=16), reference
    )


# Two batches in each of two epochs of all that there is; five of what is quickest to make.
@pytest.mark.parametrize(
    ("num_epochs", "options"),
    [(2, {"batch_size": 24, "augment": Augment(factor=1.5)}), (1, {"batch_size": 5, **_QUICK})],
)
def test_the_stream_resumes_at_any_batch(fake_data_dir, num_epochs, options):
    testing.assert_resumes_at_every_batch(
        lambda epoch, batch: served.make(
            fake_data_dir,
            "train",
            start_epoch=epoch,
            start_batch=batch,
            num_epochs=3 + num_epochs - epoch,
            with_ids=True,
            **options,
        ),
        start_epoch=3,
        num_epochs=num_epochs,
    )


def test_an_epoch_is_the_same_however_it_is_reached(fake_data_dir):
    forever = served.make(fake_data_dir, "train", batch_size=8, num_epochs=None)
    assert forever.cardinality() == tf.data.INFINITE_CARDINALITY
    tail = list(itertools.islice(iter(forever), 6, 9))
    testing.assert_same_stream(
        tail, served.make(fake_data_dir, "train", batch_size=8, start_epoch=2)
    )


@pytest.mark.parametrize(("count", "options"), [(4, _QUICK), (2, {"augment": Augment()})])
def test_readers_share_each_batch_out(fake_data_dir, count, options):
    whole = served.batches(fake_data_dir, **options)
    parts = [served.batches(fake_data_dir, shard=(i, count), **options) for i in range(count)]
    for number, batch in enumerate(whole):
        joined = tf.nest.map_structure(
            lambda *values: tf.concat(values, axis=0), *(part[number] for part in parts)
        )
        testing.assert_same_stream([joined], [batch])


def test_a_last_batch_that_has_no_row_for_a_reader_is_empty_for_it(fake_data_dir):
    whole = served.batches(fake_data_dir, "all")  # 30 clips: the last batch has 6
    parts = [served.batches(fake_data_dir, "all", shard=(i, 8)) for i in (5, 6)]
    assert [len(label) for _, label in parts[0]] == [1, 1, 1, 1]
    assert [len(label) for _, label in parts[1]] == [1, 1, 1, 0]
    np.testing.assert_array_equal(parts[0][3][0]["audio"][0], whole[3][0]["audio"][5])


def test_an_iterators_checkpoint_is_small_and_gives_the_tail(fake_data_dir, tmp_path):
    def make():
        return served.make(
            fake_data_dir, "train", batch_size=8, augment=Augment(), num_epochs=2, with_ids=True
        )

    whole = served.batches(fake_data_dir, augment=Augment(), num_epochs=2, num_threads=1)
    iterator = iter(make())
    for _ in range(7):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 10_000
    resumed = iter(make())
    tf.train.Checkpoint(iterator=resumed).restore(path)
    testing.assert_same_stream(list(resumed), whole[7:])


def test_kept_in_memory_the_stream_is_the_same(fake_data_dir):
    testing.assert_same_stream(
        served.batches(fake_data_dir, augment=Augment(), cache=True),
        served.batches(fake_data_dir, augment=Augment()),
    )


def test_cardinality_and_element_spec_are_what_comes(fake_data_dir):
    dataset = served.make(fake_data_dir, "train", batch_size=7, augment=Augment(), num_epochs=3)
    batches = list(dataset)
    assert int(dataset.cardinality()) == len(batches)
    for batch in batches:
        tf.nest.map_structure(
            lambda spec, value: spec.is_compatible_with(value) or pytest.fail(str(spec)),
            dataset.element_spec,
            batch,
        )
    features, label = dataset.element_spec
    assert features["audio"].shape.as_list() == [None, None, 8]
    assert features["landmarks"].shape.as_list() == [None, None, 6, 3]
    assert (label.dtype, label.shape.as_list()) == (tf.int32, [None])


def test_modalities_and_landmarks_can_be_chosen(fake_data_dir):
    assert set(served.make(fake_data_dir, "all", modalities="audio").element_spec[0]) == {
        "audio",
        "audio_mask",
    }
    both, _ = served.batches(fake_data_dir, "all")[0]
    some, _ = next(iter(served.make(fake_data_dir, "all", landmarks=[4, 1], batch_size=8)))
    np.testing.assert_array_equal(
        some["landmarks"].numpy(), both["landmarks"].numpy()[:, :, [4, 1]]
    )


@pytest.mark.parametrize("protocol", ["actor", "random"])
def test_a_validation_fold_leaves_three_parts_that_are_everything(fake_data_dir, protocol):
    options = {"protocol": protocol, "fold": 4, "validation_fold": 0, **_QUICK}
    parts = [
        served.ids(served.batches(fake_data_dir, split, **options))
        for split in ("train", "validation", "test")
    ]
    assert sorted(i for part in parts for i in part) == sorted(_EXAMPLES)
    assert [len(part) for part in parts] == [18, 6, 6]
    train, _, test = ({_EXAMPLES[i].actor for i in part} for part in parts)
    # Actors are on one side only unless the protocol is random.
    assert bool(train & test) == (protocol == "random")


def test_single_clips_can_be_asked_for(fake_data_dir):
    wanted = "ravdess/clip-03-002", "ravdess/clip-01-005"
    batches = served.batches(fake_data_dir, "all", example_ids=wanted, **_QUICK)
    assert sorted(served.ids(batches)) == sorted(wanted)
    with pytest.raises(ValueError, match=r"not in this split: x; its ids look like ravdess/clip-"):
        served.make(fake_data_dir, "all", example_ids=["x"])


def test_class_weights_are_the_balanced_ones(fake_data_dir):
    np.testing.assert_allclose(class_weights(fake_data_dir), np.ones(6))


def test_calm_counts_as_neutral_and_surprised_is_not_served_with_six_classes(tmp_path):
    examples = testing.fake_examples(num_actors=2, clips_per_actor=8, num_classes=8)
    testing.write_data_set(str(tmp_path), examples, num_folds=2, num_classes=8)
    six, eight = (
        {
            i: int(label)
            for features, labels_of in served.batches(str(tmp_path), "all", **_QUICK, **options)
            for i, label in zip(served.ids([(features, None)]), labels_of, strict=True)
        }
        for options in ({"num_classes": 6}, {})
    )
    assert len(eight) == 16
    assert len(six) == 14
    calm = next(e.example_id for e in examples if e.emotion == "calm")
    assert (six[calm], eight[calm]) == (0, 6)
    weights = class_weights(str(tmp_path), features=Features(num_classes=6))
    np.testing.assert_allclose(weights, 7 / 6 / np.array([2, 1, 1, 1, 1, 1]))


def test_statistics_that_no_data_can_have_are_refused(tmp_path):
    manifest = testing.write_data_set(str(tmp_path), testing.fake_examples())
    manifest.statistics.by_actor["audio"].mean[3, 2] = float("nan")
    manifest.save(str(tmp_path))
    with pytest.raises(ManifestError, match=r"by_actor\.audio\.mean holds values that no rows can"):
        served.make(str(tmp_path), "all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split must be one of train, validation, test, all, got 'dev'"),
        ({"fold": 5}, r"fold must be in 0\.\.4, the folds of protocol actor, got 5"),
        ({"validation_fold": 0}, "validation_fold must differ from fold, both are 0"),
        (
            {"protocol": "speaker"},
            "protocol must be one of actor, random, .*JSON file of folds, got 'spea",
        ),
        ({"split": "validation", "fold": 4}, "needs validation_fold, .* e.g. validation_fold=0"),
        ({"corpora": "savee"}, "there is no 'savee' in this data set; it has ravdess"),
        ({"protocol": "hicmae"}, "holds out actors of crema_d, this data set has ravdess"),
        ({"labels": "votes"}, "labels='votes' needs clips of crema_d, which"),
        ({"labels": "guess"}, "labels must be one of intended, perceived, votes, got 'guess'"),
        ({"num_classes": 8}, "was built with 6 classes"),
        ({"num_classes": 5}, "num_classes must be 6 or 8, got 5"),
        ({"modalities": "video"}, "modalities must be one of both, audio, landmarks, got 'video'"),
        ({"landmarks": "mouth"}, "landmarks must be 'all', 'expressive' or a list"),
        ({"shard": (2, 2)}, r"shard must be \(index, count\).*got \(2, 2\)"),
        ({"shard": (0, 5)}, r"count that divides batch_size, got \(0, 5\) and batch_size=24"),
        ({"num_epochs": 0}, "num_epochs must be at least 1 or None, got 0"),
        ({"num_epochs": 1.5}, "num_epochs must be a whole number or None, got 1.5"),
        ({"start_epoch": -1}, "start_epoch must be at least 0, got -1"),
        ({"start_batch": 99}, r"start_batch must be in 0\.\.1, the batches of an epoch, got 99"),
        ({"num_threads": 0}, "num_threads must be at least 1 or None, got 0"),
        ({"num_buckets": 2.5}, "num_buckets must be a whole number, got 2.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"shuffle": "no"}, "shuffle must be True, False or None, got 'no'"),
        ({"cache": "x"}, "cache must be True or False, got 'x'"),
        ({"augment": True}, r"augment must be an Augment\(\.\.\.\) or None, got True"),
        ({"on_corrupt": "ignore"}, "on_corrupt must be 'raise' or 'skip', got 'ignore'"),
        ({"shard": 3}, r"shard must be \(index, count\), two whole numbers, got 3"),
        ({"landmarks": [1.7]}, r"landmarks must be 'all', .* of indices, got \[1\.7\]"),
        (
            {"landmarks": None},
            "landmarks must be 'all', 'expressive' or a list of indices, got None",
        ),
        ({"modalities": "audio", "landmarks": "mouth"}, "landmarks must be 'all', 'expressive'"),
        ({"example_ids": []}, r"example_ids must be a list of at least one id, or None, got \[\]"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_is_allowed(fake_data_dir, options, message):
    options = {"split": "train", **options}
    with pytest.raises(ValueError, match=message):
        served.make(fake_data_dir, **options)


def test_a_fold_without_actors_is_refused_with_what_to_do(tmp_path):
    testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=2), num_folds=5)
    with pytest.raises(
        ValueError, match=r"no clip is in this split.* of protocol actor with clips: 0, 1"
    ):
        served.make(str(tmp_path), "test", fold=4)


def _damaged(tmp_path, damage):
    """A data set of five shards, of which `damage` is done to the second one's bytes."""
    testing.write_data_set(str(tmp_path), testing.fake_examples())
    path = sorted(tmp_path.glob("*.tfrecord-*"))[1]
    content = bytearray(path.read_bytes())
    path.write_bytes(damage(content))
    return path.name


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b + b"\0" * 8],
    ids=["cut", "empty", "trailing"],
)
def test_a_shard_of_another_size_is_refused_before_anything_is_served(tmp_path, damage):
    name = _damaged(tmp_path, damage)
    with pytest.raises(CorruptDataError, match=rf"{name} has \d+ bytes, the manifest says \d+"):
        served.make(str(tmp_path), "all")


def test_missing_and_foreign_shards_are_refused_by_name(tmp_path):
    testing.write_data_set(str(tmp_path), testing.fake_examples())
    first, second, *_ = sorted(tmp_path.glob("*.tfrecord-*"))
    second.rename(tmp_path / "other.tfrecord")
    with pytest.raises(
        CorruptDataError,
        match=rf"{second.name} is missing; other\.tfrecord is not in the manifest",
    ):
        served.make(str(tmp_path), "all")
    (tmp_path / "other.tfrecord").rename(second)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ManifestError, match="holds no data set"):
        served.make(str(tmp_path), "all")
    assert first.exists()


@pytest.mark.parametrize("place", [3, 9, 40, -2], ids=["length", "its sum", "content", "sum"])
def test_one_flipped_bit_is_named_with_shard_and_record(tmp_path, place):
    def flip(content):
        content[place] ^= 16
        return content

    name = _damaged(tmp_path, flip)
    clip = "clip-02-005" if place < 0 else "clip-02-000"
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"{name}: record ravdess/{clip}: missing, cut short, or its bytes do not match",
    ):
        list(served.make(str(tmp_path), "all", **_QUICK))


def test_the_corrupt_records_are_skipped_and_no_others(tmp_path, capfd):
    def flip(content):
        content[40] ^= 16
        content[-2] ^= 16
        return content

    name = _damaged(tmp_path, flip)
    third = sorted(tmp_path.glob("*.tfrecord-*"))[2]
    third.write_bytes(third.read_bytes()[:-20])
    (tmp_path / "more.tfrecord-00000-of-00001").touch()
    with pytest.warns(UserWarning, match=rf"3 of 30 records are corrupt:\n.*{name}: record") as w:
        dataset = served.make(
            str(tmp_path), "all", batch_size=8, with_ids=True, num_epochs=2, on_corrupt="skip"
        )
    warning = str(w[0].message)
    bad = {"ravdess/clip-02-000", "ravdess/clip-02-005", "ravdess/clip-03-005"}
    assert all(example_id in warning for example_id in bad)
    assert re.search(rf"{third.name} has \d+ bytes", warning)
    assert "more.tfrecord-00000-of-00001" in warning
    assert int(dataset.cardinality()) == 8
    stream = iter(dataset)
    batches = [next(stream) for _ in range(8)]
    assert warning not in capfd.readouterr().err
    assert list(stream) == []
    assert capfd.readouterr().err.count(warning) == 1
    batches, again = batches[:4], batches[4:]
    assert [c[0] for c in served.clips(again)] == [c[0] for c in served.clips(batches)]
    assert sorted(c[0] for c in served.clips(batches)) == sorted(set(_EXAMPLES) - bad)
    with pytest.raises(CorruptDataError, match=rf"{third.name} has \d+ bytes"):
        served.make(str(tmp_path), "all", cache=True)


@pytest.mark.parametrize("modalities", ["audio", "both"])
def test_a_shard_that_is_missing_is_named_whether_it_is_skipped_or_not(tmp_path, modalities):
    testing.write_data_set(str(tmp_path), testing.fake_examples())
    name = sorted(path.name for path in tmp_path.glob("*.tfrecord-*"))[1]
    (tmp_path / name).unlink()
    options = _QUICK | {"modalities": modalities, "with_ids": True}
    with pytest.raises(CorruptDataError, match=name):
        served.make(str(tmp_path), "all", **options)
    with pytest.warns(UserWarning, match=rf"6 of 30 records .*\n.*{name}: .*: missing, cut short"):
        dataset = served.make(str(tmp_path), "all", on_corrupt="skip", **options)
    assert len(served.ids(dataset)) == 24


def test_a_stray_shard_is_named_where_no_record_is_skipped(tmp_path):
    testing.write_data_set(str(tmp_path), testing.fake_examples())
    (tmp_path / "more.tfrecord-00000-of-00001").touch()
    with pytest.warns(UserWarning, match=r"more\.tfrecord-00000-of-00001") as warned:
        dataset = served.make(str(tmp_path), "all", batch_size=1, on_corrupt="skip", **_QUICK)
    assert "Skipped" not in str(warned[0].message)
    assert int(dataset.cardinality()) == 30


def test_shards_that_vanish_while_they_are_served_end_the_stream_with_an_error(tmp_path):
    testing.write_data_set(str(tmp_path), testing.fake_examples())
    iterator = iter(served.make(str(tmp_path), "all", batch_size=2, **_QUICK))
    next(iterator)
    for path in tmp_path.glob("*.tfrecord-*"):
        path.unlink()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record ravdess/clip-.*: missing"):
        list(iterator)


def test_corrupt_records_are_found_before_the_first_batch_where_all_is_read(tmp_path):
    def flip(content):
        content[40] ^= 16
        return content

    name = _damaged(tmp_path, flip)
    with pytest.raises(CorruptDataError, match=rf"1 of 30 .*\n.*{name}: record .*clip-02-000"):
        served.make(str(tmp_path), "all", cache=True)


def test_records_that_changed_places_are_named(tmp_path):
    # Two clips alike in length: nothing but their ids tells them apart.
    examples = testing.fake_examples(num_actors=2, clips_per_actor=1, duration_s=(1.5, 1.5))
    testing.write_data_set(str(tmp_path), examples, num_folds=2)
    first, second = sorted(tmp_path.glob("*.tfrecord-*"))
    one, other = first.read_bytes(), second.read_bytes()
    assert len(one) == len(other)
    first.write_bytes(other)
    second.write_bytes(one)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"holds another record|another shape"):
        list(served.make(str(tmp_path), "all", **_QUICK))


def test_a_pathlib_path_will_do(fake_data_dir):
    assert int(make_dataset(Path(fake_data_dir), "all").cardinality()) == 2


def test_a_copy_may_lose_its_voice_or_its_face_and_nothing_else_changes(fake_data_dir):
    whole, dropped = (
        served.batches(fake_data_dir, "all", augment=Augment(modality_dropout=share), head=True)
        for share in (0.0, 0.6)
    )
    ids, lost = [], []
    for (before, label), (after, label_after) in zip(whole, dropped, strict=True):
        np.testing.assert_array_equal(label, label_after)
        before, after = ({k: v.numpy() for k, v in each.items()} for each in (before, after))
        gone = {name: ~after[f"{name}_mask"].any(axis=1) for name in ("audio", "landmarks")}
        for name, of in (("audio", "audio"), ("landmarks", "landmarks"), ("head", "landmarks")):
            np.testing.assert_array_equal(after[name][~gone[of]], before[name][~gone[of]])
            assert not after[name][gone[of]].any()
        for name, rows in gone.items():
            mask = f"{name}_mask"
            np.testing.assert_array_equal(after[mask][~rows], before[mask][~rows])
        assert not (gone["audio"] & gone["landmarks"]).any()
        ids += after["example_id"].tolist()
        lost += list(zip(gone["audio"], gone["landmarks"], strict=True))
    assert len(set(ids)) == len(ids) / 2
    for example_id in set(ids):  # a clip as it is keeps both
        assert sum(any(which) for i, which in zip(ids, lost, strict=True) if i == example_id) <= 1
    voices, faces = np.sum(lost, axis=0) / len(set(ids))
    assert 0.1 < voices < 0.5
    assert 0.1 < faces < 0.5
    with pytest.raises(ValueError, match="modality_dropout needs both modalities, not audio alone"):
        served.make(fake_data_dir, "all", augment=Augment(modality_dropout=0.1), modalities="audio")
