"""From a batch's line in the plan to the batch: read, decode, warp, scale, and cut to size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from emotion_tfdata.augment.draw import LOST
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.table import Table
from emotion_tfdata.features import META, Features
from emotion_tfdata.stream import reader, tf_internals
from emotion_tfdata.stream.batching import Batches, Buckets
from emotion_tfdata.stream.silence import sounding
from emotion_tfdata.stream.transform import View, pose, transform

Contents = dict[str, tf.Tensor]
Served = tuple[dict[str, tf.Tensor], tf.Tensor]

_IN_THE_GRAPH = (
    *("example_ids", "keys", "labels", "audio_frames", "landmarks_frames"),
    *("shards", "offsets", "lengths"),
)


def columns_of(table: Table) -> dict[str, tf.Tensor]:
    """Return the columns of a table that a graph needs, as tensors."""
    return {name: tf.constant(getattr(table, name)) for name in _IN_THE_GRAPH}


def in_the_graph(table: Table, columns: Mapping[str, tf.Tensor]) -> Table:
    """Make a table of tensors handed to a function, so that none of it is copied into its graph."""
    return dataclasses.replace(table, **columns)


def codes_of(manifest: Manifest, table: Table) -> dict[str, tf.Tensor]:
    """Return the codes of each clip's corpus, actor, intensity and sentence, int32 `[N]` each."""
    index = manifest.index
    columns = (index.corpora, index.actors, index.intensities, index.sentences)
    return {
        name: tf.constant(codes[table.places]) for name, codes in zip(META, columns, strict=True)
    }


class _Rows(NamedTuple):
    """The rows of a batch that are computed here.

    Attributes:
      batch: of these rows.
      clips: int32 `[R]`, index into the table.
      present: int64 scalar, how many of the rows the batch has: these are served.
    """

    batch: Batches
    clips: tf.Tensor
    present: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What makes batches from lines of a plan.

    Attributes:
      manifest: of the data set.
      features: what is served.
      views: of the modalities served.
      effects: modality -> arguments of `transform` that are the same for every batch.
      buckets: the shapes.
      rows: of a batch that are served.
      batch_size: of the whole batch.
      threads: that work.
    """

    manifest: Manifest
    features: Features
    views: Sequence[View]
    effects: Mapping[str, Mapping[str, Any]]
    buckets: Buckets
    rows: Sequence[int]
    batch_size: int
    threads: int

    def batches(
        self, plan: tf.data.Dataset, table: Table, codes: Contents, cached: Contents
    ) -> tf.data.Dataset:
        """Build the batches of a plan.

        Args:
          plan: of `Batches` without the `N`.
          table: of tensors.
          codes: from `codes_of`; empty to serve none.
          cached: the bytes of all clips' arrays, string `[N]` each; empty to read them.

        Returns:
          A data set as `make_dataset` gives it.
        """
        wanted = wanted_arrays(self.views, self.features)

        def assemble(batch: Batches) -> Served:
            rows = self._rows(batch)
            if cached:
                contents = {name: tf.gather(values, rows.clips) for name, values in cached.items()}
            else:
                contents, problem = reader.read_examples(table, rows.clips, wanted)
                with tf.control_dependencies([reader.assert_sound(table, rows.clips, problem)]):
                    contents = tf.nest.map_structure(tf.identity, contents)
            return self._assemble(rows, contents, table, codes)

        # A batch that waits for its turn or for its records holds a call but no thread: two calls
        # more than threads keep these at work.
        calls = self.threads + 2 if self.threads > 1 else 1
        return tf_internals.parallel_map(plan, assemble, calls).prefetch(2)

    def _rows(self, batch: Batches) -> _Rows:
        # XLA rounds a single row in another way than two or more, so a reader of one computes two.
        twice = len(self.rows) == 1 and self.batch_size > 1
        computed = tf.constant([*self.rows, *self.rows] if twice else self.rows)
        present = tf.math.count_nonzero(tf.gather(batch.clip, self.rows) >= 0)
        first = batch.clip[0]
        mine = tf.nest.map_structure(
            lambda values: tf.gather(values, computed) if values.shape.rank else values, batch
        )
        # Rows that the last batch lacks are read as its first clip and cut off at the end: its
        # shape is then that of any other batch, and needs no program of its own.
        return _Rows(mine, tf.where(mine.clip >= 0, mine.clip, first), present)

    def _assemble(self, rows: _Rows, contents: Contents, table: Table, codes: Contents) -> Served:
        served: dict[str, tf.Tensor] = {}
        for view in self.views:
            served |= self._serve(view, rows, contents, table)
        if self.features.with_ids:
            served["example_id"] = tf.gather(table.example_ids, rows.clips)
        index = self.manifest.index
        names = (index.corpus_names, index.actor_names, index.intensity_names, index.sentence_names)
        for name, words in zip(META, names, strict=True) if codes else ():
            served[name] = tf.gather(np.array(words), tf.gather(codes[name], rows.clips))
        labels = tf.gather(table.labels, rows.clips)
        return tf.nest.map_structure(lambda values: values[: rows.present], (served, labels))

    def _serve(
        self, view: View, rows: _Rows, contents: Contents, table: Table
    ) -> dict[str, tf.Tensor]:
        """Serve one modality of a batch from the bytes of its records: series, mask and pose."""
        batch, modality, trim_db = rows.batch, view.modality, self.features.trim_silence_db
        frames = tf.gather(table.frames(modality), rows.clips)
        capacity = tf.gather(self.buckets.source_frames(modality), batch.bucket)
        if view.valid_name:
            valid = tf.io.decode_raw(contents[view.valid_name], tf.uint8, fixed_length=capacity) > 0
        else:
            valid = tf.range(capacity)[None, :] < frames[:, None]
        valid &= (batch.draws.lost != LOST[modality])[:, None]
        stored = view.decode(contents[modality], capacity)
        if modality == "audio" and trim_db is not None:
            valid = sounding(stored, valid, trim_db / (view.array.step or 1.0))
        lengths = frames, batch.frames(modality)
        grid = tf.range(tf.gather(self.buckets.frames(modality), batch.bucket))
        series, mask = transform(
            stored,
            valid,
            *lengths,
            batch.draws,
            grid,
            view.scaling,
            columns=view.columns,
            rate_hz=view.rate_hz,
            salt=view.salt,
            relative=view.relative,
            **self.effects[modality],
        )
        series = tf.reshape(series, tf.concat([tf.shape(mask), view.served_shape], axis=0))
        series = tf.ensure_shape(series, [None, None, *view.served_shape])
        served = {modality: series, f"{modality}_mask": mask}
        if self.features.head and modality == "landmarks":
            floats = tf.io.decode_raw(contents["head"], tf.float32, fixed_length=capacity * 16)
            head = tf.reshape(floats, [-1, capacity, 4])
            served["head"] = pose(head, valid, *lengths, batch.draws.stretch, grid)
        return served


def wanted_arrays(views: Sequence[View], features: Features) -> reader.Wanted:
    """Return which arrays of a record are needed."""
    wanted = {name: (view.modality, sizes) for view in views for name, sizes in view.stored.items()}
    return wanted | ({"head": ("landmarks", (4,))} if features.head else {})
