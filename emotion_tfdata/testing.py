"""Data sets made up for tests, and assertions about streams.

What is made up has the shape of real data and none of its meaning: smooth random series whose level
tells the class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata import labels
from emotion_tfdata.dataset import schema, timebase
from emotion_tfdata.dataset.folds import actor_folds, random_folds
from emotion_tfdata.dataset.manifest import Manifest, Shard
from emotion_tfdata.dataset.statistics import GroupSums, Moments


def fake_examples(
    *,
    num_actors: int = 5,
    clips_per_actor: int = 6,
    seed: int = 0,
    duration_s: tuple[float, float] = (1.0, 2.0),
    num_audio_features: int = 8,
    num_landmarks: int = 6,
    num_classes: int = 6,
) -> list[schema.Example]:
    """Make up clips: smooth random series, their mean shifted by the class.

    Args:
      num_actors: actors of one corpus, `ravdess`.
      clips_per_actor: their emotions go round the classes.
      seed: the same seed gives the same clips.
      duration_s: range of the clips' durations.
      num_audio_features: `M`.
      num_landmarks: `L`.
      num_classes: 6 or 8.
    """
    rng = np.random.default_rng(seed)
    names = labels.class_names(num_classes)
    examples = []
    for actor in range(1, num_actors + 1):
        for clip in range(clips_per_actor):
            seconds = rng.uniform(*duration_s)
            audio_frames = timebase.num_frames(seconds, timebase.AUDIO_RATE_HZ)
            frames = timebase.num_frames(seconds, timebase.LANDMARKS_RATE_HZ)
            valid = rng.random(frames) > 0.05
            landmarks = _smooth(rng, frames, num_landmarks * 3).reshape(frames, num_landmarks, 3)
            landmarks = 0.3 * landmarks + 0.2 * (clip % num_classes)
            examples.append(
                schema.Example(
                    example_id=f"ravdess/clip-{actor:02d}-{clip:03d}",
                    corpus="ravdess",
                    actor=f"{actor:02d}",
                    emotion=names[clip % num_classes],
                    intensity="01",
                    sentence="01",
                    audio=10 * _smooth(rng, audio_frames, num_audio_features)
                    + 5.0 * (clip % num_classes)
                    - 40,
                    landmarks=landmarks * valid[:, None, None],
                    landmarks_valid=valid,
                    head=_smooth(rng, frames, 4),
                )
            )
    return examples


def write_data_set(
    data_dir: str, examples: Sequence[schema.Example], *, num_folds: int = 5, num_classes: int = 6
) -> Manifest:
    """Write examples as a data set that `make_dataset` reads: one shard an actor fold."""
    os.makedirs(data_dir, exist_ok=True)
    actor_fold = actor_folds([(e.corpus, e.actor) for e in examples], num_folds)
    random_fold = random_folds(
        [e.example_id for e in examples], [e.emotion for e in examples], num_folds
    )
    modalities = schema.modalities(examples[0].audio.shape[1], examples[0].landmarks.shape[1])
    shards, records, sums = [], [], GroupSums()
    for fold in range(num_folds):
        name = f"fold-{fold}-of-{num_folds}.tfrecord-00000-of-00001"
        path = os.path.join(data_dir, name)
        members, offset = [], 0
        with tf.io.TFRecordWriter(path) as writer:
            for example in examples:
                if actor_fold[example.corpus, example.actor] != fold:
                    continue
                serialized = schema.encode(example, modalities)
                writer.write(serialized)
                k = random_fold[example.example_id]
                members.append(schema.record_of(example, modalities, k, offset, len(serialized)))
                offset += len(serialized) + 16
                rows = schema.valid_rows(schema.decode(serialized, stored=modalities), modalities)
                moments = {modality: Moments.of(each) for modality, each in rows.items()}
                sums.add(example.corpus, example.actor, k, moments)
        with open(path, "rb") as file:
            sha256 = hashlib.sha256(file.read()).hexdigest()
        shards.append(Shard(name, offset, sha256, len(members)))
        records.append(members)
    manifest = Manifest.of(
        records,
        actor_fold,
        sums,
        provenance="made-up data",
        classes=labels.class_names(num_classes),
        num_folds=num_folds,
        modalities=modalities,
        settings={"made_by": "emotion_tfdata.testing"},
        shards=tuple(shards),
        skipped=(),
    )
    return manifest.save(data_dir)


def assert_same_stream(actual: Iterable[Any], expected: Iterable[Any]) -> None:
    """Assert that two streams hold the same batches in the same order, to the bit.

    Raises:
      AssertionError: naming the first batch and tensor that differ.
    """
    actual, expected = list(actual), list(expected)
    for number, (one, other) in enumerate(zip(actual, expected, strict=False)):
        tf.nest.assert_same_structure(one, other)
        for leaf, (a, b) in enumerate(
            zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
        ):
            a, b = np.asarray(a), np.asarray(b)
            if a.shape != b.shape or a.dtype != b.dtype or not np.array_equal(_bits(a), _bits(b)):
                raise AssertionError(
                    f"batch {number}, tensor {leaf} in tf.nest's order, differs: "
                    f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
                )
    if len(actual) != len(expected):
        raise AssertionError(f"{len(actual)} batches, expected {len(expected)}")


def assert_resumes_at_every_batch(
    make: Callable[[int, int], tf.data.Dataset], *, start_epoch: int = 0, num_epochs: int = 1
) -> None:
    """Assert that a stream started at any batch is the tail of the whole one, to the bit.

    Args:
      make: called with (start_epoch, start_batch), returns the stream from there to the end of
        epoch `start_epoch + num_epochs - 1`, whatever the start.
      start_epoch: first epoch of the whole stream.
      num_epochs: how many epochs it has; all must have equally many batches.
    """
    whole = list(make(start_epoch, 0))
    batches = len(whole) // num_epochs
    for skipped in range(len(whole)):
        epoch, batch = divmod(skipped, batches)
        assert_same_stream(make(start_epoch + epoch, batch), whole[skipped:])


def _smooth(rng: np.random.Generator, frames: int, features: int) -> np.ndarray:
    steps = np.cumsum(rng.standard_normal((frames + 8, features)), axis=0)
    return ((steps[8:] - steps[:-8]) / np.sqrt(8)).astype(np.float32)


def _bits(array: np.ndarray) -> np.ndarray:
    """Return numbers as integers of the same bits, so that NaNs and signed zeros compare too."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "f" else array
