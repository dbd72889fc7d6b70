"""A Ray cluster for tests: nodes in processes of their own, started as README says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

_RAY = Path(sysconfig.get_path("scripts")) / "ray"


@contextlib.contextmanager
def environment(*paths: Path) -> Iterator[dict[str, str]]:
    """Of processes that use Ray, whose token, logs and sockets lie in a folder that goes.

    Args:
      *paths: where they find modules.
    """
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
    own = {"HOME": folder, "TMPDIR": folder, "RAY_AUTH_MODE": "token"}
    try:
        yield {**os.environ, **own, "PYTHONPATH": ":".join(map(str, paths))}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Nodes of one CPU each. A context manager.

    Attributes:
      address: of the head, once it is started.
      env: of processes that use it.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.address: str | None = None
        self.env = env
        self._nodes: list[subprocess.Popen[str]] = []

    def start_node(self) -> subprocess.Popen[str]:
        """Starts one; the first is the head."""
        flags = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
        if self.address:
            flags.append(f"--address={self.address}")
        else:
            flags += ["--head", "--port=0", "--include-dashboard=false"]
        node = subprocess.Popen(
            [_RAY, "start", *flags, "--block"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.env,
            start_new_session=True,
        )
        self._nodes.append(node)
        lines = []
        for line in node.stdout or []:
            lines.append(line)
            found = re.search(r"ray start --address='(\S+)'", line)
            if found:
                self.address = found[1]
            if "will now block" in line:
                return node
        raise AssertionError("".join(lines))

    def works(self, node: subprocess.Popen[str]) -> bool:
        """Whether a node is at a task of a build; Ray names its processes after what they do."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(node.pid).children(recursive=True)
            return any("_Actor.work" in " ".join(process.cmdline()) for process in below)
        return False

    def start_nodes(self, count: int) -> list[subprocess.Popen[str]]:
        """Starts what it takes for so many to be up; returns those that are."""
        while len(up := [node for node in self._nodes if node.poll() is None]) < count:
            self.start_node()
        return up

    def processes(self, title: str) -> list[psutil.Process]:
        """What runs on the nodes under that title."""
        return [
            process
            for node in self.start_nodes(0)
            for process in psutil.Process(node.pid).children(recursive=True)
            if process.cmdline()[:1] == [title]
        ]

    def open_files(self, node: subprocess.Popen[str]) -> Iterator[Path]:
        """Files that processes of a node have open."""
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                yield from (Path(file.path) for file in process.open_files())

    def kill(self, node: subprocess.Popen[str]) -> None:
        """Kills a node and all that runs on it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.communicate()

    def __enter__(self) -> Cluster:
        subprocess.run(
            [_RAY, "get-auth-token", "--generate"], check=True, capture_output=True, env=self.env
        )
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._nodes[::-1]:
            if node.returncode is None:
                self.kill(node)
