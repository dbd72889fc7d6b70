"""How a command joins a Ray cluster. Needs the extra [ray]."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Any

import ray
import ray.exceptions

LOCAL = "local"
_CONNECT_S = 10.0


class ClusterError(RuntimeError):
    """A Ray cluster that cannot be joined, in one line; what to do is for the caller to add."""


def join(address: str, **own: Any) -> None:
    """Join a Ray cluster.

    Args:
      address: `auto` for the one that this machine belongs to, `host:port`, or `local` for one of
        its own on this machine.
      **own: what `ray.init` takes for the latter.

    Raises:
      ClusterError: if there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    options = {"include_dashboard": False, **own} if address == LOCAL else {}
    try:
        if ":" in address:  # Ray itself takes minutes to say that nobody is there
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"no Ray cluster lets this machine in at --ray_address={address} ({first_line(error)})"
        ) from error
    signal.signal(signal.SIGTERM, handler)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
