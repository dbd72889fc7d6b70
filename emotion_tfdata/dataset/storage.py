"""Where a data set lies: in a local folder, on S3 as tensorflow-io reads it, or behind a URL.

What lies behind a URL that fsspec opens is fetched once into a cache folder, and read from there.
TensorFlow is imported for tensorflow-io alone.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os

import numpy as np

from emotion_tfdata.dataset import remote
from emotion_tfdata.dataset.manifest import MANIFEST_NAME, Manifest, ManifestError
from emotion_tfdata.dataset.remote import StorageError
from emotion_tfdata.dataset.table import Table

__all__ = ["DataSet", "StorageError", "load_manifest", "open_data_set"]

_leaves_by_exit = False


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set that can be read.

    Attributes:
      folder: where its files are read from: a local folder, or `s3://bucket/prefix`.
      manifest: what it holds.
      source: where its shards are fetched from; None where they lie in `folder` already.
    """

    folder: str
    manifest: Manifest
    source: remote.Source | None = None

    def fetch(self, table: Table) -> Table:
        """Return the same table with shards that can be read: those of its clips are fetched first.

        Raises:
          StorageError: for one that cannot be fetched or kept.
        """
        if not self.source:
            return table
        wanted = np.unique(table.shards)
        self.source.fetch([self.manifest.shards[shard] for shard in wanted])
        paths = [os.path.join(self.folder, shard.name) for shard in self.manifest.shards]
        return dataclasses.replace(table, paths=np.array(paths))


def open_data_set(data_dir: str, *, with_tensorflow: bool = True) -> DataSet:
    """Find a data set in a local folder or behind a URL: `s3://`, `gs://`, `hf://`, `https://` ...

    Args:
      data_dir: the folder or URL.
      with_tensorflow: whether `s3://` is read by tensorflow-io where it loads, without a copy.

    Raises:
      ManifestError: if there is none, or its manifest cannot be read.
      StorageError: for a place that cannot be read with what is installed, or does not answer.
    """
    scheme, separator, _ = data_dir.partition("://")
    if not separator:
        return DataSet(data_dir, Manifest.load(data_dir))
    if scheme == "s3" and with_tensorflow and _has_tensorflow_io():
        return DataSet(data_dir, _load_by_tensorflow(data_dir))
    source = remote.Source(data_dir)
    manifest = source.load_manifest()
    return DataSet(source.folder, manifest, source)


def load_manifest(data_dir: str) -> Manifest:
    """Read the manifest of a data set in a folder or behind a URL.

    Raises:
      ManifestError: if there is none, or it cannot be read.
      StorageError: for a place that cannot be read with what is installed, or does not answer.
    """
    return open_data_set(data_dir).manifest


def _has_tensorflow_io() -> bool:
    """Tell whether tensorflow-io is installed and loads (0.37.1: with TensorFlow 2.16 and 2.17)."""
    try:
        import tensorflow as tf
        import tensorflow_io  # noqa: F401
    except ImportError:
        return False
    return "s3" in tf.io.gfile.get_registered_schemes()


def _load_by_tensorflow(data_dir: str) -> Manifest:
    import tensorflow as tf

    _leave_before_static_destructors()

    def read(name: str) -> bytes:
        with tf.io.gfile.GFile(os.path.join(data_dir, name), "rb") as file:
            content: bytes = file.read()
            return content

    try:
        return Manifest.read(read, data_dir)
    except tf.errors.NotFoundError as error:
        raise ManifestError(f"{data_dir} holds no data set (no {MANIFEST_NAME})") from error
    except tf.errors.OpError as error:
        raise ManifestError(f"{data_dir}: its manifest cannot be read ({error.message})") from error


def _leave_before_static_destructors() -> None:
    """Make the process end with its own status after S3 was used.

    The S3 client of tensorflow-io 0.37.1 is torn down in the wrong order by a static destructor and
    aborts a process that is done (status 134). C's exit handlers run last in, first out, after
    Python has finished: these two, registered after the library was loaded, flush what C has
    buffered and leave with the status that exit() was given, before its destructors are reached.
    """
    global _leaves_by_exit
    libc = ctypes.CDLL(None)
    if _leaves_by_exit or not hasattr(libc, "on_exit"):
        return
    _leaves_by_exit = True
    libc.on_exit(libc._exit, None)
    libc.__cxa_atexit(libc.fflush, None, None)
