"""What the instance needs of S3 before it has the project: its source, and a way to say it failed.

    boot.py fetch SHA256 PATH     the packed source of that SHA-256 to PATH
    boot.py failed LOG            ends the spot request, uploads the log and the status `failed`

RUN, ATTEMPT, WORKER, SPOT, BUCKET and PREFIX are in the environment. Standard library and boto3
alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

_RETRIES = Config(retries={"mode": "standard", "max_attempts": 10})
# The caller writes the request down when all instances are started, moments after this one.
_LAUNCHED_S = 60


def main(command: str, *arguments: str) -> None:
    """Does what the command says; exits with a message where it cannot."""
    client = boto3.client("s3", config=_RETRIES)
    bucket, prefix = os.environ["BUCKET"], os.environ["PREFIX"]
    start = f"{prefix}/" if prefix else ""
    if command == "fetch":
        sha256, path = arguments
        key = f"{start}source/{sha256}.tar"
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            sys.exit(f"s3://{bucket}/{key}: SHA-256 is {found}, expected {sha256}")
        Path(path).write_bytes(content)
    elif command == "failed":
        (log,) = arguments
        attempt, now = int(os.environ["ATTEMPT"]), int(time.time())
        run, worker = f"{start}runs/{os.environ['RUN']}", os.environ.get("WORKER", "0")
        which = "" if worker == "0" else f"-worker-{worker}"
        kept = ""
        if os.environ.get("SPOT"):
            kept = _end_spot_request(client, bucket, f"{run}/launch.json", attempt, int(worker))
        if kept:
            kept = f"; its spot request was not ended, the time limit will, `stop` now ({kept})"
            print(kept.strip("; "), flush=True)  # into the log, where setting up failed
        key = f"{run}/log/attempt-{attempt}{which}.log"
        client.put_object(Bucket=bucket, Key=key, Body=Path(log).read_bytes())
        if which:  # worker 0 has the run's status; this one can only ask all to stop
            why = f"worker {worker}: its setup or its watcher failed; {key} says why{kept}"
            client.put_object(Bucket=bucket, Key=f"{run}/stop", Body=why.encode())
            return
        status = {"state": "failed", "attempt": attempt, "updated_at": now, "exit_status": 1}
        status["message"] = f"the instance's setup or its watcher failed; the log says why{kept}"
        client.put_object(Bucket=bucket, Key=f"{run}/status.json", Body=json.dumps(status))


def _end_spot_request(client: Any, bucket: str, key: str, attempt: int, worker: int) -> str:
    """Or it would start another instance in this one's place; returns why it was not ended."""
    give_up = time.monotonic() + _LAUNCHED_S
    try:
        while (launch := _read(client, bucket, key)).get("attempt") != attempt:
            if time.monotonic() > give_up:
                return f"s3://{bucket}/{key} does not name it"
            time.sleep(2)
        request = launch["instances"][worker]["spot_request_id"]
        boto3.client("ec2", config=_RETRIES).cancel_spot_instance_requests(
            SpotInstanceRequestIds=[request]
        )
    except Exception as error:  # whatever it is, the log must get up
        return repr(error)
    return ""


def _read(client: Any, bucket: str, key: str) -> dict[str, Any]:
    try:
        return json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    except botocore.exceptions.ClientError as error:
        # Not there yet: the role may not list, so S3 says 'forbidden'.
        if error.response["Error"]["Code"] in ("NoSuchKey", "404", "AccessDenied", "403"):
            return {}
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
