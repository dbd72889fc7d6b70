"""make_dataset: from a data set's folder to batches for a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata import arguments, batching, reader, soundness, storage
from emotion_tfdata import table as table_lib
from emotion_tfdata.augment.draw import Augment
from emotion_tfdata.features import Features, Reading
from emotion_tfdata.protocols import Corpora
from emotion_tfdata.schema import AUDIO_STEP_DB
from emotion_tfdata.silence import sounding
from emotion_tfdata.transform import View, effects, make_view, transform

_FEATURES, _READING = Features(), Reading()
_FOREVER = np.iinfo(np.int64).max


@arguments.tells_new_names
def make_dataset(
    data_dir: str | os.PathLike[str],
    split: str,
    *,
    fold: int = 0,
    validation_fold: int | None = None,
    protocol: str = "actor",
    corpora: Corpora = None,
    example_ids: Sequence[str] | None = None,
    batch_size: int = 24,
    seed: int = 0,
    augment: Augment | None = None,
    shuffle: bool | None = None,
    num_epochs: int | None = 1,
    start_epoch: int = 0,
    start_batch: int = 0,
    features: Features = _FEATURES,
    reading: Reading = _READING,
) -> tf.data.Dataset:
    """Batches of clips for training or evaluating a model.

    What is served is a function of the data set and the arguments alone: the same to the bit for
    any number of threads, in every run, and from any batch that it is started at. On
    another kind of processor altered copies may differ in the last digits.

    Args:
      data_dir: folder that `preprocess.build_tfrecords` made, or `s3://bucket/prefix` of a copy.
      split: `"train"`, `"validation"`, `"test"` or `"all"`. `test` is `fold`, `validation` is
        `validation_fold`, which must be given, `train` is what neither of them holds.
      fold: which fold is held out.
      validation_fold: a further fold that is held out of training, to choose a model by.
      protocol: how clips are dealt to folds: `"actor"`, consecutive actors, as even as can be;
        `"published"`, `"luna"`, `"emobox_ravdess"` or `"hicmae"`, as in the literature;
        `"leave_one_actor_out"`, `"leave_one_corpus_out"`; a JSON file, see `protocols.deal`; or
        `"random"`: clips, which lets a model recognise the actors it is tested on.
      corpora: a name or names of corpora, where not all are to be used; or a mapping of `"train"`
        and `"test"` to such: those trained and selected on, and those tested on. What is not
        tested is trained on whole.
      example_ids: serve these clips of the split alone.
      batch_size: clips of a batch. The last one of an epoch may be smaller.
      seed: what order and augmentation are drawn from.
      augment: what copies to add; None for none.
      shuffle: whether the order is random; by default for `train` alone.
      num_epochs: how many epochs follow each other; None for ever.
      start_epoch: number of the first epoch. Epoch `e` is the same however it is reached.
      start_batch: batches of the first epoch that are passed over, without being read.
      features: what is served of each clip.
      reading: how clips are read: threads, cache, share of each batch, corrupt records.

    Returns:
      A `tf.data.Dataset` of `(features, label)`. `features` has `audio` float32 `[B, Ta, M]`,
      `audio_mask` bool `[B, Ta]`, `landmarks` float32 `[B, Tv, L, 3]`, `landmarks_mask` bool
      `[B, Tv]` (a row of the clip, with a face in it), those of the modalities chosen, and
      `example_id` string `[B]` if asked for. `label` is int32 `[B]`, or with
      votes float32 `[B, C]`, shares that add up to 1. Audio comes at 100 frames/s,
      landmarks at 30. What the masks leave out is zero. Cardinality is known.

    Raises:
      manifest.ManifestError: if the folder holds no data set, or damaged files beside the manifest.
      storage.StorageError: for a place that cannot be read with what is installed.
      reader.CorruptDataError: if its files are not those of its manifest, or, where everything is
        read at once, for corrupt records.
      ValueError: for an argument that is not allowed or does not suit the data set.
      TypeError: for an argument that moved into `Features` or `Reading`, with its new place.
      tf.errors.InvalidArgumentError: while iterating, for a corrupt record; it names shard and
        record.
    """
    arguments.check(locals())
    data_dir = os.fspath(data_dir)
    data = storage.open_data_set(data_dir)
    manifest = data.manifest
    chosen = features.chosen([*manifest.modalities], data_dir)
    deal = manifest.deal(protocol)
    train, cells = (deal.part(each, fold, validation_fold, corpora) for each in ("train", split))
    table = table_lib.select(manifest, data_dir, deal, cells, features)
    if example_ids is not None:
        table = table.only(table_lib.places_of(table, example_ids))
    shuffle = split == "train" if shuffle is None else shuffle
    rows = reading.rows(batch_size)
    threads = reading.num_threads or os.cpu_count() or 1
    views = [make_view(manifest, modality, deal, train, features) for modality in chosen]
    how = {modality: effects(manifest, modality, augment) for modality in chosen}
    wanted = {name: (v.modality, sizes) for v in views for name, sizes in v.stored.items()}
    table, cached, left_out = soundness.check(
        data, data.fetch(table), wanted, reading.on_corrupt, reading.cache, threads
    )
    batches = batching.num_batches(len(table), augment, batch_size)
    if start_batch > batches:
        raise ValueError(
            f"start_batch must be in 0..{batches}, the batches of an epoch, got {start_batch}"
        )
    buckets = batching.make_buckets(
        table, reading.num_buckets, augment.stretch if augment else (1.0, 1.0)
    )

    # A function of its own: with every batch, tf.data looks at all operations of `batches_of`.
    @tf.function(autograph=False)
    def plan(epoch: tf.Tensor) -> batching.Batches:
        return batching.plan_epoch(
            table,
            buckets,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
            augment=augment,
            shuffle=shuffle,
        )

    @tf.autograph.experimental.do_not_convert
    def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        passed_over = tf.where(epoch == start_epoch, tf.constant(start_batch, tf.int64), 0)
        return tf.data.Dataset.from_tensor_slices(plan(epoch)).skip(passed_over)

    @tf.autograph.experimental.do_not_convert
    def assemble(batch: batching.Batches) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        bucket, first = batch.bucket, batch.clip[0]
        present = tf.math.count_nonzero(tf.gather(batch.clip, rows) >= 0)
        computed = tf.constant(rows if len(rows) > 1 or batch_size == 1 else [*rows, *rows])
        batch = tf.nest.map_structure(
            lambda v: tf.gather(v, computed) if v.shape.rank else v, batch
        )
        # XLA rounds a single row in another way than two or more, so a reader of one computes two.
        # Rows that the last batch lacks are read as its first clip and cut off at the end: its
        # shape is then that of any other batch, and needs no program of its own.
        clips = tf.where(batch.clip >= 0, batch.clip, first)
        if cached:
            contents = {name: tf.gather(values, clips) for name, values in cached.items()}
        else:
            contents, problem = reader.read_examples(table, clips, wanted)
            with tf.control_dependencies([reader.assert_sound(table, clips, problem)]):
                contents = tf.nest.map_structure(tf.identity, contents)
        served = {}
        for view in views:
            options = (features.trim_silence_db, how[view.modality])
            series, mask = _serve(view, contents, table, clips, batch, buckets, bucket, *options)
            served[view.modality], served[f"{view.modality}_mask"] = series, mask
        if features.with_ids:
            served["example_id"] = tf.gather(table.example_ids, clips)
        labels = tf.gather(table.labels, clips)
        return tf.nest.map_structure(lambda values: values[:present], (served, labels))

    end = _FOREVER if num_epochs is None else start_epoch + num_epochs
    dataset = tf.data.Dataset.range(start_epoch, end).flat_map(batches_of)
    # A batch that waits for its turn or for its records holds a call but no thread: two calls more
    # than threads keep these at work.
    calls = threads + 2 if threads > 1 else 1
    dataset = dataset.map(assemble, num_parallel_calls=calls, deterministic=True)
    cardinality = (
        tf.data.INFINITE_CARDINALITY if num_epochs is None else num_epochs * batches - start_batch
    )
    dataset = dataset.prefetch(2)
    if left_out:
        dataset = dataset.concatenate(soundness.words_at_the_end(left_out, dataset.element_spec))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    # A checkpoint of an iterator holds its position, not the batches that wait to be served.
    options.experimental_symbolic_checkpoint = True
    # TensorFlow takes a data set inside a map for state; reading a record leaves none.
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


@arguments.tells_new_names
def class_weights(
    data_dir: str | os.PathLike[str],
    *,
    fold: int = 0,
    validation_fold: int | None = None,
    protocol: str = "actor",
    corpora: Corpora = None,
    features: Features = _FEATURES,
) -> np.ndarray:
    """Weights of the classes that make up for their different numbers of training clips.

    A class of `n_c` of `n` clips gets `n / (num_classes * n_c)`, as scikit-learn's "balanced"; with
    votes, `n_c` is the sum of their shares.

    Returns:
      float32 `[num_classes]`; 0 for a class that has no training clip.
    """
    data_dir = os.fspath(data_dir)
    manifest = storage.load_manifest(data_dir)
    deal = manifest.deal(protocol)
    train = deal.part("train", fold, validation_fold, corpora)
    labels = table_lib.select(manifest, data_dir, deal, train, features).labels
    if labels.ndim == 1:
        labels = np.eye(features.num_classes)[labels]
    counts = labels.sum(axis=0)
    weights = len(labels) / (features.num_classes * np.where(counts > 0, counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def _serve(
    view: View,
    contents: dict[str, tf.Tensor],
    table: table_lib.Table,
    clips: tf.Tensor,
    batch: batching.Batches,
    buckets: batching.Buckets,
    bucket: tf.Tensor,
    trim_silence_db: float | None,
    how: dict[str, Any],
) -> tuple[tf.Tensor, tf.Tensor]:
    """One modality of a batch, from the bytes of its records: series and mask."""
    frames = tf.gather(table.frames(view.modality), clips)
    capacity = tf.gather(buckets.source_frames(view.modality), bucket)
    if view.valid_name:
        valid = tf.io.decode_raw(contents[view.valid_name], tf.uint8, fixed_length=capacity) > 0
    else:
        valid = tf.range(capacity)[None, :] < frames[:, None]
    stored = view.decode(contents[view.modality], capacity)
    if view.modality == "audio" and trim_silence_db is not None:
        valid = sounding(stored, valid, trim_silence_db / AUDIO_STEP_DB)
    series, mask = transform(
        stored,
        valid,
        frames,
        batch.frames(view.modality),
        batch.draws,
        tf.range(tf.gather(buckets.frames(view.modality), bucket)),
        view.scaling,
        columns=view.columns,
        rate_hz=view.rate_hz,
        salt=view.salt,
        relative=view.relative,
        **how,
    )
    shape = tf.concat([tf.shape(mask), view.served_shape], axis=0)
    return tf.ensure_shape(tf.reshape(series, shape), [None, None, *view.served_shape]), mask
