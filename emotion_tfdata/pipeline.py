"""make_dataset: from a data set's folder to batches for a model."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from emotion_tfdata import batching, reader
from emotion_tfdata.augment.draw import Augment
from emotion_tfdata.manifest import Manifest
from emotion_tfdata.transform import View, make_view, transform

_MODALITIES = {"both": ("audio", "landmarks"), "audio": ("audio",), "landmarks": ("landmarks",)}
_FOREVER = np.iinfo(np.int64).max


def make_dataset(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    fold: int = 0,
    validation_fold: int | None = None,
    protocol: str = "actor",
    batch_size: int = 24,
    seed: int = 0,
    augment: Augment | None = None,
    shuffle: bool | None = None,
    num_epochs: int | None = 1,
    start_epoch: int = 0,
    start_batch: int = 0,
    modalities: str | None = None,
    landmarks: str | Sequence[int] = "all",
    num_classes: int = 6,
    normalize: bool = True,
    with_ids: bool = False,
    num_buckets: int = 8,
    num_threads: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Batches of clips for training or evaluating a model.

    What is served is a function of the data set and the arguments alone: the same to the bit for
    any number of threads, in every run, and from any batch that it is started at.

    Args:
      data_dir: folder that `preprocess.build_tfrecords` made.
      split: `"train"`, `"validation"`, `"test"` or `"all"`. `test` is `fold`, `validation` is
        `validation_fold` (`fold` where none is given), `train` is what neither of them holds.
      fold: which fold is held out.
      validation_fold: a further fold that is held out of training, to choose a model by.
      protocol: `"actor"`: folds of actors, so that no one is on both sides; `"random"`: folds of
        clips, which lets a model recognise the actors it is tested on.
      batch_size: clips of a batch. The last one of an epoch may be smaller.
      seed: what order and augmentation are drawn from.
      augment: what copies to add; None for none.
      shuffle: whether the order is random; by default for `train` alone.
      num_epochs: how many epochs follow each other; None for ever.
      start_epoch: number of the first epoch. Epoch `e` is the same however it is reached.
      start_batch: batches of the first epoch that are passed over, without being read.
      modalities: `"both"`, `"audio"` or `"landmarks"`; by default all that the data set has.
      landmarks: `"all"`, `"expressive"` or indices; see `landmark_sets`.
      num_classes: 6, or 8 where the data set was built with 8.
      normalize: whether each feature is brought to zero mean and unit deviation over the folds of
        `train`. Without it, audio is in dB and landmarks are in distances between the eyes.
      with_ids: whether `example_id` is among the features.
      num_buckets: how many shapes there may be; more of them pad less and compile longer.
      num_threads: threads that read and augment; by default one for each core.
      shard: (index, count): serve these rows of every batch, the `index`-th of `count` equal parts.

    Returns:
      A `tf.data.Dataset` of `(features, label)`. `features` has `audio` float32 `[B, Ta, M]`,
      `audio_mask` bool `[B, Ta]`, `landmarks` float32 `[B, Tv, L, 3]`, `landmarks_mask` bool
      `[B, Tv]` (a row of the clip, with a face in it), those of the modalities chosen, and
      `example_id` string `[B]` if asked for. `label` is int32 `[B]`. Audio comes at 100 frames/s,
      landmarks at 30. What the masks leave out is zero. Cardinality is known.

    Raises:
      manifest.ManifestError: if the folder holds no data set.
      reader.CorruptDataError: if its files are not those of its manifest.
      ValueError: for an argument that is not allowed or does not suit the data set.
      tf.errors.InvalidArgumentError: while iterating, for a corrupt record; it names shard and
        record.
    """
    data_dir = os.fspath(data_dir)
    manifest = Manifest.load(data_dir)
    chosen = _modalities(manifest, data_dir, modalities)
    train_folds = reader.split_folds(manifest, "train", fold, validation_fold)
    folds = reader.split_folds(manifest, split, fold, validation_fold)
    table = reader.select(manifest, data_dir, protocol, folds, num_classes)
    shuffle = split == "train" if shuffle is None else shuffle
    rows = _rows_of_shard(shard, batch_size)
    batches = batching.num_batches(len(table), augment, batch_size)
    if num_epochs is not None and num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, or None for ever, got {num_epochs}")
    if start_epoch < 0 or not 0 <= start_batch <= batches:
        raise ValueError(
            f"start_epoch must be 0 or more and start_batch in 0..{batches}, the batches of an "
            f"epoch; got {start_epoch} and {start_batch}"
        )
    reader.check_shards(manifest, data_dir)
    buckets = batching.make_buckets(table, num_buckets, augment.stretch if augment else (1.0, 1.0))
    views = [
        make_view(manifest, modality, protocol, train_folds, landmarks, normalize)
        for modality in chosen
    ]

    @tf.autograph.experimental.do_not_convert
    def plan(epoch: tf.Tensor) -> tf.data.Dataset:
        planned = batching.plan_epoch(
            table,
            buckets,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
            augment=augment,
            shuffle=shuffle,
        )
        passed_over = tf.where(epoch == start_epoch, start_batch, 0)
        planned = tf.nest.map_structure(lambda values: values[passed_over:], planned)
        return tf.data.Dataset.from_tensor_slices(planned)

    @tf.autograph.experimental.do_not_convert
    def assemble(batch: batching.Batches) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        bucket = batch.bucket
        present = batch.clip[rows] >= 0
        batch = tf.nest.map_structure(
            lambda values: values if values.shape.rank == 0 else values[rows][present], batch
        )
        features = _assemble(batch, bucket, table, buckets, views, augment or Augment())
        if with_ids:
            features["example_id"] = tf.gather(table.example_ids, batch.clip)
        return features, tf.gather(table.labels, batch.clip)

    end = _FOREVER if num_epochs is None else start_epoch + num_epochs
    dataset = tf.data.Dataset.range(start_epoch, end).flat_map(plan)
    threads = num_threads or os.cpu_count() or 1
    dataset = dataset.map(assemble, num_parallel_calls=threads, deterministic=True)
    cardinality = (
        tf.data.INFINITE_CARDINALITY if num_epochs is None else num_epochs * batches - start_batch
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(2)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def class_weights(
    data_dir: str | os.PathLike[str],
    *,
    fold: int = 0,
    validation_fold: int | None = None,
    protocol: str = "actor",
    num_classes: int = 6,
) -> np.ndarray:
    """Weights of the classes that make up for their different numbers of training clips.

    A class of `n_c` of `n` clips gets `n / (num_classes * n_c)`, as scikit-learn's "balanced".

    Returns:
      float32 `[num_classes]`; 0 for a class that has no training clip.
    """
    data_dir = os.fspath(data_dir)
    manifest = Manifest.load(data_dir)
    folds = reader.split_folds(manifest, "train", fold, validation_fold)
    table = reader.select(manifest, data_dir, protocol, folds, num_classes)
    counts = np.bincount(table.labels, minlength=num_classes)
    weights = len(table) / (num_classes * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def _modalities(manifest: Manifest, data_dir: str, choice: str | None) -> tuple[str, ...]:
    if choice is None:
        return manifest.modalities
    if choice not in _MODALITIES:
        raise ValueError(f"modalities must be one of {', '.join(_MODALITIES)}, got {choice!r}")
    for modality in _MODALITIES[choice]:
        if modality not in manifest.modalities:
            raise ValueError(
                f"modalities={choice!r}, but {data_dir} holds no {modality}: it was built with "
                f"--modalities={'both' if len(manifest.modalities) > 1 else manifest.modalities[0]}"
            )
    return _MODALITIES[choice]


def _rows_of_shard(shard: tuple[int, int], batch_size: int) -> slice:
    index, count = shard
    if count < 1 or not 0 <= index < count or batch_size < 1 or batch_size % count:
        raise ValueError(
            "shard must be (index, count) with index < count and a count that divides batch_size, "
            f"got {shard} and batch_size={batch_size}"
        )
    part = batch_size // count
    return slice(index * part, (index + 1) * part)


def _assemble(
    batch: batching.Batches,
    bucket: tf.Tensor,
    table: reader.Table,
    buckets: batching.Buckets,
    views: Sequence[View],
    augment: Augment,
) -> dict[str, tf.Tensor]:
    """One planned batch to the features of one served batch."""
    paths = tf.gather(table.paths, batch.clip)
    example_ids = tf.gather(table.example_ids, batch.clip)
    parsed = reader.read_examples(
        paths,
        tf.gather(table.offsets, batch.clip),
        tf.gather(table.lengths, batch.clip),
        example_ids,
        [name for view in views for name in view.stored_names],
    )
    features = {}
    for view in views:
        modality = view.modality
        frames = tf.gather(getattr(table, f"{modality}_frames"), batch.clip)
        capacity = tf.gather(getattr(buckets, f"source_{modality}_frames"), bucket)
        content, shapes = parsed[modality]
        check = reader.assert_shapes(
            shapes, frames, view.stored_shape, paths, example_ids, modality
        )
        with tf.control_dependencies([check]):
            stored = view.decode(content, capacity)
        if "landmarks_valid" in view.stored_names:
            content, _ = parsed["landmarks_valid"]
            valid = tf.io.decode_raw(content, tf.uint8, fixed_length=capacity) > 0
        else:
            valid = tf.range(capacity)[None, :] < frames[:, None]
        series, mask = transform(
            stored,
            valid,
            frames,
            getattr(batch, f"{modality}_frames"),
            batch.draws,
            tf.range(tf.gather(getattr(buckets, f"{modality}_frames"), bucket)),
            view.scaling,
            rate_hz=view.rate_hz,
            salt=view.salt,
            noise_correlation=augment.noise_correlation,
            noise_slow_hz=augment.noise_slow_hz,
        )
        if modality == "landmarks":
            series = tf.reshape(series, [*tf.unstack(tf.shape(mask)), len(view.indices), 3])
            series = tf.ensure_shape(series, [None, None, len(view.indices), 3])
        features[modality] = series
        features[f"{modality}_mask"] = mask
    return features
