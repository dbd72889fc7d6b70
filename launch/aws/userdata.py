"""The script that an instance runs when it first starts."""

from __future__ import annotations

import shlex
from pathlib import Path

from launch import run as runs
from launch.aws.session import LaunchError
from launch.s3 import Folder

# EC2's limit, before its encoding.
_MAX_BYTES = 16384
# boto3 and all that it needs.
_BOTO = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")


def render(project_dir: Path, run: runs.Run, root: Folder, region: str, worker: int = 0) -> str:
    """The script for a run's attempt; it holds no secret, the instance's role lets it in.

    Args:
      project_dir: the project's top folder, whose boot.sh and locked versions go into it.
      run: the attempt.
      root: where everything of it is.
      region: the bucket's and the instance's.
      worker: which of the run's instances it is for.

    Raises:
      LaunchError: if it is longer than EC2 takes.
    """
    here = project_dir / "launch" / "instance"
    settings = {
        "RUN": run.name,
        "ATTEMPT": str(run.attempt),
        "WORKER": str(worker),
        "SPOT": "1" if run.spot else "",
        "BUCKET": root.bucket,
        "PREFIX": root.prefix,
        "REGION": region,
        "SOURCE_SHA256": run.source,
        "DEADLINE": str(run.deadline),
        "BOTO": " ".join(_locked(project_dir)),
    }
    body = (here / "boot.sh").read_text(encoding="utf-8")
    boot = (here / "boot.py").read_text(encoding="utf-8")
    script = "#!/bin/bash\n"
    script += "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    script += f"BOOT_PY=$(cat <<'END_OF_BOOT_PY'\n{boot}END_OF_BOOT_PY\n)\n{body}"
    size = len(script.encode())
    if size > _MAX_BYTES:
        raise LaunchError(f"the instance's first script has {size} bytes, EC2 takes {_MAX_BYTES}")
    return script


def _locked(project_dir: Path) -> list[str]:
    lines = (project_dir / "launch" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {line.partition("==")[0]: line.strip() for line in lines if "==" in line}
    return [versions[name] for name in _BOTO]
