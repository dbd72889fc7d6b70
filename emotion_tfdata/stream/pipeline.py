"""make_dataset: from a data set's folder to batches for a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.augment.config import Augment
from emotion_tfdata.dataset import storage
from emotion_tfdata.dataset import table as table_lib
from emotion_tfdata.dataset.protocols import Corpora
from emotion_tfdata.features import Features, Reading
from emotion_tfdata.stream import arguments, assembly, batching, file_check, passes, tf_internals
from emotion_tfdata.stream.transform import effects, make_view

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
    """Make a stream of batches of clips for training or evaluating a model.

    Every pass over the data set, by a loop, Keras or `repeat`, is the next epoch (the next
    `num_epochs` of them). A pass begins when its first batch is asked for.

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
      num_epochs: epochs of a pass; None for ever.
      start_epoch: number of the first pass's first epoch. Epoch `e` is the same however it is
        reached.
      start_batch: batches of the first epoch of the first pass that are skipped without being
        read.
      features: what is served of each clip.
      reading: how clips are read: threads, cache, share of each batch, corrupt records.

    Returns:
      A `tf.data.Dataset` of `(features, label)`. `features` has `audio` float32 `[B, Ta, M]`,
      `audio_mask` bool `[B, Ta]`, `landmarks` float32 `[B, Tv, L, 3]`, `landmarks_mask` bool
      `[B, Tv]` (a row of the clip, with a face in it), those of the modalities chosen, and if
      asked for `head` float32 `[B, Tv, 4]`, `example_id`, `corpus`, `actor`, `intensity` and
      `sentence`, string `[B]` each. `label` is int32 `[B]`, or with
      votes float32 `[B, C]`, shares that add up to 1. Audio comes at 100 frames/s,
      landmarks at 30. What the masks leave out is zero. Cardinality is known, but not with
      `start_batch` and an end: the first pass is then the shorter one.

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
    if augment and augment.modality_dropout and len(chosen) < 2:
        raise ValueError(f"Augment: modality_dropout needs both modalities, not {chosen[0]} alone")
    deal = manifest.deal(protocol)
    train, cells = (deal.part(each, fold, validation_fold, corpora) for each in ("train", split))
    table = table_lib.select(manifest, data_dir, deal, cells, features, example_ids)
    shuffle = split == "train" if shuffle is None else shuffle
    threads = reading.num_threads or os.cpu_count() or 1
    views = [make_view(manifest, modality, deal, train, features) for modality in chosen]
    table, cached, skipped = file_check.check(
        *(data, data.fetch(table), assembly.wanted_arrays(views, features)),
        *(reading.on_corrupt, reading.cache, threads),
    )
    batches = batching.num_batches(len(table), augment, batch_size)
    if start_batch > batches:
        raise ValueError(
            f"start_batch must be in 0..{batches}, the batches of an epoch, got {start_batch}"
        )
    buckets = batching.make_buckets(
        table, reading.num_buckets, augment.stretch if augment else (1.0, 1.0)
    )
    made = assembly.Assembly(
        manifest=manifest,
        features=features,
        views=views,
        effects={modality: effects(manifest, modality, augment) for modality in chosen},
        buckets=buckets,
        rows=reading.rows(batch_size),
        batch_size=batch_size,
        threads=threads,
    )

    def plan(epoch: tf.Tensor, columns: assembly.Contents) -> batching.Batches:
        return batching.plan_epoch(
            assembly.in_the_graph(table, columns),
            buckets,
            seed=seed,
            epoch=epoch,
            batch_size=batch_size,
            augment=augment,
            shuffle=shuffle,
        )

    def lines_of(batches: batching.Batches) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(batches)

    def one_pass(number: tf.Tensor, given: Any) -> tf.data.Dataset:
        columns, codes, cached = given
        first = start_epoch + number * (num_epochs or 1)

        def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
            at_start = (number == 0) & (epoch == start_epoch)
            passed_over = tf.where(at_start, tf.constant(start_batch, tf.int64), 0)
            inputs = tf.data.Dataset.from_tensors((epoch, columns))
            # A step of its own: with every batch, tf.data looks at all operations of `lines_of`.
            planned = tf_internals.map_inline(inputs, plan)
            return tf_internals.flat_map(planned, lines_of).skip(passed_over)

        end = _FOREVER if num_epochs is None else first + num_epochs
        lines = tf_internals.flat_map(tf.data.Dataset.range(first, end), batches_of)
        dataset = made.batches(lines, assembly.in_the_graph(table, columns), codes, cached)
        if skipped:
            at_the_end = file_check.message_at_the_end(skipped, dataset.element_spec)
            dataset = dataset.concatenate(at_the_end)
        return dataset

    codes = assembly.codes_of(manifest, table) if features.with_meta else {}
    counted_passes = passes.counted(one_pass, (assembly.columns_of(table), codes, cached))

    def all_passes() -> tf.data.Dataset:
        dataset = counted_passes()
        if num_epochs is not None and start_batch:  # the first pass is shorter than the others
            return dataset
        cardinality = tf.data.INFINITE_CARDINALITY if num_epochs is None else num_epochs * batches
        return dataset.apply(tf.data.experimental.assert_cardinality(cardinality))

    options = tf.data.Options()
    options.autotune.enabled = False
    # A checkpoint of an iterator holds its position, not the batches that wait to be served.
    options.experimental_symbolic_checkpoint = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return tf_internals.IteratedWith(all_passes, options)


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
    """Compute class weights that make up for different numbers of training clips.

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
    num_classes = len(manifest.class_names(features.num_classes))
    if labels.ndim == 1:
        labels = np.eye(num_classes)[labels]
    counts = labels.sum(axis=0)
    weights = len(labels) / (num_classes * np.where(counts > 0, counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)
