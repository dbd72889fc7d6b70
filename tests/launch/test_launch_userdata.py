"""The script that an instance runs when it first starts, really run."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from fake_aws import REGION, Answer
from machine_double import SYSTEMS
from whole_run import boot_and_train, deploy, role, unpacked, user_data, without_waits

from launch import run as runs
from launch.aws import userdata
from launch.aws.session import LaunchError
from launch.instance import boot


def test_an_instance_installs_trains_uploads_and_ends_itself(
    cloud, metadata, machine, whole_project, fake_data_dir, tmp_path
):
    name = deploy(cloud, "--flagfile=quick.flags", f"--data_dir={fake_data_dir}")
    boot_and_train(cloud, metadata, machine, name)

    calls = machine.recorders.calls
    assert [call for call in calls if call.startswith("apt-get")] == [
        "apt-get -o DPkg::Lock::Timeout=300 update",
        "apt-get -o DPkg::Lock::Timeout=300 install -y python3 python3-venv libgl1 libglib2.0-0",
    ]
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
    name = deploy(cloud, f"--data_dir={data_dir}", "--", "--fail_at=2")
    boot_and_train(cloud, metadata, machine, name)

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
    name = deploy(cloud, f"--data_dir={data_dir}")
    metadata.give_role(role(name))
    cloud.root.delete([runs.source_key(cloud.load(name))])
    (script,) = user_data(cloud)
    quick = without_waits(script)

    assert machine.boot(quick) != 0
    assert machine.recorders.calls[-1] == "shutdown -h now"
    status = runs.read_json(runs.folder(cloud.root, name), runs.STATUS)
    assert status["state"] == "failed"
    followed = cloud.run("monitor", name, "--follow")
    assert followed.status == 1
    assert "AccessDenied" in followed.out


def _deploy_spot(cloud, metadata, *flags):
    """Returns the run's name, its spot request and its script."""
    name = deploy(cloud, "--spot", "--price=36", *flags)
    metadata.give_role(role(name))
    requested = cloud.make_spot_request(name)
    (script,) = user_data(cloud)
    return name, requested, without_waits(script)


def _assert_ended(cloud, requested):
    (cancelled,) = cloud.proxy.of("ec2", "CancelSpotInstanceRequests")
    assert cancelled.is_from_instance
    assert cancelled.form["SpotInstanceRequestId.1"] == requested
    assert cloud.spot_requests() == [], "its role let it"


SETUP_FAILS = {
    "no packages on Ubuntu": ("ubuntu", "Failed: apt-get -o DPkg::Lock::Timeout=300 update"),
    "no packages on Amazon Linux": ("amazon", "Failed: dnf install -y python3.11"),
    "no source": ("ubuntu", "403 AccessDenied"),
    "another source": ("ubuntu", ".tar: SHA-256 is "),
    "no boto3": ("ubuntu", "No matching distribution found for boto3==0.0.1"),
}


@pytest.mark.parametrize("stage", SETUP_FAILS)
def test_wherever_setting_up_fails_the_log_is_up_and_nothing_goes_on(
    cloud, metadata, machines, quick_project, data_dir, stage
):
    """Or EC2 would start another instance in its place, and another."""
    system, said = SETUP_FAILS[stage]
    machine = machines(metadata, system=system)
    lock = quick_project / "launch" / "constraints.txt"
    if stage == "no boto3":
        lock.write_text(re.sub("boto3==.*", "boto3==0.0.1", lock.read_text()))
    flags = [f"--os={system}", f"--data_dir={data_dir}"]
    name, requested, script = _deploy_spot(cloud, metadata, *flags)
    source = runs.source_key(cloud.load(name))
    if stage.startswith("no packages"):
        machine.fail_packages(3)
    elif stage == "no source":
        cloud.root.delete([source])
    elif stage == "another source":
        cloud.client("s3").put_object(Bucket=cloud.root.bucket, Key=source, Body=b"another")

    assert machine.boot(script) == 1
    _assert_ended(cloud, requested)
    *before, last = machine.recorders.calls
    assert last == "shutdown -h now"
    managed = [call for call in before if call.startswith(SYSTEMS[system][0])]
    assert len(managed) == (3 if stage.startswith("no packages") else 2)
    assert before[-1] == managed[-1], "nothing was started"
    status = runs.read_json(runs.folder(cloud.root, name), runs.STATUS)
    assert (status["state"], status["attempt"], status["exit_status"]) == ("failed", 1, 1)
    assert status["message"] == "the instance's setup or its watcher failed; the log says why"
    followed = cloud.run("monitor", name, "--follow")
    assert followed.status == 1
    assert said in followed.out
    assert "The instance could not be set up (status 1); it ends itself.\n" in followed.out
    assert said in machine.console
    assert "did not get to S3" not in machine.console


def test_a_spot_instance_whose_watcher_fails_ends_its_request_and_tells_its_cost(
    cloud, metadata, machine, quick_project, data_dir
):
    name, requested, script = _deploy_spot(cloud, metadata, f"--data_dir={data_dir}")
    assert machine.boot(script) == 0
    said = {"state": "training", "attempt": 1, "epoch": 7, "cost_usd": 2.5}
    said["updated_at"] = int(time.time()) - 100  # at a cent a second
    folder = runs.folder(cloud.root, name)
    folder.put(runs.STATUS, json.dumps(said).encode())
    machine.fail_service()
    _assert_ended(cloud, requested)
    assert machine.recorders.calls[-1] == "shutdown -h now"
    status = runs.read_json(folder, runs.STATUS)
    assert (status["state"], status["epoch"]) == ("failed", 7)
    assert 3.5 <= status["cost_usd"] < 3.7


def test_a_spot_request_that_cannot_be_ended_is_told(
    cloud, metadata, machine, quick_project, data_dir
):
    name, requested, script = _deploy_spot(cloud, metadata, f"--data_dir={data_dir}")
    cloud.root.delete([runs.source_key(cloud.load(name))])
    denied = Answer(403, b"<Response><Errors><Error><Code>No</Code></Error></Errors></Response>")
    cloud.proxy.rules.insert(
        0, lambda r: denied if r.action == "CancelSpotInstanceRequests" else None
    )
    assert machine.boot(script) != 0
    assert cloud.spot_requests() == [requested]
    told = "its spot request was not ended, the time limit will, `stop` now (RefusedError"
    assert told in runs.read_json(runs.folder(cloud.root, name), runs.STATUS)["message"]
    assert told in machine.console
    assert machine.recorders.calls[-1] == "shutdown -h now"


def test_without_python_the_console_alone_says_what_failed(
    cloud, metadata, machine, quick_project, data_dir
):
    name, requested, script = _deploy_spot(cloud, metadata, f"--data_dir={data_dir}")
    machine.fail_packages(3)
    machine.system_python.unlink()
    assert machine.boot(script) == 1
    assert machine.recorders.calls[-1] == "shutdown -h now"
    assert cloud.spot_requests() == [requested]
    assert "python3: not found" in machine.console
    told = f"EC2 may start others until the time limit; this ends it now: stop {name}\n"
    assert told in machine.console


def test_what_has_ended_stays_ended_where_an_instance_is_started_in_its_place(
    cloud, metadata, machine, quick_project, data_dir
):
    name, requested, script = _deploy_spot(cloud, metadata, f"--data_dir={data_dir}")
    folder = runs.folder(cloud.root, name)
    folder.put(runs.STATUS, json.dumps({"state": "finished", "attempt": 1}).encode())
    folder.put("log/attempt-1.log", b"the training's")
    machine.fail_packages(3)
    assert machine.boot(script) == 1
    _assert_ended(cloud, requested)
    assert machine.recorders.calls[-1] == "shutdown -h now"
    assert runs.read_json(folder, runs.STATUS)["state"] == "finished"
    assert folder.read("log/attempt-1.log") == b"the training's"
    assert set(boot.ENDED) == set(runs.ENDED)


def test_user_data_holds_no_secret_and_fits(cloud, whole_project, data_dir, monkeypatch):
    assert (
        cloud.run("deploy", "--flagfile=quick.flags", "--yes", f"--data_dir={data_dir}").status == 0
    )
    (request,) = cloud.proxy.of("ec2", "RunInstances")
    assert len(base64.b64decode(request.form["UserData"])) < 16384
    script = unpacked(request.form["UserData"])
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    # Settings, none of them secret, and else nothing but files that git tracks.
    settings, *modules = re.split("^cat >.*\n", script, flags=re.M)
    assert re.findall("^([A-Z0-9_]+)=", settings, re.M) == [
        *("RUN", "ATTEMPT", "WORKER", "SPOT", "BUCKET", "PREFIX", "REGION", "SOURCE_SHA256"),
        *("DEADLINE", "BOTO"),
    ]
    assert len(settings.splitlines()) == 12, "first line, these, and the modules' function"
    for value in ("AKIACALLER", "of-the-caller"):
        assert value not in script
    package = whole_project / "launch"
    files = [package / name for name in userdata._MODULES]
    ends = [*["END_OF_MODULE\n"] * (len(files) - 1), "END_OF_MODULE\n}\n"]
    expected = [file.read_text() + end for file, end in zip(files, ends, strict=True)]
    expected[-1] += (package / "instance" / "boot.sh").read_text()
    assert "".join(modules) == re.sub("^cat >.*\n", "", "".join(expected), flags=re.M)

    size = len(base64.b64decode(request.form["UserData"]))
    monkeypatch.setattr(userdata, "_MAX_BYTES", size - 1)
    run = cloud.load(request.form["TagSpecification.1.Tag.1.Value"])
    with pytest.raises(LaunchError, match=f"first script has {size} bytes, EC2 takes {size - 1}"):
        userdata.render(whole_project, run, cloud.root, REGION)
