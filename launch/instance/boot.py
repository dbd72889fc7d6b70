"""What an instance does before it has the project and any package.

    python3 -m launch.instance.boot fetch SHA256 FOLDER   the source of that SHA-256, into FOLDER
    python3 -m launch.instance.boot failed LOG            saves the log and the status `failed`, and
                                                          ends the spot request

RUN, ATTEMPT, WORKER, SPOT, BUCKET, PREFIX and AWS_DEFAULT_REGION are in the environment. Python's
library alone, of 3.9 and later: what both systems come with.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from typing import Any

from launch.instance.bare_aws import BareAws, RefusedError
from launch.instance.metadata import boot_time

# The caller writes the request down when all instances are started, moments after this one.
_LAUNCHED_S = 60
# An attempt that has come to an end keeps it: launch.run's ENDED, which needs boto3 to be read.
ENDED = ("finished", "failed", "stopped", "out of time")


class Boot:
    """An instance of a run's attempt, while it is set up."""

    def __init__(self) -> None:
        self._aws = BareAws(os.environ["AWS_DEFAULT_REGION"])
        self._bucket, prefix = os.environ["BUCKET"], os.environ["PREFIX"]
        self._top = f"{prefix}/" if prefix else ""
        self._run = f"{self._top}runs/{os.environ['RUN']}"
        self._attempt, self._worker = int(os.environ["ATTEMPT"]), int(os.environ["WORKER"])

    def fetch(self, sha256: str, folder: str) -> None:
        """Brings the project's source.

        Raises:
          ValueError: if it is another one.
        """
        key = f"{self._top}source/{sha256}.tar"
        content = self._aws.get(self._bucket, key)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise ValueError(f"s3://{self._bucket}/{key}: SHA-256 is {found}, expected {sha256}")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder)

    def failed(self, log: str) -> None:
        """Ends the spot request, and saves the log and what the run has come to."""
        worker = self._worker
        kept = self._end_spot_request() if os.environ.get("SPOT") else ""
        if kept:
            kept = f"its spot request was not ended, the time limit will, `stop` now ({kept})"
            print(kept, flush=True)  # into the log, where setting up failed
            kept = f"; {kept}"
        before = self._read(f"workers/status-{worker}.json" if worker else "status.json")
        began = before.get("attempt") == self._attempt
        if began and before["state"] in ENDED:
            print(f"the attempt had ended before: {before['state']}", flush=True)
            return  # this is an instance that the spot request has started in the other's place
        name = f"log/attempt-{self._attempt}{f'-worker-{worker}' if worker else ''}.log"
        with open(log, "rb") as file:
            self._put(name, file.read())
        if worker:  # worker 0 has the run's status; this one can only ask all to stop
            why = f"worker {worker}: its setup or its watcher failed; {name} says why{kept}"
            self._put("stop", why.encode())
            return
        run, now = self._read("run.json"), int(time.time())
        since = before["updated_at"] if began else run["started_at"]
        hours = max(0, now - max(since, boot_time())) / 3600  # a paused instance costs nothing
        status = {
            **(before if began else {}),
            "state": "failed",
            "message": f"the instance's setup or its watcher failed; the log says why{kept}",
            "exit_status": 1,
            "attempt": self._attempt,
            "updated_at": now,
            "cost_usd": round(before.get("cost_usd", 0.0) + hours * run["usd_per_hour"], 4),
        }
        self._put("status.json", json.dumps(status).encode())

    def _end_spot_request(self) -> str:
        """Or it would start another instance in this one's place; returns why it was not ended."""
        give_up = time.monotonic() + _LAUNCHED_S
        try:
            while (launch := self._read("launch.json")).get("attempt") != self._attempt:
                if time.monotonic() > give_up:
                    return f"s3://{self._bucket}/{self._run}/launch.json does not name it"
                time.sleep(2)
            self._aws.cancel_spot_request(launch["instances"][self._worker]["spot_request_id"])
        except Exception as error:  # whatever it is, the log must get up
            return repr(error)
        return ""

    def _read(self, name: str) -> dict[str, Any]:
        """A JSON object of the run's folder; empty where there is none."""
        try:
            return json.loads(self._aws.get(self._bucket, f"{self._run}/{name}"))
        except RefusedError as error:
            if error.status in (403, 404):  # asked as one who may not list, S3 says 'forbidden'
                return {}
            raise

    def _put(self, name: str, content: bytes) -> None:
        self._aws.put(self._bucket, f"{self._run}/{name}", content)


def main(command: str, *arguments: str) -> None:
    """Does what the command says; exits with a message where it cannot."""
    boot = Boot()
    commands: dict[str, Callable[..., None]] = {"fetch": boot.fetch, "failed": boot.failed}
    try:
        commands[command](*arguments)
    except (RefusedError, OSError, http.client.HTTPException, ValueError) as error:
        sys.exit(f"{command}: {error!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
