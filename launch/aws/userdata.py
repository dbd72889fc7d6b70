"""The script that an instance runs when it first starts."""

from __future__ import annotations

import gzip
import shlex
from pathlib import Path

from launch import run as runs
from launch.aws.session import LaunchError
from launch.s3 import Folder

# EC2's limit, before its encoding.
_MAX_BYTES = 16384
# What the script writes down before anything else; Python's library is all that they need.
_MODULES = (
    *("__init__.py", "instance/__init__.py", "instance/metadata.py", "instance/sigv4.py"),
    *("instance/bare_aws.py", "instance/boot.py"),
)
# boto3 and all that it needs, for the agent.
_BOTO = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")


def render(project_dir: Path, run: runs.Run, root: Folder, region: str, worker: int = 0) -> bytes:
    """The script for a run's attempt, packed by gzip, which cloud-init unpacks.

    It holds no secret, the instance's role lets it in. The same arguments give the same bytes.

    Args:
      project_dir: the project's top folder, whose modules and locked versions go into it.
      run: the attempt.
      root: where everything of it is.
      region: the bucket's and the instance's.
      worker: which of the run's instances it is for.

    Raises:
      LaunchError: if it is longer than EC2 takes.
    """
    package = project_dir / "launch"
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
    script = "#!/bin/bash\n"
    script += "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    script += "write_modules() {\n"
    for name in _MODULES:
        text = (package / name).read_text(encoding="utf-8")
        script += f"cat >\"$1/{name}\" <<'END_OF_MODULE'\n{text}END_OF_MODULE\n"
    script += "}\n" + (package / "instance" / "boot.sh").read_text(encoding="utf-8")
    packed = gzip.compress(script.encode(), mtime=0)
    if len(packed) > _MAX_BYTES:
        raise LaunchError(
            f"the instance's first script has {len(packed)} bytes, EC2 takes {_MAX_BYTES}"
        )
    return packed


def _locked(project_dir: Path) -> list[str]:
    lines = (project_dir / "launch" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    versions = {line.partition("==")[0]: line.strip() for line in lines if "==" in line}
    return [versions[name] for name in _BOTO]
