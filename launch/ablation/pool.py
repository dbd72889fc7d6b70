"""Runs trainings, several processes at a time, and hands a request to stop on to them."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from launch.ablation import training as folders
from launch.ablation.plan import Plan, Training

_LOOK_EVERY_S = 0.2
# What train.py says of a folder whose settings.json is of another training, one that was broken off
# before train.py itself got other settings.
_OTHER_SETTINGS = "holds a training with other settings"
# And of one that a training still saves into, whose ablation was killed a moment ago.
_IN_USE, _LEAVES_WITHIN_S = "is in use by another training", 60.0
# Where the kernel tells of a parent's death, no training outlives an ablation that was killed.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass
class Running:
    """A training that is being done.

    Attributes:
      training: which.
      process: of train.py.
      since_s: when it began, on the monotonic clock.
    """

    training: Training
    process: subprocess.Popen[bytes]
    since_s: float


class Pool:
    """Runs trainings `jobs` at a time, in order.

    Attributes:
      waiting: those that have not begun.
      running: those that are being done.
      failed: those that failed, and what they said last.
    """

    def __init__(
        self, plan: Plan, trainings: Sequence[Training], *, jobs: int, threads: int, overwrite: bool
    ) -> None:
        """Nothing begins before `run`.

        Args:
          plan: says how each is called.
          trainings: to be done.
          jobs: how many at a time.
          threads: of each.
          overwrite: begin anew what train.py refuses to go on with.
        """
        self.waiting = list(trainings)
        self.running: list[Running] = []
        self.failed: dict[Training, str] = {}
        self._plan = plan
        self._jobs = jobs
        self._threads = threads
        self._overwrite = overwrite
        self._anew: set[Training] = set()
        self._in_use_since_s: dict[Training, float] = {}
        self._asked: list[int] = []
        self._told = 0

    @property
    def stopped_by(self) -> int:
        """The signal that asked to stop; 0 for none."""
        return self._asked[-1] if self._asked else 0

    def run(
        self, on_end: Callable[[Running], None], meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Does all trainings, or leaves when SIGTERM or Ctrl-C asks to.

        Args:
          on_end: called when a training has ended, however it did.
          meanwhile: called several times a second.
        """
        with self._signals():
            try:
                while self.running or (self.waiting and not self._asked):
                    while self.waiting and len(self.running) < self._jobs and not self._asked:
                        self._start(self.waiting.pop(0))
                    time.sleep(_LOOK_EVERY_S)
                    self._hand_on()
                    for one in [r for r in self.running if r.process.poll() is not None]:
                        self.running.remove(one)
                        if not self._begins_anew(one):
                            on_end(one)
                    meanwhile()
            finally:
                self._tell(signal.SIGTERM)
                for one in self.running:
                    one.process.wait()

    def _start(self, training: Training) -> None:
        folder = self._plan.folder(training)
        each = f"{self._threads} thread{'s' if self._threads > 1 else ''}"
        how = f"{self._jobs} at a time, {each} each"
        folders.prepare(folder, self._plan.request(training), how)
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, **{name: str(self._threads) for name in limits}}
        with open(folder / folders.LOG, "ab") as log:
            process = subprocess.Popen(
                self._plan.command(training, self._threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # so that Ctrl-C reaches it through us, once
                preexec_fn=_end_with_parent if _LIBC else None,
            )
        self.running.append(Running(training, process, time.monotonic()))

    def _begins_anew(self, ended: Running) -> bool:
        """Notes how a training ended; whether it is to be begun once more."""
        training, status = ended.training, ended.process.returncode
        folder = self._plan.folder(training)
        said = folders.last_line(folder)
        if status == 0:
            if not self._asked and folders.outcome(folder) is None:
                self.failed[training] = f"somebody stopped it: {said}"
            return False
        if self._overwrite and _OTHER_SETTINGS in said and training not in self._anew:
            self._anew.add(training)
            folders.clear(folder)
            self.waiting.insert(0, training)
            return True
        if _IN_USE in said:
            since_s = self._in_use_since_s.setdefault(training, time.monotonic())
            if time.monotonic() - since_s < _LEAVES_WITHIN_S:
                self.waiting.append(training)
                return True
        if status < 0 and self._asked:
            return False  # stopped before it could listen
        if status < 0:
            name = signal.Signals(-status).name
            said = f"killed by {name}{_HINTS.get(-status, '')}; it said last: {said}"
        self.failed[training] = said or f"status {status}, without a word"
        return False

    def _tell(self, number: int) -> None:
        for one in self.running:
            one.process.send_signal(number)  # does nothing where it has ended meanwhile

    def _hand_on(self) -> None:
        """Asks the trainings to stop where we were asked. They save and leave; whoever asks twice
        does not want to wait for that."""
        if len(self._asked) > self._told:
            self._tell(signal.SIGKILL if self._told else signal.SIGTERM)
            self._told += 1

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


_HINTS: dict[int, str] = {signal.SIGKILL: " (out of memory? fewer --jobs need less)"}


def _end_with_parent() -> None:
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
