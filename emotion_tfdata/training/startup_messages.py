"""Keeps TensorFlow's start-up messages from a training's output; errors still come through."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator

import tensorflow as tf


@functools.cache
def start_compiler() -> None:
    """Start XLA, which describes itself on stderr whatever the log level, once a process.

    To be called when TensorFlow's threads and cluster are set up.
    """
    with without_stderr():
        tf.function(tf.identity, autograph=False, jit_compile=True)(tf.constant(0.0))


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Keep back what is written to stderr, C++ code included, unless it fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
