"""Spawned worker processes (Pebble's), each doing one task at a time.

A worker that dies or hangs takes down the one task it had. It is replaced, and the task tried once
more.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pebble

from emotion_tfdata import pinning

Task = TypeVar("Task")
Result = TypeVar("Result")

_ATTEMPTS = 2  # at a task that its worker does not survive
_FAILED_STARTS = 3  # without a result in between
_LONGEST_S = 1e7  # a timeout beyond is none
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
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
_function: Callable[[Any], Any]  # what this process, a worker, does with a task


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
        """Take the next task, if there is one."""
        if not self:
            raise IndexError("no task is waiting")
        return (self._first or self._last).popleft()

    def put_first(self, task: Task) -> None:
        """Put a task back in front."""
        self._first.appendleft(task)

    def put_last(self, task: Task) -> None:
        """Put a task behind all others."""
        self._last.append(task)


class Runner(Protocol[Task, Result]):
    """What spreads work over processes, wherever they are. A context manager."""

    def __enter__(self) -> Runner[Task, Result]:
        """Start the workers."""
        ...

    def __exit__(self, *_: object) -> None:
        """End all that was started."""
        ...

    def run(
        self, tasks: Iterable[Task], timeout_s: float | None = None
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Run all tasks; yield each with its result as it comes, in no fixed order.

        Args:
          tasks: what the function is called with; fetched as they can be done.
          timeout_s: longest that one of them may take, where that is not what all may.

        Raises:
          WorkerError: if there is nobody who can do them.
        """
        ...


class Pool(Runner[Task, Result]):
    """Processes of this machine that all run one function. A context manager.

    Args:
      function: importable by name; called in the workers with one task.
      num_workers: most processes.
      log_dir: where each worker's stderr goes (native libraries write there as they like); None for
        where the parent's goes.
      timeout_s: longest that a task may take before its worker is killed.
      memory_bytes: that a worker may take beyond its code; 0 for no limit.
      cores: one for each worker to stay on; by default as `cores_for` says.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        num_workers: int,
        log_dir: Path | None,
        timeout_s: float,
        memory_bytes: int = 0,
        cores: Sequence[int | None] | None = None,
    ) -> None:
        self._function = function
        self._num_workers = num_workers
        self._log_dir = log_dir
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._cores = cores_for(num_workers) if cores is None else cores
        self._pool: Any = None
        self._stack = contextlib.ExitStack()
        self._locks = ""

    def __enter__(self) -> Pool[Task, Result]:
        self._locks = self._stack.enter_context(tempfile.TemporaryDirectory())
        # For as long as workers may be started.
        self._stack.enter_context(_environment(ONE_THREAD))
        self._stack.callback(self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, tasks: Iterable[Task], timeout_s: float | None = None
    ) -> Iterator[tuple[Task, Result | Lost]]:
        """Do as `Runner.run`; fail where workers die before they can take a task."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        waiting = Waiting((task, 1) for task in tasks)
        running: dict[Any, tuple[Task, int]] = {}
        failed_starts = 0
        while waiting or running:
            while waiting and len(running) < self._num_workers:
                task, attempt = waiting.pop()
                running[self._schedule(task, limit_s)] = task, attempt
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                task, attempt = running.pop(future)
                error = future.exception()
                if isinstance(error, concurrent.futures.BrokenExecutor):
                    waiting.put_first((task, attempt))
                    continue
                failed_starts = 0
                if error is None:
                    yield task, future.result()
                elif attempt < _ATTEMPTS:
                    waiting.put_last((task, attempt + 1))
                else:
                    yield task, Lost(self._reason(error, limit_s))
            if self._pool and not self._pool.active:
                failed_starts += 1
                if failed_starts >= _FAILED_STARTS:
                    raise WorkerError(f"workers do not start{_last_line(self._newest_log())}")
                self._stop()

    def _schedule(self, task: Task, limit_s: float) -> Any:
        timeout_s = limit_s if limit_s < _LONGEST_S else None
        if self._pool is None:
            function = pickle.dumps(self._function)
            cores = [() if core is None else (core,) for core in self._cores]
            args = (function, self._log_dir, self._memory_bytes, cores, self._locks)
            self._pool = pebble.ProcessPool(
                self._num_workers,
                initializer=_begin,
                initargs=args,
                context=multiprocessing.get_context("spawn"),
            )
        with contextlib.suppress(RuntimeError), _uninterrupted():
            return self._pool.schedule(_do, (task,), timeout=timeout_s)
        broken: concurrent.futures.Future[Result] = concurrent.futures.Future()
        broken.set_exception(concurrent.futures.BrokenExecutor())
        return broken

    def _stop(self) -> None:
        if self._pool is not None:
            with _uninterrupted():  # it would be lost in what is collected meanwhile
                self._pool.stop()
                self._pool.join()
            self._pool = None

    def _reason(self, error: BaseException, limit_s: float) -> str:
        if isinstance(error, concurrent.futures.TimeoutError):
            return f"took longer than {limit_s:g} s and was stopped"
        if not isinstance(error, pebble.ProcessExpired):
            return f"its worker failed ({type(error).__name__}: {error})"
        code = error.exitcode
        cause = signal.Signals(-code).name if code < 0 else f"status {code}"
        log = self._log_dir / f"worker-{error.pid}.log" if self._log_dir else None
        return f"its worker died ({cause}{_last_line(log)})"

    def _newest_log(self) -> Path | None:
        logs = list(self._log_dir.glob("worker-*.log")) if self._log_dir else []
        return max(logs, key=lambda log: log.stat().st_mtime_ns, default=None)


def cores_for(num_workers: int) -> list[int | None]:
    """Choose a core for each worker if they fill the machine; else None, for the system to decide.

    FaceMesh works in several threads that wait for each other; where these wander between cores,
    two workers on two cores take a quarter longer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if num_workers < len(cores):
        return [None] * num_workers
    return [cores[index % len(cores)] for index in range(num_workers)]


def _begin(
    function: bytes,
    log_dir: Path | None,
    memory_bytes: int,
    cores: Sequence[Sequence[int]],
    locks: str,
) -> None:
    """Make this process, just started, a worker."""
    global _function
    pinning.take(cores, locks)
    if memory_bytes:
        # Writable memory, unlike the address space, in which libraries reserve what they never use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if sys.platform == "linux":  # who builds again is then alone
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent decides what an interrupt means; Pebble has it ignored.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, whatever a library is doing
    if log_dir:
        sys.stderr.flush()
        log = log_dir / f"worker-{os.getpid()}.log"
        descriptor = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    _function = pickle.loads(function)


def _do(task: Any) -> Any:
    return _function(task)


def _last_line(log: Path | None) -> str:
    """Return the last line that a worker wrote, after a colon."""
    lines = []
    if log and log.exists():
        lines = log.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back interrupts, for good in threads and processes that are started inside."""
    # Else it might unblock what the line after it blocks.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Change the environment that processes started inside inherit."""
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
