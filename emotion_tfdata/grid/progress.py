"""How a grid of trainings is doing, for a person to read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from emotion_tfdata.grid.job import Job, figure
from emotion_tfdata.training.progress import Lines, duration

if TYPE_CHECKING:
    from emotion_tfdata.grid.run import Grid


class Progress(Lines):
    """One line for each training that ends, and between them where all stand."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream, in_place_every_s=1.0, log_every_s=30.0)
        self._began_s = time.monotonic()
        self._begun_with = 0  # epochs that were done when this command began
        self._said_stopping = False

    def begin(self, grid: Grid, how: str) -> None:
        """Print what is to be done."""
        self.line(f"{len(grid.jobs)} trainings, {len(grid.finished)} of them finished; {how}")
        self._began_s = time.monotonic()
        self._next_s = self._began_s + self._every_s
        self._begun_with = _epochs(grid) + sum(job.epochs_done for job in grid.waiting)

    def ended(self, grid: Grid, job: Job, seconds: float) -> None:
        """Print that a training ended after so many seconds, start and report included."""
        report = grid.finished.get(job)
        if report is not None:
            text = (
                f"UAR {figure(report, 'uar')}, accuracy {figure(report, 'accuracy')}, "
                f"{report['epochs']} epochs, {duration(seconds)}"
            )
        elif job in grid.failed:
            text = f"FAILED: {grid.failed[job]}"
        else:
            text = f"stopped after epoch {job.epochs_done}"
        self.line(f"[{len(grid.finished)}/{len(grid.jobs)}] {job.name}: {text}")

    def look(self, grid: Grid) -> None:
        """Print where all trainings stand, if it is time to."""
        if grid.stopped_by and not self._said_stopping:
            self._said_stopping = True
            self.line("stopping; the trainings save first, a second request does not wait for that")
        if not self._is_due():
            return
        parts = [f"{len(grid.finished)}/{len(grid.jobs)} done"]
        if grid.failed:
            parts.append(f"{len(grid.failed)} failed")
        trained = _epochs(grid) - self._begun_with
        if trained > 0:
            rate = trained / (time.monotonic() - self._began_s)  # of all jobs together
            left = sum(job.epochs - job.epochs_done for job in (*grid.waiting, *grid.running))
            parts.append(f"{60 * rate:.1f} epochs/min  at most {duration(left / rate)} left")
        parts += [f"{job.name} {job.epochs_done}/{job.epochs}" for job in grid.running]
        self._show("  ".join(parts))


def _epochs(grid: Grid) -> int:
    running = sum(job.epochs_done for job in grid.running)
    return running + sum(report["epochs"] for report in grid.finished.values())
