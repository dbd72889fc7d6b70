"""One training by several processes, and what it takes for one of them to go and come back.

With `TF_CONFIG` set, each process takes its rows of every batch; what has to be taken over the
whole batch is exchanged by a `tf.distribute.MultiWorkerMirroredStrategy`. Variables are each
process's own, outside the strategy, which Keras 3 does not get on with; they stay equal because
every process does the same to them.

TensorFlow cannot mend a cluster that lost a process. So whoever loses one starts itself anew, the
same command in the same process number, and waits; the lost one has only to be started as before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import tensorflow as tf

from emotion_tfdata.models import replicas
from emotion_tfdata.training.cluster import Cluster, ClusterError, read_cluster
from emotion_tfdata.training.links import Links, meet
from emotion_tfdata.training.quiet import without_stderr

_CLUSTER_S = 60  # TensorFlow's own start with all present, which takes a fraction of a second
_VERDICT_S = 15.0  # longest that a failed exchange waits to learn whether a worker is gone
_SETTLE_S = 1.0  # before a new start, so that a fault that lasts does not spin


class StoppedError(Exception):
    """Asked to stop; the state is saved and the same command goes on from there."""


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
        """Calls `step`, in which `models.replicas` reaches the other workers."""
        return step(*args)

    def any(self, flag: bool) -> bool:
        """Whether any worker's flag is set. All must ask."""
        return flag

    def share(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives at the chief. All must call it; it is called at the chief alone."""
        return make()

    def gather(self, content: bytes) -> list[bytes]:
        """Every worker's content, by index. All must call it."""
        return [content]

    def recover(self, error: Exception) -> None:
        """Starts anew if the error comes of another worker's end; returns if it cannot."""

    def close(self, failure: str | None = None) -> None:
        """Takes leave of the others; with the reason, if this one gives up."""


class SeveralWorkers(Workers):
    """This process's part in a training by several."""

    def __init__(
        self, cluster: Cluster, about: Mapping[str, Any], should_stop: Callable[[], bool]
    ) -> None:
        """Waits for the others and joins them. To be made before TensorFlow has computed anything.

        Args:
          cluster: who they are.
          about: what is to be trained, as JSON holds it; must be the same for all.
          should_stop: whether this process has been asked to end.

        Raises:
          ClusterError: if they are not here for the same training, or a port is taken.
          StoppedError: if asked to stop meanwhile.
        """
        self.index, self.count = cluster.index, cluster.count
        self._should_stop = should_stop
        self._ending = threading.Lock()
        sockets = meet(cluster, about, should_stop, self._tell)
        if sockets is None:
            raise StoppedError("the start, waiting for the other workers")
        self._links = Links(cluster, sockets, self._lost, self._failed)
        with without_stderr(), _at_most(_CLUSTER_S):
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))  # TensorFlow has put its own there
        signature = [tf.TensorSpec([], tf.int32)]
        self._sum_of_flags = tf.function(
            lambda flag: self._strategy.run(replicas.total, (flag,)),
            input_signature=signature,
            autograph=False,
        )

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Calls `step` as this worker's replica."""
        return self._strategy.run(step, args)

    def any(self, flag: bool) -> bool:
        """Whether any worker's flag is set. All must ask."""
        return bool(self._sum_of_flags(tf.constant(flag, tf.int32)) > 0)

    def share(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives at the chief. All must call it."""
        return self._links.share(make)

    def gather(self, content: bytes) -> list[bytes]:
        """Every worker's content, by index. All must call it."""
        return self._links.gather(content)

    def recover(self, error: Exception) -> None:
        """Waits to be started anew, which the end of a worker's link does; or sees to it.

        Returns where the error is this process's own affair.
        """
        if isinstance(error, tf.errors.InvalidArgumentError):
            return  # about what was computed here
        time.sleep(_VERDICT_S)
        if isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError):
            self._restart("the connection between the workers failed")

    def close(self, failure: str | None = None) -> None:
        """Takes leave of the others; with the reason, if this one gives up."""
        self._links.close(failure)

    def _tell(self, text: str) -> None:
        print(f"train.py: worker {self.index} {text}", file=sys.stderr, flush=True)

    def _lost(self, name: str) -> None:
        self._restart(f"lost {name}")

    def _failed(self, reason: str) -> None:
        with self._ending:
            self._tell(f"ends because another one failed: {reason}")
            sys.stdout.flush()
            os._exit(1)

    def _restart(self, why: str) -> NoReturn:
        """Replaces this process by a new start of its command; from any thread."""
        self._ending.acquire()  # never released: whoever else comes here waits for the end
        sys.stdout.flush()
        if self._should_stop():
            self._tell(f"{why} while stopping; the last checkpoint counts")
            sys.stderr.flush()
            os._exit(0)
        self._tell(f"{why}: starts again and goes on from the last checkpoint")
        time.sleep(_SETTLE_S)
        signal.alarm(0)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # ports and locks, before the new start
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def join(about: Callable[[], Mapping[str, Any]], should_stop: Callable[[], bool]) -> Workers:
    """The workers that `TF_CONFIG` names, once they are all there; this process alone without it.

    Args:
      about: makes what all must agree on.
      should_stop: whether this process has been asked to end.

    Raises:
      ClusterError: for a wrong `TF_CONFIG`, a taken port, or workers that want different things.
      StoppedError: if asked to stop while waiting.
    """
    cluster = read_cluster(os.environ.get("TF_CONFIG"))
    if cluster is None:
        return Workers()
    versions = {"tensorflow": tf.__version__, "python": sys.version.split()[0]}
    return SeveralWorkers(cluster, {"versions": versions, **about()}, should_stop)


def check_shares(batch_size: int, workers: int) -> None:
    """Raises ClusterError unless a batch can be dealt to so many workers in equal parts."""
    if batch_size % workers:
        raise ClusterError(
            f"--batch_size={batch_size} cannot be shared equally by {workers} workers; take a "
            f"multiple of {workers}"
        )


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Ends the process if TensorFlow waits in vain: it then lets no other thread do anything."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
