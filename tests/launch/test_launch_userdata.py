"""The script that an instance runs when it first starts, really run."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from fake_aws import REGION, Cloud, git, role_policy
from machine_double import Machine, Metadata

from launch import ec2
from launch import run as runs

_SOURCE = ("emotion_tfdata", "preprocess", "launch", "train.py", "setup.cfg", "pyproject.toml")
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
def machine(tmp_path: Path, cloud: Cloud, metadata: Metadata) -> Machine:
    """A machine with the credentials of its role alone."""
    aws = {
        "AWS_ENDPOINT_URL": cloud.proxy.url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
    }
    site_packages = Path(sysconfig.get_paths()["purelib"])
    base = getattr(sys, "_base_executable", sys.executable)
    return Machine(tmp_path / "machine", base, site_packages, aws)


def _locked(lock: Path) -> list[str]:
    names = [line.partition("==")[0] for line in lock.read_text().splitlines() if "==" in line]
    there = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower() for d in distributions()}
    return [name for name in names if re.sub("[-_.]+", "-", name).lower() in there]


def _started(cloud: Cloud, metadata: Metadata, machine: Machine, *arguments: object) -> str:
    """Deploys, boots the machine with what was sent, and runs its service; returns the name."""
    deployed = cloud.run("deploy", "--yes", *arguments)
    assert deployed.status == 0, deployed.err
    name = deployed.out.strip()
    (instance,) = cloud.instances()
    iam = cloud.client("iam")
    role = f"emotion-tfdata-{name}-{REGION}"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f"/emotion-tfdata/{role}")
    policy = iam.get_role_policy(RoleName=role, PolicyName="this-run")["PolicyDocument"]
    cloud.proxy.rules.append(role_policy(policy))
    metadata.give_role(role)
    attribute = cloud.client("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="userData"
    )
    user_data = base64.b64decode(attribute["UserData"]["Value"]).decode()
    assert machine.boot(user_data) == 0, machine.log
    service = machine.start_service()
    assert service.wait(timeout=300) == 0, machine.log
    return name


def test_an_instance_installs_trains_uploads_and_ends_itself(
    cloud, metadata, machine, whole_project, fake_data_dir, tmp_path
):
    name = _started(
        cloud, metadata, machine, "--flagfile=quick.flags", f"--data_dir={fake_data_dir}"
    )

    calls = machine.recorders.calls
    assert any("install" in call and "libgl1" in call for call in calls)
    assert calls.index("systemctl enable --now emotion-tfdata-deadline.timer") < next(
        number for number, call in enumerate(calls) if call.startswith("apt-get")
    ), "the time limit comes before anything that can fail"
    assert calls[-1] == "shutdown -h now"
    assert metadata.refused == 0

    # It was the uploaded source that trained, in an environment of its own, on verified shards.
    python = machine.root / "source" / ".venv" / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import emotion_tfdata; print(emotion_tfdata.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    ).stdout
    assert where.startswith(str(machine.root / "source"))
    for shard in Path(fake_data_dir).iterdir():
        assert (machine.root / "data" / shard.name).read_bytes() == shard.read_bytes()

    seen = cloud.run("monitor", name)
    assert "finished" in seen.out
    assert "epoch      1 of 1" in seen.out
    followed = cloud.run("monitor", name, "--follow")
    assert followed.status == 0
    assert "epoch 1/1" in followed.out

    out_dir = tmp_path / "fetched"
    assert cloud.run("fetch", name, f"--out_dir={out_dir}").status == 0
    model = machine.root / "model"
    for file in ("report.json", "checkpoint.npz", "best.keras", "history.json"):
        assert (out_dir / file).read_bytes() == (model / file).read_bytes()
    assert [p.name for p in (out_dir / "tensorboard").iterdir()] == [
        p.name for p in (model / "tensorboard").iterdir()
    ]
    assert "epoch 1/1" in (out_dir / "log" / "attempt-1.log").read_text()


def test_a_training_that_fails_leaves_its_log_and_status_and_ends_the_instance(
    cloud, metadata, machine, quick_project, data_dir
):
    name = _started(cloud, metadata, machine, f"--data_dir={data_dir}", "--", "--fail_at=2")

    assert machine.recorders.calls[-1] == "shutdown -h now"
    followed = cloud.run("monitor", name, "--follow")
    assert followed.status == 1, "the training's own status"
    assert "failed" in followed.err
    assert "train.py ended with status 1" in followed.err
    assert "train.py: the loss is nan" in followed.out, "the log says why"
    assert "epoch      2 of 3" in followed.err


def test_an_instance_that_cannot_be_set_up_says_so_and_ends_itself(
    cloud, metadata, machine, quick_project, data_dir
):
    deployed = cloud.run("deploy", "--yes", f"--data_dir={data_dir}")
    name = deployed.out.strip()
    metadata.give_role(f"emotion-tfdata-{name}-{REGION}")
    run = cloud.load(name)
    cloud.root.delete([runs.source_key(run)])
    (instance,) = cloud.instances()
    attribute = cloud.client("ec2").describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="userData"
    )
    user_data = base64.b64decode(attribute["UserData"]["Value"]).decode()
    quick = user_data.replace("for wait in 10 30", "for wait in 0 0")

    assert machine.boot(quick) != 0
    assert machine.recorders.calls[-1] == "shutdown -h now"
    status = runs.read_json(runs.folder(cloud.root, name), runs.STATUS)
    assert status["state"] == "failed"
    followed = cloud.run("monitor", name, "--follow")
    assert followed.status == 1
    assert "AccessDenied" in followed.out


def test_user_data_holds_no_secret_and_fits(cloud, whole_project, data_dir):
    assert (
        cloud.run("deploy", "--flagfile=quick.flags", "--yes", f"--data_dir={data_dir}").status == 0
    )
    (request,) = cloud.proxy.of("ec2", "RunInstances")
    script = base64.b64decode(request.form["UserData"]).decode()
    for secret in ("AKIA", "of-the-caller", "SECRET", "TOKEN", "PASSWORD", "X-Amz-Signature"):
        assert secret not in script.upper()
    assert len(script) < 16384
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
