"""Workers on all nodes of a Ray cluster. Needs the extra [ray].

Ray reaches the nodes and says when one is lost; on each of them an actor hands tasks to processes
of `Pool`. So what a task may cost is decided where it runs, by the same code as without Ray, and a
node that is lost is never held against the tasks it had: they go elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from emotion_tfdata import ray_join
from preprocess.builder.pool import (
    ONE_THREAD,
    Lost,
    Pool,
    Result,
    Runner,
    Task,
    Waiting,
    WorkerError,
    cores_for,
)

_START_S = 120.0
_END_S = 10.0
_LOOK_S = 2.0  # between two looks at which nodes there are
_LOSSES = 3  # of one node's actor, without a result in between, before the node is given up
_OBJECT_STORE_BYTES = 100_000_000  # of a cluster of our own, which passes hardly anything on

_LOST = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)


@dataclasses.dataclass
class _Node:
    node_id: str
    name: str
    num_workers: int
    actor: Any
    ready: bool = False
    calls: int = 0


@dataclasses.dataclass(frozen=True)
class _Call(Generic[Task]):
    node: _Node
    task: Task | None  # None asks whether the node is ready


class RayPool(Runner[Task, Result]):
    """Runs one function on every node of a Ray cluster. A context manager.

    Nodes that join later take part, too.

    Args:
      function: importable by name on every node; called in the workers with one task.
      num_workers: processes on each node; None for as many as Ray has CPUs there.
      log_dir: unused, since nodes keep their workers' stderr to themselves.
      timeout_s: longest that a task may take before its worker is killed.
      memory_bytes: that a worker may take beyond its code; 0 for no limit.
      address: `auto` for the cluster that this machine belongs to, `host:port`, or `local` for one
        of our own on this machine.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        num_workers: int | None,
        log_dir: Path,
        timeout_s: float,
        memory_bytes: int = 0,
        *,
        address: str = "auto",
    ) -> None:
        self._arguments = (function, timeout_s, memory_bytes)
        self._num_workers = num_workers
        self._address = address
        self._nodes: dict[str, _Node] = {}
        self._losses: Counter[str] = Counter()
        self._calls: dict[Any, _Call[Task]] = {}
        self._looked_s = -float("inf")

    def __enter__(self) -> RayPool[Task, Result]:
        try:
            ray_join.join(
                self._address,
                num_cpus=self._num_workers or len(os.sched_getaffinity(0)),
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        except ray_join.ClusterError as error:
            raise WorkerError(
                f"{error}. Start one with `ray start --head`, on the other machines with "
                "`ray start --address=HOST:6379`, RAY_AUTH_MODE=token and the token that "
                "`ray get-auth-token` prints on all of them; or give --ray_address=local"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        idle = [node for node in self._nodes.values() if node.ready and not node.calls]
        # A node that is lost by now has nothing left to end.
        with contextlib.suppress(ray.exceptions.RayError):
            if idle:  # these end their workers, and remove what they wrote, themselves
                closed = [node.actor.close.remote() for node in idle]
                ray.wait(closed, num_returns=len(closed), timeout=_END_S)
            for node in self._nodes.values():
                ray.kill(node.actor)
        ray.shutdown()

    def run(
        self, tasks: Iterable[Task], timeout_s: float | None = None
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Do as `Runner.run`; fail where no node can work."""
        waiting = Waiting(tasks)
        began_s = time.monotonic()
        while waiting or any(call.task is not None for call in self._calls.values()):
            self._look_for_nodes()
            self._hand_out(waiting, timeout_s)
            if not any(node.ready for node in self._nodes.values()):
                if not self._nodes:
                    raise WorkerError("no node of the Ray cluster is left that can work")
                if time.monotonic() - began_s > _START_S:
                    wanted = ", ".join(f"{n.num_workers} on {n.name}" for n in self._nodes.values())
                    raise WorkerError(
                        f"the Ray cluster gave no CPUs within {_START_S:g} s (wanted: {wanted}). "
                        "`ray status` says what else takes them; --num_workers asks for fewer"
                    )
            done, _ = ray.wait(list(self._calls), timeout=_LOOK_S)
            for reference in done:
                call = self._calls.pop(reference)
                call.node.calls -= 1
                try:
                    result = ray.get(reference)
                except _LOST as error:
                    self._lose(call.node, error)
                    if call.task is not None:
                        waiting.put_last(call.task)
                    continue
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", error)
                    raise WorkerError(f"{call.node.name}: {ray_join.first_line(cause)}") from error
                if call.task is None:
                    call.node.ready = True
                else:
                    self._losses[call.node.node_id] = 0
                    yield call.task, result

    def _look_for_nodes(self) -> None:
        """Put an actor on each node that has none."""
        if time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        for found in ray.nodes():
            node_id, cpus = found["NodeID"], int(found["Resources"].get("CPU", 0))
            usable = found["Alive"] and cpus and self._losses[node_id] < _LOSSES
            if not usable or node_id in self._nodes:
                continue
            num_workers = self._num_workers or cpus
            actor: Any = (
                ray.remote(_Actor)
                .options(
                    num_cpus=min(num_workers, cpus),
                    max_concurrency=num_workers + 1,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
                )
                .remote(num_workers, *self._arguments)
            )
            name = f"{found['NodeManagerHostname']} ({node_id[:8]})"
            node = self._nodes[node_id] = _Node(node_id, name, num_workers, actor)
            self._call(node, actor.ready.remote(), None)

    def _hand_out(self, waiting: Waiting[Task], timeout_s: float | None) -> None:
        """Give each node what it can do at once and one more, the emptiest node first."""
        free = [node for node in self._nodes.values() if node.ready]
        while free and waiting:
            node = min(free, key=lambda node: node.calls / node.num_workers)
            if node.calls > node.num_workers:
                return
            task = waiting.pop()
            self._call(node, node.actor.work.remote(task, timeout_s), task)

    def _call(self, node: _Node, reference: Any, task: Task | None) -> None:
        node.calls += 1
        self._calls[reference] = _Call(node, task)

    def _lose(self, node: _Node, error: Exception) -> None:
        """Note that a node's actor is gone; a node that is still there gets another."""
        if self._nodes.get(node.node_id) is not node:
            return  # an earlier call has told already
        del self._nodes[node.node_id]
        ray.kill(node.actor)
        if getattr(error, "actor_init_failed", False):
            raise WorkerError(
                f"{node.name} cannot work ({_last_line(error)}). Install the project there as "
                "here: pip install -c launch/constraints.txt '.[preprocess,ray]'"
            ) from error
        self._losses[node.node_id] += 1
        self._looked_s = -float("inf")
        if node.ready:
            print(f"{node.name} was lost; its clips go to other nodes", file=sys.stderr)


class _Actor:
    """A node's end: hands tasks to processes of its own machine, one `Pool` for each."""

    def __init__(
        self,
        num_workers: int,
        function: Callable[[Any], Any],
        timeout_s: float,
        memory_bytes: int,
    ) -> None:
        # Spawned processes would load the main module, which is Ray's.
        sys.modules["__main__"].__file__ = None
        os.environ.update(ONE_THREAD)
        self._logs = tempfile.TemporaryDirectory(prefix="emotion_tfdata-")
        self._idle: queue.SimpleQueue[Pool[Any, Any]] = queue.SimpleQueue()
        self._pools = []
        for index, core in enumerate(cores_for(num_workers)):
            log_dir = Path(self._logs.name) / f"{index}"
            log_dir.mkdir()
            pool = Pool(function, 1, log_dir, timeout_s, memory_bytes, [core])
            self._pools.append(pool.__enter__())
            self._idle.put(pool)

    def ready(self) -> None:
        """Return once the node has taken this actor in."""

    def work(self, task: Any, timeout_s: float | None) -> Any:
        """Do a task; several may run at once, each in its own thread."""
        pool = self._idle.get()
        try:
            ((_, result),) = pool.run([task], timeout_s)
            return result
        finally:
            self._idle.put(pool)

    def close(self) -> None:
        """End the workers."""
        for pool in self._pools:
            pool.__exit__()
        self._logs.cleanup()


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
