"""How an ablation is doing, for a person to read."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from launch.ablation import training as folders
from launch.ablation.plan import Plan, Training
from launch.ablation.pool import Pool
from launch.ablation.training import Outcome

_IN_PLACE_EVERY_S, _LOG_EVERY_S = 1.0, 30.0

# `duration` and `Progress.line` are as in emotion_tfdata.training.progress. Copies: launch imports
# nothing of the rest of the project, which it must run without (see launch/__init__.py).


def duration(seconds: float) -> str:
    """Seconds as `0:07`, `12:30` or `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """One line for each training that ends, and between them where all stand.

    On a terminal the latter is rewritten in place; in a log file it is a line now and then.
    """

    def __init__(self, plan: Plan, stream: TextIO | None = None) -> None:
        self._plan = plan
        self._stream = stream or sys.stdout
        self._in_place = self._stream.isatty()
        self._every_s = _IN_PLACE_EVERY_S if self._in_place else _LOG_EVERY_S
        self._began_s = time.monotonic()
        self._next_s = self._began_s + self._every_s
        self._begun_with: int | None = None  # epochs that were done when this command began
        self._width = 0
        self._said_stopping = False

    def line(self, text: str = "") -> None:
        """One line that stays."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(text + "\n")
        self._stream.flush()

    def ended(
        self, training: Training, outcome: Outcome | None, why: str, seconds: float, count: str
    ) -> None:
        """Tells of a training that has ended.

        Args:
          training: which.
          outcome: None if it did not finish.
          why: it did not; empty if it was stopped on request.
          seconds: it took this time, start and report included.
          count: e.g. `3/36`.
        """
        if outcome is not None:
            figures = outcome.figures["all"]
            text = (
                f"UAR {figures.get('uar', float('nan')):.3f}, "
                f"accuracy {figures.get('accuracy', float('nan')):.3f}, "
                f"{outcome.epochs} epochs, {duration(seconds)}"
            )
        elif why:
            text = f"FAILED: {why}"
        else:
            text = f"stopped after epoch {folders.epochs_done(self._plan.folder(training))}"
        self.line(f"[{count}] {training.name}: {text}")

    def look(self, pool: Pool, finished: Mapping[Training, Outcome]) -> None:
        """Tells where all stand, if it is time to."""
        if pool.stopped_by and not self._said_stopping:
            self._said_stopping = True
            self.line("stopping; the trainings save first, a second request does not wait for that")
        now = time.monotonic()
        if now < self._next_s and self._begun_with is not None:
            return
        running = {
            one.training: folders.epochs_done(self._plan.folder(one.training))
            for one in pool.running
        }
        done = sum(running.values()) + sum(outcome.epochs for outcome in finished.values())
        if self._begun_with is None:
            self._begun_with = done
            return
        self._next_s = now + self._every_s
        total = len(self._plan.trainings)
        parts = [f"{len(finished)}/{total} done"]
        if pool.failed:
            parts.append(f"{len(pool.failed)} failed")
        parts.append(self._rate_and_rest(done, pool, running, now))
        parts += [
            f"{training.name} {epochs}/{self._plan.epochs(training.system)}"
            for training, epochs in running.items()
        ]
        self._show("  ".join(part for part in parts if part))

    def _rate_and_rest(
        self, done: int, pool: Pool, running: Mapping[Training, int], now: float
    ) -> str:
        """Epochs a minute of all jobs together, and the time that is left at that rate."""
        trained = done - (self._begun_with or 0)
        if trained <= 0:
            return ""
        rate = trained / (now - self._began_s)
        most = self._plan.epochs
        left = sum(most(training.system) for training in pool.waiting)
        left += sum(most(training.system) - epochs for training, epochs in running.items())
        return f"{60 * rate:.1f} epochs/min  at most {duration(left / rate)} left"

    def _show(self, text: str) -> None:
        if not self._in_place:
            self.line(text)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)
