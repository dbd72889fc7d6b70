"""Where a data set lies: in a local folder, or on S3, for which tensorflow-io is then imported."""

from __future__ import annotations

import ctypes
import os

import tensorflow as tf

from emotion_tfdata.manifest import MANIFEST_NAME, Manifest, ManifestError

_FITS = "tensorflow-io 0.37.1 goes with TensorFlow 2.16 and 2.17"
_leaves_by_exit = False


class StorageError(RuntimeError):
    """A place that cannot be read with what is installed."""


def load_manifest(data_dir: str) -> Manifest:
    """Reads the manifest of a data set, local or at `s3://bucket/prefix`.

    Raises:
      ManifestError: if there is none, or it cannot be read.
      StorageError: for another kind of place, or where tensorflow-io is missing or does not fit.
    """
    scheme, separator, _ = data_dir.partition("://")
    if not separator:
        return Manifest.load(data_dir)
    if scheme != "s3":
        raise StorageError(f"{data_dir}: data sets are read from local folders and s3:// alone")
    _enable_s3()

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


def _enable_s3() -> None:
    try:
        import tensorflow_io
    except ModuleNotFoundError as error:
        raise StorageError(
            "reading from s3:// needs tensorflow-io: pip install 'emotion_tfdata[aws]'"
        ) from error
    if "s3" not in tf.io.gfile.get_registered_schemes():
        raise StorageError(
            f"tensorflow-io {tensorflow_io.__version__} does not load its S3 part with TensorFlow "
            f"{tf.__version__}; {_FITS}"
        )
    _leave_before_static_destructors()


def _leave_before_static_destructors() -> None:
    """Makes the process end with its own status after S3 was used.

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
