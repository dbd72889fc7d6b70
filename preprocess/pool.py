"""Spawned worker processes, each doing one task at a time, so that a task can cost only itself.

A worker that dies or hangs takes down the one task it had. It is replaced, and the task tried once
more. (An executor of the standard library gives up all that is queued when one worker dies.)
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_FAILED_STARTS = 3  # one after the other
_START_S = 120.0
_END_S = 5.0
_LONGEST_WAIT_S = 3600.0  # the system takes no more than some days at once
_READY = "ready"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NOTHING, _NOT_STARTED = object(), object()
# Libraries read these when they load. One thread each: the cores are shared out by process.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)

# multiprocessing, when it starts a process, reaps those of all threads that have ended.
_processes = threading.Lock()


class WorkerError(RuntimeError):
    """Workers that cannot be started, or whose code failed in a way no task is to blame for."""


@dataclasses.dataclass(frozen=True)
class Lost:
    """Stands for the result of a task that its workers did not survive.

    Attributes:
      reason: what became of them.
    """

    reason: str


class Waiting(Generic[Task]):
    """Tasks that are still to be done, each fetched when it is wanted: there may be thousands.

    Args:
      tasks: in order.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self._first: deque[Task] = deque()
        self._last: deque[Task] = deque()

    def __bool__(self) -> bool:
        if not self._first:
            self._first.extend(itertools.islice(self._tasks, 1))
        return bool(self._first or self._last)

    def pop(self) -> Task:
        """Takes the next one, where there is one."""
        if not self:
            raise IndexError("no task is waiting")
        return (self._first or self._last).popleft()

    def put_first(self, task: Task) -> None:
        """Puts one back."""
        self._first.appendleft(task)

    def put_last(self, task: Task) -> None:
        """Puts one behind all others."""
        self._last.append(task)


class Runner(Protocol[Task, Result]):
    """What spreads work over processes, wherever they are. A context manager."""

    def __enter__(self) -> Runner[Task, Result]:
        """Starts it."""
        ...

    def __exit__(self, *_: object) -> None:
        """Ends all that it started."""
        ...

    def run(
        self, tasks: Iterable[Task], timeout_s: float | None = None
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Does all tasks; yields each with its result as it comes, in no fixed order.

        Args:
          tasks: what the function is called with; fetched as they can be done.
          timeout_s: longest that one of them may take, where that is not what all may.

        Raises:
          WorkerError: if there is nobody who can do them.
        """
        ...


@dataclasses.dataclass
class _Worker(Generic[Task]):
    process: Any
    channel: Any
    log: Path | None
    core: int | None
    task: Task | None = None
    attempt: int = 0
    ready: bool = False
    deadline_s: float = math.inf


class Pool(Runner[Task, Result]):
    """Processes of this machine that all run one function. A context manager.

    Args:
      function: importable by name; called in the workers with one task.
      num_workers: most processes; they start when there are tasks for them.
      log_dir: where each worker's stderr goes (native libraries write there as they like); None for
        where the parent's goes.
      timeout_s: longest that a task may take before its worker is killed.
      memory_bytes: that a worker may take beyond its code; 0 for no limit.
      cores: one for each worker to stay on; by default as `cores_for` says.
      attempts: how often a task is tried that its worker does not survive.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        num_workers: int,
        log_dir: Path | None,
        timeout_s: float,
        memory_bytes: int = 0,
        cores: Sequence[int | None] | None = None,
        attempts: int = 2,
    ) -> None:
        self._function = function
        self._num_workers = num_workers
        self._log_dir = log_dir
        self._timeout_s = self._limit_s = timeout_s
        self._memory_bytes = memory_bytes
        self._free_cores = list(cores_for(num_workers) if cores is None else cores)
        self._attempts = attempts
        self._workers: list[_Worker[Task]] = []
        self._started = self._failed_starts = 0

    def __enter__(self) -> Pool[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        # Results have been handed over; a worker that unloads its libraries takes half a second.
        for worker in self._workers:
            worker.process.kill()
        for worker in list(self._workers):
            self._end(worker)

    def run(
        self, tasks: Iterable[Task], timeout_s: float | None = None
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """As `Runner` says. Nobody can do them where workers die before they can take one."""
        self._limit_s = self._timeout_s if timeout_s is None else timeout_s
        waiting = Waiting((task, 1) for task in tasks)
        while waiting or any(worker.task is not None for worker in self._workers):
            self._hand_out(waiting)
            for worker in self._wait():
                task, attempt = worker.task, worker.attempt
                assert task is not None
                result = self._collect(worker)
                if result is _NOTHING:
                    continue
                worker.task = None
                if result is _NOT_STARTED:
                    waiting.put_first((task, attempt))
                elif isinstance(result, Lost) and attempt < self._attempts:
                    waiting.put_last((task, attempt + 1))
                else:
                    yield task, result

    def _hand_out(self, waiting: Waiting[tuple[Task, int]]) -> None:
        idle = [worker for worker in self._workers if worker.task is None]
        while (idle or len(self._workers) < self._num_workers) and waiting:
            worker = idle.pop() if idle else self._start()
            worker.task, worker.attempt = waiting.pop()
            patience_s = self._limit_s if worker.ready else _START_S
            worker.deadline_s = time.monotonic() + patience_s
            # A worker that died while idle shows when it is waited for.
            with contextlib.suppress(OSError):
                worker.channel.send(worker.task)

    def _wait(self) -> list[_Worker[Task]]:
        """Busy workers that have something to say, have died or are out of time."""
        busy = [worker for worker in self._workers if worker.task is not None]
        signs = [sign for worker in busy for sign in (worker.channel, worker.process.sentinel)]
        patience_s = min(worker.deadline_s for worker in busy) - time.monotonic()
        heard = connection.wait(signs, min(max(patience_s, 0), _LONGEST_WAIT_S))
        now_s = time.monotonic()
        return [
            worker
            for worker in busy
            if worker.channel in heard
            or worker.process.sentinel in heard
            or worker.deadline_s <= now_s
        ]

    def _collect(self, worker: _Worker[Task]) -> Any:
        """A worker's result, or what stands in its place."""
        # Where it died in the middle of its answer, what follows says how.
        with contextlib.suppress(EOFError, OSError):
            if worker.channel.poll():
                kind, content = worker.channel.recv()
                if kind != _READY:
                    return content
                worker.ready = True
                self._failed_starts = 0
                worker.deadline_s = time.monotonic() + self._limit_s
                return _NOTHING
        in_time = worker.deadline_s > time.monotonic()
        self._end(worker)
        if worker.ready:
            if in_time:
                return Lost(f"its worker died ({_cause(worker)})")
            return Lost(f"took longer than {self._limit_s:g} s and was stopped")
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            raise WorkerError(f"workers do not start ({_cause(worker)})")
        return _NOT_STARTED

    def _start(self) -> _Worker[Task]:
        context = multiprocessing.get_context("spawn")
        self._started += 1
        log = self._log_dir / f"worker-{self._started}.log" if self._log_dir else None
        core = self._free_cores.pop(0)
        channel, theirs = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(theirs, self._function, log, self._memory_bytes, core),
            daemon=True,
        )
        # Else it might unblock what the line after it blocks.
        resource_tracker.ensure_running()
        with _processes, _environment(ONE_THREAD), _blocked(signal.SIGINT):
            process.start()
        theirs.close()
        worker: _Worker[Task] = _Worker(process, channel, log, core)
        self._workers.append(worker)
        return worker

    def _end(self, worker: _Worker[Task]) -> None:
        self._workers.remove(worker)
        if worker.task is not None and worker.deadline_s <= time.monotonic():
            worker.process.kill()
        worker.channel.close()  # a worker that waits for a task ends by itself when this closes
        with _processes:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._free_cores.append(worker.core)


def cores_for(num_workers: int) -> list[int | None]:
    """A core for each worker, if they fill the machine; else None, for the system to decide.

    FaceMesh works in several threads that wait for each other; where these wander between cores,
    two workers on two cores take a quarter longer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if num_workers < len(cores):
        return [None] * num_workers
    return [cores[index % len(cores)] for index in range(num_workers)]


def _serve(
    channel: Any,
    function: Callable[[Any], Any],
    log: Path | None,
    memory_bytes: int,
    core: int | None,
) -> None:
    """A worker's life: takes tasks until the channel closes, its parent's death included."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    if memory_bytes:
        # Writable memory, unlike the address space, in which libraries reserve what they never use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    if log:
        sys.stderr.flush()
        descriptor = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    message: tuple[str, Any] = (_READY, None)
    while True:
        try:
            channel.send(message)
            task = channel.recv()
        except (EOFError, ConnectionError):  # nobody waits for results, or has tasks any more
            return
        message = ("result", function(task))


def _die_with_parent() -> None:
    """Has the kernel end this process when its parent is killed: who builds again is then alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _cause(worker: _Worker[Any]) -> str:
    """How a worker ended, with the last line it wrote."""
    code = worker.process.exitcode
    cause = f"status {code}"
    if code is not None and code < 0:
        cause = signal.Signals(-code).name
    lines = []
    if worker.log and worker.log.exists():
        lines = worker.log.read_text(errors="replace").strip().splitlines()
    return f"{cause}: {lines[-1]}" if lines else cause


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Keeps a signal waiting, also in processes that are started inside."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Changes the environment that processes started inside inherit."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
