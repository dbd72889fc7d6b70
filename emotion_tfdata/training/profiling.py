"""Where the time of a few steps goes: a profile for TensorBoard, and the short of it in words."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

# Steps that trace graphs, compile the input's programs and fill its buffers.
_WARM_UP_STEPS = 20


@dataclasses.dataclass(frozen=True)
class ProfiledSteps:
    """Which steps of a process are profiled, counted from 1, whichever epoch they belong to.

    Attributes:
      first, last: the steps, both included.

    Raises:
      ValueError: unless `1 <= first <= last`.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"profile={self.first},{self.last}: the steps must be 1 <= FIRST <= LAST"
            )

    @classmethod
    def parse(cls, text: str) -> ProfiledSteps:
        """Read `FIRST,LAST`, or a number of steps to take after the warm-up.

        Raises:
          ValueError: for anything else.
        """
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            return cls(_WARM_UP_STEPS + 1, _WARM_UP_STEPS + numbers[0])
        if len(numbers) != 2:
            raise ValueError(f"profile={text}: give FIRST,LAST or a number of steps")
        return cls(*numbers)


class Profiler:
    """Profiles some steps of a training.

    Args:
      steps: which; None for none.
      log_dir: of TensorBoard.
      say: takes the summary, line by line.
    """

    def __init__(
        self, steps: ProfiledSteps | None, log_dir: Path, say: Callable[[str], None]
    ) -> None:
        self._steps, self._log_dir, self._say = steps, log_dir, say
        self._number = 0
        self._running = False
        self._waited_s: list[float] = []
        self._took_s: list[float] = []

    def step(self) -> contextlib.AbstractContextManager[object]:
        """Make the context of one step, its wait for input included."""
        self._number += 1
        if self._steps is None or not self._steps.first <= self._number <= self._steps.last:
            return contextlib.nullcontext()
        if not self._running:
            tf.profiler.experimental.start(str(self._log_dir))
            self._running = True
        return tf.profiler.experimental.Trace("train", step_num=self._number, _r=1)

    def ended(self, waited_s: float, took_s: float) -> None:
        """Print how long the last step took, in all and for its input."""
        if not self._running or self._steps is None:
            return
        self._waited_s.append(waited_s)
        self._took_s.append(took_s)
        if self._number == self._steps.last:
            self.close()

    def close(self) -> None:
        """Write what was profiled, also of a training that is over before the last step."""
        steps, self._steps = self._steps, None
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
            if self._took_s:
                self._summarize()
        elif steps is not None:
            self._say(
                f"nothing was profiled: this process made {self._number} steps, --profile begins "
                f"with step {steps.first}"
            )

    def _summarize(self) -> None:
        count, took_s, waited_s = len(self._took_s), sum(self._took_s), sum(self._waited_s)
        last = self._number
        self._say(
            f"profile of steps {last - count + 1} to {last}: {took_s / count * 1000:.0f} ms a step "
            f"(median {statistics.median(self._took_s) * 1000:.0f}), of it "
            f"{waited_s / took_s:.1%} waiting for input, {1 - waited_s / took_s:.1%} model and "
            f"optimizer. It is in {self._log_dir}/plugins/profile; TensorBoard shows it with "
            "tensorboard-plugin-profile"
        )
