"""Watching runs, bringing their files, ending and resuming them."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import subprocess
import time

import pytest
from fake_aws import DROP, Answer, error

from launch import aws, monitor, offers

NOW = datetime.datetime.now(datetime.timezone.utc)


def test_a_run_is_described(cloud, deployed):
    name = deployed("--name=one", "--spot")
    assert "one  setting up" in cloud.run("monitor", name).out
    (machine,) = (one["InstanceId"] for one in cloud.instances())
    said = "epoch 4/60  train loss 1.250 accuracy 0.500"
    cloud.say(name, state="running", instance_id=machine, last_line=said)
    cloud.proxy.requests.clear()
    out = cloud.run("monitor", name).out
    asked = {request.action for request in cloud.proxy.requests}
    assert not asked & {"GetProducts", "DescribeSpotPriceHistory"}, "the start noted the price"
    assert "one  running" in out
    assert f"c7i.xlarge spot, {machine}; stack emotion-tfdata-one: UPDATE_COMPLETE" in out
    assert f" s ago: {said}" in out
    assert said in cloud.run("list").out
    (priced,) = offers.machines(aws.connect(), ["c7i.xlarge"])
    usd = priced.spot_usd + offers.extras_usd(30)
    cost = f"cost       ${usd:.2f} so far, computed at ${usd:.3f} an hour, the spot market on 20"
    assert cost in out, "of the hour that it ran"
    assert f"shell      aws ssm start-session --region us-east-1 --target {machine}" in out
    assert "WARNING" not in out
    cloud.say(name, state="running", instance_id=machine, updated_at=round(time.time()) - 900)
    assert "it is silent for 90" in cloud.run("monitor", name).out
    cloud.say(name, state="finished", instance_id=machine, updated_at=round(time.time()) - 900)
    assert "it is over, and its machine still runs and costs" in cloud.run("monitor", name).out


def test_a_run_that_waits_for_a_machine_says_why(cloud, deployed, monkeypatch):
    name = deployed()
    monkeypatch.setattr(aws, "group", lambda *a: {"DesiredCapacity": 1, "Instances": []})
    failed = {"StatusCode": "Failed", "StatusMessage": "not sufficient c7i.xlarge capacity"}
    monkeypatch.setattr(aws, "activities", lambda *a: [failed | {"StartTime": NOW}])
    out = cloud.run("monitor", name).out
    assert "waiting for a machine" in out
    assert "because    not sufficient c7i.xlarge capacity" in out


def test_following_ends_with_the_run_s_own_status(cloud, deployed, monkeypatch):
    name = deployed()
    folder = cloud.root.folder(f"runs/{name}")
    folder.put("log/20300101T000000Z-i-1.txt", b"first\n")

    def on(number):
        if number == 1:
            folder.put("log/20300101T000000Z-i-1.txt", b"first\nmore\n")
        if number == 2:  # taken away; the next machine has its own log
            cloud.proxy.rules.insert(0, lambda r: DROP if r.service == "autoscaling" else None)
            folder.put("log/20300101T010000Z-i-2.txt", b"second\n")
        if number == 3:
            cloud.proxy.rules.pop(0)
            cloud.say(name, state="failed", exit_status=5)

    calls = iter(range(1, 9))
    monkeypatch.setattr(monitor.time, "sleep", lambda s: s == aws.POLL_S and on(next(calls)))
    told = cloud.run("monitor", name, "--follow")
    assert told.status == 5
    out = told.out
    assert [line for line in out.splitlines() if not line.startswith("---")] == [
        *("first", "more", "second")
    ]
    assert "AWS is not reachable" in out


def test_where_no_log_got_to_s3_the_console_is_shown(cloud, deployed, monkeypatch):
    name = deployed()
    (machine,) = (one["InstanceId"] for one in cloud.instances())
    cloud.say(name, state="failed", message="setting up failed")
    text = base64.b64encode(b"Kernel panic").decode()

    def rule(request):
        if request.action != "GetConsoleOutput":
            return None
        assert request.form["InstanceId"] == machine
        body = f"<GetConsoleOutputResponse><output>{text}</output></GetConsoleOutputResponse>"
        return dataclasses.replace(error(200, ""), body=body.encode())

    cloud.proxy.rules.insert(0, rule)
    assert "Kernel panic" in cloud.run("monitor", name, "--follow").out
    cloud.say(name, state="starting")  # as where AWS gave it up
    monkeypatch.setattr(aws, "group", lambda *a: {"DesiredCapacity": 0, "Instances": []})
    # moto keeps no activities
    ended = {"Description": f"Terminating EC2 instance: {machine}", "Cause": "a request"}
    monkeypatch.setattr(aws, "activities", lambda *a: [ended])
    assert "Kernel panic" in cloud.run("monitor", name, "--follow").out


def test_stopping_and_listing_need_nothing_of_s3(cloud, deployed):
    name = deployed("--name=one")
    deployed("--name=two")
    cloud.proxy.rules.insert(0, lambda r: error(403, "AccessDenied") if r.service == "s3" else None)
    listed = cloud.run("list")
    assert listed.status == 0
    assert listed.out.count("its files cannot be read") == 2
    assert cloud.run("stop", name).status == 0
    assert len(cloud.instances()) == 1, "two's"
    refused = cloud.run("stop", "two", "--delete", "--yes")
    assert refused.status == 1, "its files stay"
    assert cloud.instances() == []
    assert cloud.group("two")["DesiredCapacity"] == 0
    cloud.proxy.rules.pop(0)
    cloud.root.folder("runs/one").put("status.json", b"{damaged")
    listed = cloud.run("list")
    assert "its files cannot be read" in listed.out
    assert "two  " in listed.out
    assert cloud.run("stop", "two", "--delete", "--yes").status == 0
    assert cloud.run("stop", "one", "--delete", "--yes").status == 0
    assert cloud.left_over() == [cloud.root.bucket], "the bucket stays"


def test_a_stopped_run_resumes_with_what_may_change(cloud, deployed):
    name = deployed("--name=one")
    again = cloud.run("resume", name, "--yes")
    assert (again.status, len(cloud.instances())) == (0, 1)
    assert "setting up" in again.err
    cloud.say(name, state="interrupted")
    assert cloud.run("stop", name).status == 0
    with pytest.MonkeyPatch.context() as patch:  # moto keeps no activities
        cause = "a scheduled action changed the desired capacity from 1 to 0"
        patch.setattr(aws, "activities", lambda *a: [{"Cause": cause}])
        assert f"because    {cause}" in cloud.run("monitor", name).out
    assert cloud.run("monitor", name, "--follow").status == 3
    assert "nobody is there to ask" in cloud.run("resume", name).err
    changed = cloud.run(
        *("resume", name, "--yes", "--spot", "--max_hours=3", "--instance_type=c7g.2xlarge")
    )
    assert changed.status == 0, changed.err
    parameters = cloud.parameters(name)
    assert (parameters["InstanceType"], parameters["LikeType1"]) == ("c7g.2xlarge", "")
    assert parameters["Spot"] == "true"
    assert len(cloud.instances()) == 1
    assert cloud.status(name)["machine_s"] == 3600, "its cost continues"
    assert "the spot market on 20" in cloud.run("monitor", name).out, "at the new machine's price"
    cloud.say(name, state="finished")
    cloud.run("stop", name)
    assert "is finished; `fetch one`" in cloud.run("resume", name, "--yes").err


def test_files_are_fetched_once_and_never_over_others(cloud, deployed, tmp_path):
    name = deployed()
    folder = cloud.root.folder(f"runs/{name}")
    folder.put("out/report.json", b"{}")
    folder.put("out/fold-0/best.keras", b"model")
    folder.put("log/1.txt", b"log")
    out = tmp_path / "out"
    first = cloud.run("fetch", name, f"--out_dir={out}")
    assert (first.err.count(str(out)), first.err.count("is here")) == (3, 0)
    assert (out / "fold-0" / "best.keras").read_bytes() == b"model"
    again = cloud.run("fetch", name, f"--out_dir={out}")
    assert again.err.count("is here") == 3
    other = deployed("--", "--epochs=9")
    assert "holds other files" in cloud.run("fetch", other, f"--out_dir={out}").err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "holds other files" in cloud.run("fetch", name, f"--out_dir={tmp_path / 'full'}").err
    folder.put("out/../../outside", b"")
    assert "leads out of" in cloud.run("fetch", name, f"--out_dir={out}").err
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("command", ["monitor", "fetch", "stop", "stop --delete", "resume"])
def test_a_run_that_is_not_there_is_status_1(cloud, project, command):
    told = cloud.run(*command.split(), "nothing")
    assert told.status == 1
    assert "there is no run nothing" in told.err


def test_what_is_no_answer_of_aws_is_told(cloud, project):
    page = b"<!doctype html><title>Log in</title>"
    cloud.proxy.rules.insert(0, lambda r: Answer(502, page) if r.service != "sts" else None)
    told = cloud.run("list")
    assert told.status == 1
    assert "launch.ec2: AWS: Unable to parse response" in told.err


def test_wrong_calls_are_told_and_touch_nothing(cloud, project):
    assert cloud.run().status == 2
    assert "invalid choice: 'deplay' (choose from" in cloud.run("deplay").err
    assert "arguments are required: run" in cloud.run("monitor").err
    assert "a run's name: up to 32 of a-z" in cloud.run("monitor", "A b").err
    for arguments, unknown in (
        (("stop", "x", "--follow"), "unrecognized arguments: --follow"),
        (("list", "x"), "unrecognized arguments: x"),
        (("monitor", "x", "--", "--epochs=2"), "unrecognized arguments: --epochs=2"),
    ):
        told = cloud.run(*arguments)
        assert (told.status, unknown in told.err) == (2, True), told.err
    assert "from 0.2 to 744" in cloud.run("deploy", "--max_hours=nan").err
    assert "give s3://BUCKET/PREFIX" in cloud.run("list", "--prefix=/tmp").err
    assert cloud.proxy.requests == []


def test_the_short_names(cloud, deployed, data_dir, project_dir, tmp_path):
    def call(name, *arguments):
        command = [str(project_dir / "launch" / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    refused = call("deploy.sh", "--data_dir=/nowhere", "--dry_run")
    assert refused.returncode == 1
    assert (
        refused.stderr.splitlines()[-1]
        == "launch.ec2: --data_dir=/nowhere: no such folder, or no files in it"
    )
    name = deployed()
    cloud.say(name, state="failed", exit_status=5)
    cloud.root.folder(f"runs/{name}").put("log/1.txt", b"what was said\n")
    followed = call("monitor_training.sh", name)
    assert followed.returncode == 5
    assert "what was said" in followed.stdout
    assert call("monitor_training.sh").returncode == 2

    log = tmp_path / "train.log"
    log.write_text("first line\n")
    command = [str(project_dir / "launch" / "monitor_training.sh"), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout
        assert tail.stdout.readline() == "first line\n"
        with open(log, "a") as file:
            file.write("second line\n")
        assert tail.stdout.readline() == "second line\n"
        tail.terminate()
