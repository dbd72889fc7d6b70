"""Trainings side by side on this machine, each process on cores of its own."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pebble

import emotion_tfdata
from emotion_tfdata.grid import worker
from emotion_tfdata.grid.job import GridError, Job
from emotion_tfdata.training import threads

# One training's, with room to spare; what it needs is the framework's, hardly the data's.
_MEMORY_BYTES = 1.5e9


class Local:
    """Runs trainings in processes that stay, so that what one compiled serves the next.

    A process that dies costs its own training alone. A context manager.
    """

    def __init__(self, jobs: int, trainings: int, cores_each: int = 0) -> None:
        """Prepare; nothing is started before the first call.

        Args:
          jobs: trainings at a time; 0 for what cores and memory allow.
          trainings: how many there are.
          cores_each: of each; 0 for its share.

        Raises:
          GridError: if there is no memory for so many jobs.
        """
        cores = threads.usable_cores()
        memory = int(free_memory_bytes() / _MEMORY_BYTES)
        if jobs > max(1, memory):
            raise GridError(
                f"--jobs={jobs}: there is memory for {max(1, memory)} trainings at a time "
                f"({_MEMORY_BYTES / 1e9:g} GB each); give fewer, or 0 for what there is room for"
            )
        room = min(cores // (cores_each or 1), memory)
        most = max(1, min(room, trainings))
        self.jobs = min(jobs, trainings) or most
        slots = threads.slots(self.jobs, cores_each)
        # The last trainings get the cores of those that are done. What changes no bit is ready for
        # that; threads within an operation are those of a training's own cores.
        all_cores = threads.suited_to(cores)
        self._args = [f"--inter_op_threads={all_cores.inter_op}"] if slots[0] else []
        self.how = f"{self.jobs} at a time, {len(slots[0]) or 'any'} of {cores} cores each"
        self._locks = tempfile.TemporaryDirectory(prefix="emotion_tfdata-")
        # The server looks for modules there alone; where this one is, all of them are.
        paths = [str(Path(emotion_tfdata.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["emotion_tfdata.grid.preload"])
        self._pool = pebble.ProcessPool(
            max_workers=self.jobs,
            context=context,
            initializer=worker.begin,
            initargs=(slots, self._locks.name),
        )
        self._jobs: dict[Any, Job] = {}

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
        self._pool.join()
        self._locks.cleanup()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in one of the processes; return what it gives."""
        try:
            return self._pool.schedule(function, args=args).result()
        except (pebble.ProcessExpired, concurrent.futures.BrokenExecutor) as error:
            raise GridError(f"no process can be started here ({error})") from error

    def check(self, args: Sequence[str]) -> str:
        """Return why a training cannot be done as its flags say; empty if it can."""
        return self.call(worker.check, (*self._args, *args))

    def room(self) -> int:
        """Return how many more trainings could begin now."""
        return self.jobs - len(self._jobs)

    def start(self, job: Job, stop_file: Path) -> None:
        """Begin a training."""
        own = dataclasses.replace(job, args=(*self._args, *job.args))
        self._jobs[self._pool.schedule(worker.train, args=(own, str(stop_file)))] = job

    def wait(self, seconds: float) -> list[tuple[Job, str]]:
        """Wait until one ends or time is up; return those that ended, each with what went wrong."""
        done, _ = concurrent.futures.wait(
            list(self._jobs), seconds, concurrent.futures.FIRST_COMPLETED
        )
        return [(self._jobs.pop(future), _problem(future)) for future in done]


def _problem(future: Any) -> str:
    error = future.exception()
    if isinstance(error, pebble.ProcessExpired):
        hint = " (out of memory? fewer --jobs need less)" if error.exitcode == -9 else ""
        return f"its process died with status {error.exitcode}{hint}"
    return repr(error) if error else future.result()


def free_memory_bytes() -> float:
    """Return how much memory this machine has left, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")  # not Linux; nothing is known
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
