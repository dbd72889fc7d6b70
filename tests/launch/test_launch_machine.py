"""The script that a machine runs when it first starts, and its service, really run."""

from __future__ import annotations

import base64
import json
import re
import signal
import time
from pathlib import Path

import pytest
from fake_aws import DROP, error, git, policy_of
from waiting import wait_until


@pytest.fixture
def user_data(cloud, deployed):
    """Deploys; returns the script that the run's machine gets, with its role held against it."""

    def deploy(*arguments):
        deployed("--name=one", *arguments)
        cloud.proxy.rules.insert(0, policy_of(cloud, "one"))
        return script_of(cloud)

    return deploy


def script_of(cloud):
    """What the run's machine is given."""
    (template,) = cloud.client("ec2").describe_launch_templates()["LaunchTemplates"]
    versions = cloud.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=template["LaunchTemplateId"]
    )["LaunchTemplateVersions"]
    data = versions[0]["LaunchTemplateData"]
    assert data["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    return base64.b64decode(data["UserData"]).decode()


def test_a_machine_installs_runs_saves_and_ends_itself(
    cloud, metadata, machine, user_data, data_dir, tmp_path
):
    one = machine()
    script = user_data("--notify=me@example.org")
    assert len(script) < 16384, "EC2's limit"
    for secret in ("AKIACALLER", "of-the-caller"):
        assert secret not in script
    assert one.boot(script) == 0, one.log
    assert [call for call in one.calls if " install " in call] == [
        "apt-get -qq -o DPkg::Lock::Timeout=300 install -y python3.12 python3.12-venv",
        "python -m pip install --quiet --require-hashes --only-binary=:all: "
        "-r source/launch/train.lock",
    ]
    assert one.end_service(one.start_service()) == 0, one.log
    for file in data_dir.iterdir():
        assert (one.top / "work" / "data" / file.name).read_bytes() == file.read_bytes()
    assert cloud.group("one")["DesiredCapacity"] == 0, "by the machine, its role let it"
    assert metadata.refused == 0
    status = cloud.status("one")
    assert (status["state"], status["exit_status"], status["last_line"]) == (
        *("finished", 0, "finished"),
    )
    (told,) = cloud.proxy.of("sns", "Publish")
    assert json.loads(told.form["Message"])["state"] == "finished"
    owned = [r for r in cloud.proxy.requests if r.is_from_instance and r.service == "s3"]
    assert len(owned) > 5
    for request in owned:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert headers["x-amz-expected-bucket-owner"] == "123456789012", request.path

    followed = cloud.run("monitor", "one", "--follow")
    assert followed.status == 0
    assert "3 files are what the manifest says" in followed.out
    assert "epoch 3" in followed.out
    assert cloud.run("fetch", "one", f"--out_dir={tmp_path / 'out'}").status == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"epochs": 3}


# How the command begins that fails in each step.
SETUP_FAILS = {
    "installing the system packages": "apt-get -qq -o DPkg::Lock::Timeout=300 update",
    "fetching the source": "",
    "making the environment": "python3.12 -m venv",
    "installing the Python packages": "python -m pip install",
    "starting the service": "systemctl enable",
}


def test_wherever_setting_up_fails_the_log_is_up_and_no_machine_follows(cloud, machine, user_data):
    script = user_data()
    url = f"{cloud.proxy.url}/signal"
    script = script.replace("SIGNAL=''", f"SIGNAL='{url}'")
    assert set(SETUP_FAILS) < set(re.findall("^step='(.*)'$", script, re.M))
    signals = []
    cloud.proxy.rules.insert(
        0, lambda r: signals.append(r.body) or error(200, "") if r.path == "/signal" else None
    )
    folder = cloud.root.folder("runs/one")
    source = folder.read("source.tar")
    for number, (step, command) in enumerate(SETUP_FAILS.items()):
        one = machine(f"machine-{number}")
        signals.clear()
        folder.put("status.json", b'{"state": "starting"}')
        folder.put("source.tar", source if command else b"another")
        folder.folder("log").delete_all()
        cloud.client("autoscaling").set_desired_capacity(
            AutoScalingGroupName="emotion-tfdata-one", DesiredCapacity=1
        )
        if command:
            one.fail(command)
        assert one.boot(script) != 0, step
        (signalled,) = map(json.loads, signals)
        assert signalled["Status"] == "FAILURE"
        assert signalled["Reason"] == f"setting up failed: {step}", "CloudFormation shows it"
        status = cloud.status("one")
        assert (status["state"], status["message"]) == ("failed", signalled["Reason"])
        assert cloud.group("one")["DesiredCapacity"] == 0, "or Auto Scaling would start another"
        followed = cloud.run("monitor", "one", "--follow")
        assert followed.status == 1
        assert f"Setting up failed at: {step} (status" in followed.out
        assert f"Setting up failed at: {step} (status" in one.console, "which shows it too"


def test_amazon_linux_installs_by_dnf_and_preprocessing_gets_its_libraries(
    cloud, machine, project, data_dir
):
    (project / "preprocess").mkdir()
    (project / "preprocess" / "verify.py").touch()
    git(project, "add", "preprocess")
    verify = "--command=python -m preprocess.verify --data_dir={data}"
    told = cloud.run("deploy", "--yes", "--name=one", "--os=amazon", verify)
    assert told.status == 0, told.err
    one = machine(manager="dnf")
    assert one.boot(script_of(cloud)) == 0, one.log
    assert [call for call in one.calls if " install " in call] == [
        "dnf -q install -y python3.12 python3.12-pip mesa-libGL glib2",
        "python -m pip install --quiet --require-hashes --only-binary=:all: "
        "-r source/launch/preprocess.lock",
    ]
    assert one.end_service(one.start_service()) == 0, one.log
    assert "data: 0.0 MB" in one.log, "it has none"
    assert cloud.status("one")["state"] == "finished"


def test_interrupted_while_it_is_set_up_the_next_machine_does_it(cloud, machine, user_data):
    script = user_data("--spot")
    first = machine("first")
    first.interrupt_at("useradd")
    assert first.boot(script) != 0, first.log
    assert cloud.group("one")["DesiredCapacity"] == 1, "Auto Scaling starts another one"
    assert cloud.status("one")["state"] == "starting"
    second = machine("second")
    assert second.boot(script) == 0, second.log


def test_interrupted_in_the_middle_the_next_machine_resumes(
    cloud, metadata, machine, user_data, tmp_path
):
    """Its disk is gone; S3 has all that is needed."""
    script = user_data("--spot", "--", f"--until={tmp_path / 'go'}")
    first = machine("first")
    assert first.boot(script) == 0, first.log
    service = first.start_service()
    wait_until(lambda: "epoch 3" in first.log, "three epochs")
    service.send_signal(signal.SIGTERM)
    assert first.end_service(service) == 75, first.log
    assert cloud.group("one")["DesiredCapacity"] == 1, "Auto Scaling starts another one"
    assert cloud.status("one")["state"] == "interrupted"
    stopped_at = int(first.log.rsplit("stopped at ", 1)[1].split()[0])

    metadata.pages["meta-data/instance-id"] = "i-00000000000000002"
    (tmp_path / "go").touch()
    time.sleep(1)  # logs are named by the second
    second = machine("second")
    assert second.boot(script) == 0, second.log
    assert second.end_service(second.start_service()) == 0, second.log
    assert f"from epoch {stopped_at}\n" in second.log, "not from the beginning"
    status = cloud.status("one")
    assert (status["state"], status["instance_id"]) == ("finished", "i-00000000000000002")
    followed = cloud.run("monitor", "one", "--follow").out
    assert followed.index("stopped at") < followed.index(f"from epoch {stopped_at}")


def test_a_metadata_service_that_does_not_answer_is_asked_again(
    cloud, metadata, machine, user_data
):
    one = machine()
    assert one.boot(user_data()) == 0, one.log
    metadata.busy = 8
    assert one.end_service(one.start_service()) == 0, one.log
    assert metadata.busy == 0
    assert cloud.status("one")["state"] == "finished"


def test_a_command_that_fails_leaves_its_log_and_status(cloud, machine, user_data):
    one = machine()
    assert one.boot(user_data("--", "--fail_at=2")) == 0, one.log
    assert one.end_service(one.start_service()) == 0, one.log
    assert cloud.group("one")["DesiredCapacity"] == 0
    followed = cloud.run("monitor", "one", "--follow")
    assert followed.status == 1, "the command's own status"
    assert "train.py: the loss is nan" in followed.out
    assert "the command ended with status 1" in followed.err


def test_a_watcher_that_dies_ends_the_machine(cloud, machine, user_data, tmp_path):
    one = machine()
    assert one.boot(user_data("--", f"--until={tmp_path / 'never'}")) == 0, one.log
    service = one.start_service()
    wait_until(lambda: "epoch 3" in one.log, "three epochs")
    (pid,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    service.kill()
    assert one.end_service(service) == -signal.SIGKILL
    Path(tmp_path / "never").touch()  # systemd ends the command with the unit; here it does so
    wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists(), "its end")
    status = cloud.status("one")
    assert status["state"] == "failed"
    assert status["message"] == "the watcher ended with exit-code -9"
    assert cloud.group("one")["DesiredCapacity"] == 0


def test_damaged_data_is_named_and_ends_the_run(cloud, machine, user_data):
    script = user_data()
    name = next(o.name for o in cloud.root.folder("data").objects() if "00001" in o.name)
    cloud.root.folder("data").put(name, b"damaged")
    one = machine()
    assert one.boot(script) == 0, one.log
    assert one.end_service(one.start_service()) == 0, one.log
    message = cloud.status("one")["message"]
    assert "fold-0-of-1.tfrecord-00001-of-00003: SHA-256 is not the one that" in message
    assert "from epoch" not in one.log, "nothing was trained"


def test_what_s3_did_not_take_is_sent_again(cloud, machine, user_data, tmp_path):
    one = machine()
    assert one.boot(user_data()) == 0, one.log
    lost = []

    def rule(request):
        if request.method == "PUT" and "checkpoint.npz" in request.path and len(lost) < 3:
            lost.append(request.path)
            return DROP if len(lost) == 1 else error(503, "SlowDown")
        return None

    cloud.proxy.rules.append(rule)
    assert one.end_service(one.start_service()) == 0, one.log
    assert len(lost) == 3
    assert cloud.root.folder("runs/one/out").read_json("checkpoint.npz") == 3
    assert cloud.status("one")["state"] == "finished"


def test_the_project_s_own_training_runs_on_it(
    cloud, machine, fake_data_dir, project_dir, tmp_path
):
    """The real source, as git has it, and the real train.py, small."""
    flags = (
        *("--epochs=1", "--modalities=landmarks", "--landmarks=all", "--noaugment"),
        *("--model=tcn_filters=4", "--model=tcn_dilations=1", "--model=joined_units=8,8"),
        *("--select_on=none", "--lr_schedule=constant", "--input_threads=1"),
    )
    told = cloud.run("deploy", "--yes", "--name=one", f"--data_dir={fake_data_dir}", "--", *flags)
    assert told.status == 0, told.err
    cloud.proxy.rules.insert(0, policy_of(cloud, "one"))
    one = machine()
    assert one.boot(script_of(cloud)) == 0, one.log
    assert one.end_service(one.start_service()) == 0, one.log
    seen = cloud.run("monitor", "one")
    assert "one  finished" in seen.out, one.log
    assert "epoch 1/1  train loss" in one.log
    assert cloud.run("fetch", "one", f"--out_dir={tmp_path / 'out'}").status == 0
    for name in ("report.json", "checkpoint.npz", "best.keras", "history.json"):
        made = one.top / "work" / "out" / name
        assert (tmp_path / "out" / name).read_bytes() == made.read_bytes()
