"""Sees a grid of trainings through: what is finished is kept, and a request to stop saves all."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from emotion_tfdata.grid.job import GridError, Job, figure
from emotion_tfdata.grid.progress import Progress
from emotion_tfdata.training import run_dir

TABLE = "trainings.md"
_STOP = ".stop"
_LOOK_S = 0.3


class Runner(Protocol):
    """Where trainings are done."""

    how: str

    def room(self) -> int:
        """Return how many more trainings could begin now."""

    def start(self, job: Job, stop_file: Path) -> None:
        """Begin a training, which is to save and leave when `stop_file` appears."""

    def wait(self, seconds: float) -> list[tuple[Job, str]]:
        """Wait until one ends or time is up; return those that ended, each with what went wrong."""

    def check(self, args: Sequence[str]) -> str:
        """Return why a training cannot be done as its flags say; empty if it can."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function where trainings are done; return what it gives."""


class Grid:
    """Trainings, and where they stand.

    Attributes:
      folder: of the grid; each training has its own.
      jobs: all of them, in the order in which they are done.
      finished: what they came to.
      failed: what they said last.
      running: since when, on the monotonic clock.
      stopped_by: the signal that asked to stop; 0 for none.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self.folder, self.jobs = folder, list(jobs)
        reports = {job: job.report for job in jobs}
        self.finished = {job: report for job, report in reports.items() if report is not None}
        self.failed: dict[Job, str] = {}
        self.running: dict[Job, float] = {}
        self._asked: list[int] = []

    @property
    def waiting(self) -> list[Job]:
        """The trainings that have not begun."""
        begun = (self.finished, self.failed, self.running)
        return [job for job in self.jobs if not any(job in some for some in begun)]

    @property
    def stopped_by(self) -> int:
        """The signal that asked to stop; 0 for none."""
        return self._asked[-1] if self._asked else 0

    def run(
        self, runner: Runner, progress: Progress, on_end: Callable[[Job], object] = lambda job: None
    ) -> bool:
        """Run all trainings, or leave when SIGTERM or Ctrl-C asks to, at the second without saving.

        Args:
          runner: does them.
          progress: tells of them.
          on_end: called when a training has ended, however it did.

        Returns:
          Whether all are finished.
        """
        stop_file = self.folder / _STOP
        stop_file.unlink(missing_ok=True)
        progress.begin(self, runner.how)
        waiting = self.waiting
        with self._signals():
            while self.running or (waiting and not self._asked):
                while waiting and runner.room() > 0 and not self._asked:
                    job = waiting.pop(0)
                    self.running[job] = time.monotonic()
                    runner.start(job, stop_file)
                for job, problem in runner.wait(_LOOK_S):
                    seconds = time.monotonic() - self.running.pop(job)
                    report = job.report
                    if report is not None:
                        self.finished[job] = report
                    elif not self._asked:
                        self.failed[job] = problem or "it left no report"
                    progress.ended(self, job, seconds)
                    self._write_table()
                    on_end(job)
                if self._asked:
                    stop_file.touch()
                if len(self._asked) > 1:
                    break
                progress.look(self)
        stop_file.unlink(missing_ok=True)
        self._write_table()
        return len(self.finished) == len(self.jobs)

    @property
    def status(self) -> int:
        """The exit status of a command that ran this."""
        if self.stopped_by:
            return 128 + signal.SIGINT if self.stopped_by == signal.SIGINT else 0
        return 1 if self.failed else 0

    def state(self, job: Job) -> str:
        """Say where a training stands."""
        if job in self.finished:
            return "finished"
        if job in self.failed:
            return f"failed: {self.failed[job]}"
        epochs = job.epochs_done
        if job in self.running:
            return f"running, {epochs} of {job.epochs} epochs done"
        return f"interrupted, {epochs} of {job.epochs} epochs done" if epochs else "waiting"

    def _write_table(self) -> None:
        lines = ["| training | UAR | accuracy | epochs | seconds |", "|---|---|---|---|---|"]
        for job in self.jobs:
            report = self.finished.get(job)
            cells = [self.state(job), "", "", ""]
            if report is not None:
                uar, accuracy = (figure(report, name) for name in ("uar", "accuracy"))
                cells = [uar, accuracy, str(report["epochs"]), f"{report['seconds']:.0f}"]
            lines.append(f"| {' | '.join([job.name, *cells])} |")
        run_dir.write_text(self.folder / TABLE, "\n".join(lines) + "\n")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self._asked.append(number)

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def runner_of(values: Any, trainings: int) -> Any:
    """Start the runner that flags name, and close it at the end.

    Args:
      values: flags, as `runner_flags` defines them.
      trainings: how many there are.

    Raises:
      GridError: if there is none.
    """
    if values.runner == "local":
        from emotion_tfdata.grid.local import Local

        if values.workers > 1:
            raise GridError(
                f"--workers={values.workers} needs --runner=ray; add --ray_address=local for this "
                "machine alone"
            )
        with Local(values.jobs, trainings, values.cores_each) as runner:
            yield runner
        return
    try:
        from emotion_tfdata.grid.on_ray import OnRay
    except ImportError as error:
        raise GridError(
            f"--runner=ray needs Ray ({error}). Install the extra [ray], on every node: "
            "pip install -c launch/constraints.txt '.[train,ray]'"
        ) from error
    with OnRay(values.ray_address, values.jobs, values.cores_each or 1, values.workers) as cluster:
        yield cluster


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the grid's folder and hold it for this process.

    Raises:
      GridError: if it cannot be written, or another process has it.
    """
    try:
        with run_dir.locked(folder, ".grid.lock", "another grid of trainings"):
            yield
    except run_dir.RunDirError as error:
        raise GridError(str(error)) from error
