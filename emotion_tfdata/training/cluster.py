"""Who trains together: what `TF_CONFIG` says, checked before anybody waits for anybody."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


class ClusterError(ValueError):
    """Workers that cannot train together: a wrong `TF_CONFIG`, or one that differs from another."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a training and which of them this process is.

    Attributes:
      addresses: `host:port` of each; the first is the chief's.
      index: of this process.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self.addresses)

    def host_and_port(self, index: int) -> tuple[str, int]:
        """Where a worker listens."""
        host, _, port = self.addresses[index].rpartition(":")
        return host.strip("[]"), int(port)

    def name(self, index: int) -> str:
        """A worker as messages call it."""
        return f"worker {index} ({self.addresses[index]})"


def read_cluster(text: str | None) -> Cluster | None:
    """Reads a `TF_CONFIG`, as TensorFlow's own multi-worker training does.

    Args:
      text: of the variable; None where it is not set.

    Returns:
      The cluster, its chief (if there is a job of that name) before its workers; None where the
      text says nothing or names one worker alone.

    Raises:
      ClusterError: if it is no such text; the message says what is wrong.
    """
    if text is None or not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is not JSON ({error})") from error
    if config == {}:
        return None
    cluster = config.get("cluster") if isinstance(config, dict) else None
    task = config.get("task") if isinstance(config, dict) else None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _wrong("it needs 'cluster' and 'task'")
    others = sorted(cluster.keys() - {"chief", "worker"})
    if others:
        raise _wrong(f"it names jobs of {', '.join(others)}; there are 'chief' and 'worker'")
    jobs = {job: cluster.get(job, []) for job in ("chief", "worker")}
    for name, listed in jobs.items():
        if not isinstance(listed, list) or not all(map(_is_address, listed)):
            raise _wrong(f"{name} must be a list of 'host:port', got {listed!r}")
    if len(jobs["chief"]) > 1:
        raise _wrong("there is one chief at most")
    addresses = jobs["chief"] + jobs["worker"]
    if len(set(addresses)) < len(addresses):
        raise _wrong("an address stands there twice")
    job, index = task.get("type"), task.get("index")
    if job not in jobs:
        raise _wrong(f"the task's type is {job!r}; it is 'chief' or 'worker'")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[job]):
        raise _wrong(f"the task is {job} {index!r}, of {len(jobs[job])} counted from 0")
    index += len(jobs["chief"]) if job == "worker" else 0
    return Cluster(tuple(addresses), index) if len(addresses) > 1 else None


def _is_address(address: Any) -> bool:
    if not isinstance(address, str):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _wrong(what: str) -> ClusterError:
    return ClusterError(f"TF_CONFIG: {what}. It looks like {_EXAMPLE}; unset it to train alone")
