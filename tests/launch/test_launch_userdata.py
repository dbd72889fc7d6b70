"""The script that an instance runs when it first starts, really run."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from machine_double import SYSTEMS
from quick_run import VENV
from whole_run import SMALL, boot_and_train, deploy, role, user_data, without_waits

from launch import run as runs


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


def test_on_amazon_linux_dnf_brings_what_the_training_runs_with(
    cloud, metadata, machines, whole_project, fake_data_dir, tmp_path
):
    (whole_project / "launch" / "venv.sh").write_text(VENV)  # train.py is the real one
    machine = machines(metadata, system="amazon")
    # As when the machine's own agent updates itself just then, without dnf's lock.
    machine.fail_packages(2)
    flags = ["--os=amazon", "--flagfile=quick.flags", f"--data_dir={fake_data_dir}"]
    name = deploy(cloud, *flags, "--", *SMALL)
    boot_and_train(cloud, metadata, machine, name)

    packages = "python3.11 python3.11-pip mesa-libGL glib2 tar"
    calls = machine.recorders.calls
    asked = [call for call in calls if not call.startswith(("systemctl", "shutdown"))]
    assert asked == 3 * [f"dnf install -y {packages}"]
    assert calls[-1] == "shutdown -h now"
    environment = " ".join(machine.unit("emotion-tfdata.service")["Environment"]).split()
    assert f"PYTHON={machine.recorders.path / 'python3.11'}" in environment
    assert f"TMPDIR={machine.root / 'tmp'}" in environment, "/tmp is in memory there"
    assert "PIP_NO_CACHE_DIR=1" in environment

    assert "finished" in cloud.run("monitor", name).out
    assert cloud.run("fetch", name, f"--out_dir={tmp_path / 'fetched'}").status == 0
    assert "epoch 1/1" in (tmp_path / "fetched" / "log" / "attempt-1.log").read_text()
    assert (tmp_path / "fetched" / "report.json").is_file()


@pytest.mark.parametrize("system", ["ubuntu", "amazon"])
def test_a_package_that_cannot_be_had_ends_the_instance(
    cloud, metadata, machines, project, data_dir, system
):
    name = deploy(cloud, f"--os={system}", f"--data_dir={data_dir}")
    metadata.give_role(role(name))
    machine = machines(metadata, system=system)
    machine.fail_packages(3)
    (script,) = user_data(cloud)

    assert machine.boot(without_waits(script)) == 1
    *before, last = machine.recorders.calls
    assert last == "shutdown -h now"
    manager, _ = SYSTEMS[system]
    assert len([call for call in before if call.startswith(manager)]) == 3
    assert before[-1].startswith(manager), "nothing was done without its packages"
    assert "could not be set up" in machine.console


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
