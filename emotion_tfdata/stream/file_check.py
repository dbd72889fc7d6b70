"""Whether a data set's files are what its manifest says, and what is left to serve if not."""

from __future__ import annotations

import os
import warnings
from typing import Any

import tensorflow as tf

from emotion_tfdata.dataset import table as table_lib
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.dataset.storage import DataSet
from emotion_tfdata.stream import reader


def check(
    data: DataSet,
    table: table_lib.Table,
    wanted: reader.Wanted,
    on_corrupt: str,
    cache: bool,
    threads: int,
) -> tuple[table_lib.Table, dict[str, tf.Tensor], str]:
    """Compare the files with the manifest, and read every record where that is asked for.

    Args:
      data: the data set.
      table: the clips wanted.
      wanted: their arrays.
      on_corrupt: `"raise"`, or `"skip"` to skip corrupt records, with a warning.
      cache: whether the bytes are to be kept in memory.
      threads: to read with.

    Returns:
      The clips to serve; the bytes of each of their arrays, string `[N]`, empty without `cache`;
      and what was skipped, in words.

    Raises:
      reader.CorruptDataError: for files that are not the manifest's or, where all records are read,
        corrupt ones; with `"skip"`, if no record is sound.
    """
    data_dir = data.folder
    # What was fetched has been compared already, and more is not there.
    problems = [] if data.source else shard_problems(data.manifest, data_dir)
    if problems and on_corrupt == "raise":
        raise reader.CorruptDataError(f"{data_dir}: " + "; ".join(problems))
    if on_corrupt == "raise" and not cache:
        return table, {}, ""
    contents, sound, unsound = reader.read_all(table, wanted, threads)
    wrong = [*unsound, *(f"{data_dir}: {problem}" for problem in problems)]
    skipped = ""
    if problems and not unsound:  # of clips that are not served here
        warnings.warn("\n".join(wrong), stacklevel=3)
    elif wrong:
        found = f"{len(unsound)} of {len(table)} records are corrupt:\n" + "\n".join(wrong)
        if on_corrupt == "raise":
            raise reader.CorruptDataError(found)
        if not sound.any():
            raise reader.CorruptDataError(f"{found}\nNone is left to serve.")
        skipped = f"Skipped: {found}"
        warnings.warn(skipped, stacklevel=3)
        table = table.only(sound)
        contents = {name: tf.boolean_mask(values, sound) for name, values in contents.items()}
    return table, contents if cache else {}, skipped


def shard_problems(manifest: Manifest, data_dir: str) -> list[str]:
    """Compare the files with the manifest by name and size; return each difference in words."""
    problems = []
    for shard in manifest.shards:
        path = os.path.join(data_dir, shard.name)
        if not tf.io.gfile.exists(path):
            problems.append(f"{shard.name} is missing")
        elif (size := tf.io.gfile.stat(path).length) != shard.bytes:
            problems.append(f"{shard.name} has {size} bytes, the manifest says {shard.bytes}")
    known = {shard.name for shard in manifest.shards}
    for name in sorted(tf.io.gfile.listdir(data_dir)):
        if ".tfrecord" in name and name not in known:
            problems.append(f"{name} is not in the manifest")
    return problems


def message_at_the_end(words: str, element_spec: Any) -> tf.data.Dataset:
    """Make an empty data set that prints to the standard error when it is its turn.

    Args:
      words: what it prints.
      element_spec: of the data set that it is to follow.
    """

    def say(_: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.print(words)]):
            return tf.constant(False)

    def element(_: tf.Tensor) -> Any:
        return tf.nest.map_structure(
            lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype), element_spec
        )

    return tf.data.Dataset.range(1).filter(say).map(element)
