"""One training by several processes, each with its rows of every batch.

What has to be taken over the whole batch is exchanged by a
`tf.distribute.MultiWorkerMirroredStrategy`. Variables are each process's own, outside the strategy,
which Keras 3 does not get on with; they stay equal because every process does the same to them.
Ray Train starts the processes, and starts all of them again when one is lost (`grid.ray_train`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from emotion_tfdata.models import replicas
from emotion_tfdata.training.startup_messages import without_stderr


class StoppedError(Exception):
    """Asked to stop; the state is saved and the same command resumes there."""


class Workers:
    """A training by this process alone: what is exchanged with nobody is what one has.

    Attributes:
      index: which worker this is; 0 is the chief, the only one that writes.
      count: how many there are.
    """

    index = 0
    count = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process keeps checkpoints, reports and everything else."""
        return self.index == 0

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Call `step`, in which `models.replicas` reaches the other workers."""
        return step(*args)

    def any(self, flag: bool) -> bool:
        """Tell whether any worker's flag is set; all must ask."""
        return flag

    def share(self, make: Callable[[], bytes]) -> bytes:
        """Return what `make` gives at the chief, where alone it is called; all must call this."""
        return self.gather(make() if self.is_chief else b"")[0]

    def gather(self, content: bytes) -> list[bytes]:
        """Return every worker's content, by index; all must call it."""
        return [content]


class SeveralWorkers(Workers):
    """This process's part in a training by several, which `TF_CONFIG` names."""

    def __init__(self) -> None:
        """Wait for the other workers; make this before TensorFlow has computed anything."""
        tf.get_logger().setLevel("WARNING")  # not a line for each exchange
        with without_stderr():
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        self.index = self._strategy.cluster_resolver.task_id
        self.count = self._strategy.num_replicas_in_sync
        self._gather = tf.function(
            lambda values: self._strategy.run(replicas.gather, (values,)),
            input_signature=[tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Call `step` as this worker's replica."""
        return self._strategy.run(step, args)

    def any(self, flag: bool) -> bool:
        """Tell whether any worker's flag is set; all must ask."""
        return bool(np.any(self._gather([int(flag)])))

    def gather(self, content: bytes) -> list[bytes]:
        """Return every worker's content, by index; all must call it."""
        lengths = self._gather([len(content)]).numpy()[:, 0]
        padded = np.frombuffer(content.ljust(lengths.max(), b"\0"), np.uint8)
        rows = self._gather(padded.astype(np.int32)).numpy().astype(np.uint8)
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]
