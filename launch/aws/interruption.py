"""An interruption that waits: what EC2 was asked for must be known to be removed, and then be."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Held:
    """Within it, a signal that would interrupt waits for the end of the block.

    A second SIGINT does not wait: it is a person's. A closing terminal sends several of the others.
    One that is ignored stays ignored, and one that would end the process outright does so.

    Args:
      say: told that one waits.

    Raises (at the end of the block, where it has raised nothing itself):
      KeyboardInterrupt: if one came.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._came = False
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Held:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.give_way()

    def give_way(self) -> None:
        """To be called where the block may be left.

        Raises:
          KeyboardInterrupt: if a signal waits.
        """
        if self._came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came and number == signal.SIGINT:
            self._before[number](number, frame)
        if not self._came:
            self._came = True
            self._say("interrupted: ends when EC2 has answered, to remove what it has started")
