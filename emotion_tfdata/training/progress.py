"""How a training is doing, for a person to read."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


def duration(seconds: float) -> str:
    """Format seconds as `0:07`, `12:30` or `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Lines:
    """Lines that stay, and between them one about where all stands.

    On a terminal the latter is rewritten in place; in a log file it is a line now and then, so that
    a log stays short.
    """

    def __init__(self, stream: TextIO | None, in_place_every_s: float, log_every_s: float) -> None:
        self._stream = stream or sys.stdout
        self._in_place = self._stream.isatty()
        self._every_s = in_place_every_s if self._in_place else log_every_s
        self._next_s = time.monotonic() + self._every_s
        self._width = 0

    def line(self, text: str = "") -> None:
        """Print one line that stays."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self._stream.write(text + "\n")
        self._stream.flush()

    def _is_due(self) -> bool:
        """Tell whether progress is due; the next time is put off then."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + self._every_s
        return True

    def _show(self, text: str) -> None:
        if not self._in_place:
            self.line(text)
            return
        text = text[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


class Progress(Lines):
    """Lines about epochs, and between them where the epoch stands."""

    def __init__(self, stream: TextIO | None = None, log_every_s: float = 30.0) -> None:
        super().__init__(stream, in_place_every_s=0.2, log_every_s=log_every_s)

    def batch(
        self, where: str, batch: int, batches: int, loss: float, clips: int, rate: float | None
    ) -> None:
        """Report a batch if it is time to.

        Args:
          where: e.g. `epoch 3/60`.
          batch: how many are done.
          batches: how many there are.
          loss: of the epoch until now.
          clips: in this batch.
          rate: clips a second of the epoch until now, waiting for input included; None while only
            the step that compiles was done.
        """
        if not self._is_due():
            return
        text = f"{where}  batch {batch}/{batches}  loss {loss:.3f}"
        if rate:
            left = duration((batches - batch) * clips / rate)
            text += f"  {rate:.0f} clips/s  epoch done in {left}"
        self._show(text)
