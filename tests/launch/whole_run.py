"""The whole project, deployed, and doubles of the machines that it was deployed to."""

from __future__ import annotations

import base64
import gzip
import re
import shutil
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest
from fake_aws import REGION, Cloud, git, role_policy
from machine_double import Machine, Metadata

from launch import ec2

_SOURCE = ("emotion_tfdata", "preprocess", "launch", "train.py", "setup.cfg", "pyproject.toml")
# A model that costs no time, for what follows quick.flags.
SMALL = (
    *("--modalities=landmarks", "--model=tcn_filters=4", "--model=tcn_dilations=1"),
    *("--model=joined_units=8,8", "--input_threads=1"),
)
_QUICK = "--landmarks=all --epochs=1 --select_on=none --lr_schedule=constant --noaugment"


@pytest.fixture
def whole_project(tmp_path: Path, project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    for name in _SOURCE:
        if (project_dir / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(project_dir / name, path / name, ignore=ignored)
        else:
            shutil.copy(project_dir / name, path)
    (path / "README.md").touch()
    # The versions of the lock file are those of the environment that pip is shown.
    lock = path / "launch" / "constraints.txt"
    lock.write_text("".join(f"{name}=={version(name)}\n" for name in _locked(lock)))
    (path / "quick.flags").write_text("\n".join(_QUICK.split()) + "\n")
    git(path, "init", "--quiet")
    git(path, "add", "-A")
    monkeypatch.setattr(ec2, "PROJECT_DIR", path)
    return path


@pytest.fixture
def machines(tmp_path: Path, cloud: Cloud) -> Callable[..., Machine]:
    """Makes machines, each with the credentials of its role alone."""

    def make(metadata: Metadata, name: str = "machine", **about: Any) -> Machine:
        services = {
            "AWS_ENDPOINT_URL": cloud.proxy.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
        }
        return Machine(tmp_path / name, services, **about)

    return make


@pytest.fixture
def machine(machines: Callable[..., Machine], metadata: Metadata) -> Machine:
    """A machine of Ubuntu."""
    return machines(metadata)


def _locked(lock: Path) -> list[str]:
    names = [line.partition("==")[0] for line in lock.read_text().splitlines() if "==" in line]
    there = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower() for d in distributions()}
    return [name for name in names if re.sub("[-_.]+", "-", name).lower() in there]


def deploy(cloud: Cloud, *arguments: object) -> str:
    """Deploys, and holds the instances to their role from then on; returns the run's name."""
    deployed = cloud.run("deploy", "--yes", *arguments)
    assert deployed.status == 0, deployed.err
    name = deployed.out.strip()
    for instance in cloud.instances():
        assert instance["IamInstanceProfile"]["Arn"].endswith(f"/emotion-tfdata/{role(name)}")
    policy = cloud.client("iam").get_role_policy(RoleName=role(name), PolicyName="this-run")
    cloud.proxy.rules.append(role_policy(policy["PolicyDocument"]))
    return name


def role(name: str) -> str:
    """The role of a run's instances."""
    return f"emotion-tfdata-{name}-{REGION}"


def user_data(cloud: Cloud) -> list[str]:
    """What the instances were given to run when they first start, by worker."""
    scripts = {}
    for instance in cloud.instances():
        answer = cloud.client("ec2").describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="userData"
        )
        script = unpacked(answer["UserData"]["Value"])
        scripts[re.findall("^WORKER=([0-9]+)$", script, re.M)[0]] = script
    return [scripts[worker] for worker in sorted(scripts)]


def unpacked(user_data: str) -> str:
    """The script that cloud-init makes of user data as EC2 keeps it."""
    return gzip.decompress(base64.b64decode(user_data)).decode()


def boot_and_train(cloud: Cloud, metadata: Metadata, machine: Machine, name: str) -> None:
    """Boots the one machine of a run with what was sent, and runs its service to its end."""
    metadata.give_role(role(name))
    (script,) = user_data(cloud)
    assert machine.boot(without_waits(script)) == 0, machine.log
    service = machine.start_service()
    assert service.wait(timeout=300) == 0, machine.log


def without_waits(script: str) -> str:
    """The script, trying again at once what failed."""
    quick = script.replace("for wait in 10 30", "for wait in 0 0")
    assert quick != script
    return quick
