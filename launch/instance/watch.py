"""Why a training must stop before it is done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

from launch.instance.metadata import Metadata

# Before the time limit, so that the last checkpoint is up when it comes.
DEADLINE_MARGIN_S = 300
_SPOT_EVERY_S = 5.0

SIGNAL, SPOT, ASKED, TIME = "signal", "spot", "asked", "time"


class Watch:
    """Looks out for a signal, a spot notice, the caller's request and the time limit."""

    def __init__(
        self,
        deadline: float,
        metadata: Metadata,
        is_stop_asked: Callable[[], bool],
        asked_every_s: float,
    ) -> None:
        self._deadline = deadline
        self._metadata = metadata
        self._is_stop_asked = is_stop_asked
        self._asked_every_s = asked_every_s
        self._next_spot_s = self._next_asked_s = 0.0
        self._signalled = False
        self.interruption_s = 0.0
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def reason(self) -> str:
        """Why to stop; empty while there is no reason. Cheap enough for every second."""
        now = time.monotonic()
        if self._signalled:
            return SIGNAL
        if now >= self._next_spot_s:
            self._next_spot_s = now + _SPOT_EVERY_S
            at = self._notice()
            if at is not None:
                self.interruption_s = at
                return SPOT
        if time.time() >= self._deadline - DEADLINE_MARGIN_S:
            return TIME
        if now >= self._next_asked_s:
            self._next_asked_s = now + self._asked_every_s
            if self._is_stop_asked():
                return ASKED
        return ""

    def wait_for_signal(self, until_s: float) -> bool:
        """Waits for the machine to go down, until `until_s` (since 1970); whether it does."""
        while time.time() < until_s and not self._signalled:
            time.sleep(0.2)
        return self._signalled

    def _notice(self) -> float | None:
        try:
            return self._metadata.interruption_s()
        except OSError:
            return None  # asked again in a few seconds

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
