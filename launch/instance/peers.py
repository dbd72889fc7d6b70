"""How instances that train one model find each other: each writes down where it is, in S3."""

from __future__ import annotations

import json
import os
import time

from launch import run as runs
from launch.instance.metadata import Metadata
from launch.s3 import Folder

_LOOK_EVERY_S = 5.0
# Instances all listen on the one port that is open among them; several on one machine, as in tests,
# need one each.
_PORT = "EMOTION_TFDATA_PORT"


class Peers:
    """The instances of an attempt, seen from one of them."""

    def __init__(self, run: runs.Run, worker: int, folder: Folder, metadata: Metadata) -> None:
        self._run, self._worker = run, worker
        self._folder, self._metadata = folder, metadata
        self._addresses: dict[int, str] = {}
        self._next_look_s = 0.0
        self._is_written = False

    def are_there(self) -> bool:
        """Whether all have said where they are. Cheap enough for every second.

        This one says so first. Addresses outlast a stop and start, so who is interrupted is found
        where it was.

        Raises:
          botocore.exceptions.BotoCoreError, ClientError, S3Error, OSError: if S3 or the metadata
            service does not answer; to be tried again.
        """
        if time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + _LOOK_EVERY_S
            self._look()
        return not self.missing

    @property
    def missing(self) -> list[int]:
        """Workers that had not said where they are when last looked."""
        return [one for one in range(self._run.num_instances) if one not in self._addresses]

    def tf_config(self) -> str:
        """What tells train.py who trains with it, once all are there."""
        addresses = [self._addresses[worker] for worker in range(self._run.num_instances)]
        task = {"type": "worker", "index": self._worker}
        return json.dumps({"cluster": {"worker": addresses}, "task": task})

    def _look(self) -> None:
        if not self._is_written:
            own = self._metadata.get("meta-data/local-ipv4")
            if not own:
                raise OSError("the metadata service knows no address of this instance")
            port = os.environ.get(_PORT, runs.WORKER_PORT)
            self._folder.send(self._run.address_of(self._worker), f"{own}:{port}".encode())
            self._is_written = True
        there = {found.name for found in self._folder.objects("workers/")}
        for worker in self.missing:
            place = self._run.address_of(worker)
            if place in there:
                content = self._folder.read(place)
                if content:
                    self._addresses[worker] = content.decode()
