"""What an instance says of itself, for `monitor` to read."""

from __future__ import annotations

import json
import time
from typing import Any

from launch import run as runs
from launch.instance.metadata import boot_time


class Status:
    """The attempt's state, and what the run has cost with all attempts before it."""

    def __init__(self, run: runs.Run, before: dict[str, Any], instance_id: str) -> None:
        """Takes up where an earlier attempt, or this one before a restart, left off.

        Args:
          run: what was asked for.
          before: the status that is in S3.
          instance_id: this instance.
        """
        self._run = run
        self._instance_id = instance_id
        self._spent_usd = float(before.get("cost_usd", 0.0))
        # The machine costs since it started, at the earliest since the attempt was asked for.
        self._costs_since = max(boot_time(), float(run.started_at))
        same = before.get("attempt") == run.attempt
        if same and before.get("costs_since") == self._costs_since:  # the agent was restarted
            self._spent_usd = float(before.get("spent_before_usd", 0.0))
        self.state = before["state"] if same and before["state"] in runs.ENDED else runs.INSTALLING
        self.message = ""
        self.log_bytes = 0
        self._exit_status: int | None = None

    @property
    def is_ended(self) -> bool:
        """Whether the attempt is over."""
        return self.state in runs.ENDED

    def set(self, state: str, *, message: str = "", exit_status: int | None = None) -> None:
        """What the attempt does from now on."""
        self.state, self.message, self._exit_status = state, message, exit_status

    def to_json(self, progress: dict[str, Any], last_line: str) -> bytes:
        """As it is stored."""
        now = time.time()
        hours = max(0.0, now - self._costs_since) / 3600
        return json.dumps(
            {
                "state": self.state,
                "message": self.message,
                "exit_status": self._exit_status,
                "attempt": self._run.attempt,
                "instance_id": self._instance_id,
                "updated_at": round(now),
                "costs_since": self._costs_since,
                "spent_before_usd": self._spent_usd,
                "cost_usd": round(self._spent_usd + hours * self._run.usd_per_hour, 4),
                "last_line": last_line,
                "log_bytes": self.log_bytes,
                **progress,
            },
            indent=1,
        ).encode()
