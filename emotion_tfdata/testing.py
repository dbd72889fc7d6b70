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

from emotion_tfdata import labels, schema, splits, timebase
from emotion_tfdata.manifest import Manifest, Moments, Record, Shard


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
    """Made-up clips: smooth random series, their mean shifted by the class.

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
    """Writes examples as a data set that `make_dataset` reads: one shard an actor fold."""
    os.makedirs(data_dir, exist_ok=True)
    actor_fold = splits.actor_folds([(e.corpus, e.actor) for e in examples], num_folds)
    random_fold = splits.random_folds(
        [e.example_id for e in examples], [e.emotion for e in examples], num_folds
    )
    shards, modalities = [], ("audio", "landmarks")
    statistics = {
        protocol: [{m: _no_moments(examples[0], m) for m in modalities} for _ in range(num_folds)]
        for protocol in splits.PROTOCOLS
    }
    for fold in range(num_folds):
        members = [e for e in examples if actor_fold[e.corpus, e.actor] == fold]
        name = f"fold-{fold}-of-{num_folds}.tfrecord-00000-of-00001"
        path = os.path.join(data_dir, name)
        records, offset = [], 0
        with tf.io.TFRecordWriter(path) as writer:
            for example in members:
                serialized = schema.encode(example)
                writer.write(serialized)
                records.append(
                    Record(
                        **{name: getattr(example, name) for name in schema.TEXT_FEATURES},
                        audio_frames=len(example.audio),
                        landmarks_frames=len(example.landmarks),
                        faces_frames=int(example.landmarks_valid.sum()),
                        random_fold=random_fold[example.example_id],
                        offset=offset,
                        length=len(serialized),
                    )
                )
                offset += len(serialized) + 16
                stored = schema.decode(serialized)
                rows = {
                    "audio": stored.audio,
                    "landmarks": stored.landmarks[stored.landmarks_valid],
                }
                for protocol, k in (("actor", fold), ("random", random_fold[example.example_id])):
                    for m in modalities:
                        statistics[protocol][k][m] += Moments.of(rows[m])
        with open(path, "rb") as file:
            content = file.read()
        sha256 = hashlib.sha256(content).hexdigest()
        shards.append(Shard(name, fold, len(content), sha256, tuple(records)))
    manifest = Manifest(
        settings={"made_by": "emotion_tfdata.testing"},
        provenance="made-up data",
        modalities=modalities,
        num_audio_features=examples[0].audio.shape[1],
        num_landmarks=examples[0].landmarks.shape[1],
        num_classes=num_classes,
        num_folds=num_folds,
        shards=tuple(shards),
        statistics={protocol: tuple(folds) for protocol, folds in statistics.items()},
        left_out=(),
    )
    manifest.save(data_dir)
    return manifest


def assert_same_stream(actual: Iterable[Any], expected: Iterable[Any]) -> None:
    """Asserts that two streams hold the same batches in the same order, to the bit.

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
    """Asserts that a stream started at any batch is the tail of the whole one, to the bit.

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


def _no_moments(example: schema.Example, modality: str) -> Moments:
    return Moments.zero(*getattr(example, modality).shape[1:])


def _bits(array: np.ndarray) -> np.ndarray:
    """Numbers as integers of the same bits, so that NaNs and signed zeros compare too."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "f" else array
