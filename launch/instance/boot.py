"""What the instance needs of S3 before it has the project: its source, and a way to say it failed.

    boot.py fetch SHA256 PATH     the packed source of that SHA-256 to PATH
    boot.py failed LOG            uploads the log and the status `failed`

RUN, ATTEMPT, WORKER, BUCKET and PREFIX are in the environment. Standard library and boto3 alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config


def main(command: str, *arguments: str) -> None:
    """Does what the command says; exits with a message where it cannot."""
    client = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 10}))
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
        key = f"{run}/log/attempt-{attempt}{which}.log"
        client.put_object(Bucket=bucket, Key=key, Body=Path(log).read_bytes())
        if which:  # worker 0 has the run's status; this one can only ask all to stop
            why = f"worker {worker}: its setup or its watcher failed; {key} says why"
            client.put_object(Bucket=bucket, Key=f"{run}/stop", Body=why.encode())
            return
        status = {"state": "failed", "attempt": attempt, "updated_at": now, "exit_status": 1}
        status["message"] = "the instance's setup or its watcher failed; the log says why"
        client.put_object(Bucket=bucket, Key=f"{run}/status.json", Body=json.dumps(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
