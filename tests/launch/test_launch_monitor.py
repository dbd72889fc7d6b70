"""Watching runs, ending them, and what is said of them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time

import pytest
import yaml
from fake_aws import Answer

from launch import run as runs
from launch.aws import monitor
from launch.aws.session import connect


def _say(cloud, name, **status):
    """Puts a status up as the instance does."""
    content = {"attempt": 1, "updated_at": round(time.time()), "cost_usd": 1.5, **status}
    runs.folder(cloud.root, name).put(runs.STATUS, json.dumps(content).encode())


def test_a_run_is_described(cloud, deployed):
    name = deployed()
    starting = cloud.run("monitor", name).out
    assert f"{name}  starting" in starting
    metrics = {"train": {"loss": 1.25, "accuracy": 0.5}, "clips_per_s": 91.2}
    _say(
        cloud,
        name,
        **{
            "state": "training",
            "epoch": 4,
            "epochs": 60,
            "metrics": metrics,
            "last_line": "so far",
        },
    )
    out = cloud.run("monitor", name).out
    assert f"{name}  training" in out
    assert "c5.24xlarge on demand, attempt 1, i-" in out
    assert "epoch      4 of 60" in out
    assert "train loss 1.250 accuracy 0.500, 91 clips/s" in out
    assert "cost       $1.50 so far, computed ($4.088 an hour" in out
    assert "so far" in out
    assert "time limit in 12.0 h" in out
    assert "WARNING" not in out


def test_silence_and_lateness_are_warned_of(cloud, deployed):
    name = deployed()
    _say(cloud, name, state="training", updated_at=round(time.time()) - 900)
    assert re.search("silent for 9[0-9]+ s; end it", cloud.run("monitor", name).out)
    run = cloud.load(name)
    late = {**run.__dict__, "started_at": run.started_at - 13 * 3600}
    runs.folder(cloud.root, name).put(runs.RUN, runs.Run(**late).to_json())
    assert "past its time limit; end it" in cloud.run("monitor", name).out


def test_an_instance_that_vanished_is_told(cloud, deployed):
    name = deployed()
    _say(cloud, name, state="training")
    (instance,) = cloud.instances()
    cloud.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])
    result = cloud.run("monitor", name, "--follow")
    assert result.status == monitor.NOT_FINISHED
    assert "lost" in result.out
    assert f"`resume {name}` goes on" in result.err
    asked = f"aws ec2 get-console-output --output text --instance-id {instance['InstanceId']}\n"
    assert asked in result.err


def test_a_stopped_spot_instance_is_waited_for(cloud, deployed):
    name = deployed("--spot", "--price=1")
    _say(cloud, name, state="interrupted")
    (instance,) = cloud.instances()
    cloud.client("ec2").stop_instances(InstanceIds=[instance["InstanceId"]])
    assert "waiting for a spot instance" in cloud.run("monitor", name).out


def test_a_spot_instance_that_is_to_come_back_is_waited_for(cloud, deployed):
    """Its request is open where its instance is gone and another one has no room yet."""
    name = deployed("--spot", "--price=1")
    _say(cloud, name, state="interrupted")
    cloud.make_spot_request(name)
    (instance,) = cloud.instances()
    cloud.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert f"{name}  lost" in cloud.run("monitor", name).out, "it is active, without instance"
    cloud.proxy.reopen_spot_requests()
    shown = cloud.run("monitor", name).out
    assert f"{name}  waiting for a spot instance" in shown
    assert "resume" not in shown


@pytest.mark.parametrize(
    ("state", "exit_status", "expected"),
    [("finished", 0, 0), ("failed", 7, 7), ("stopped", None, 3), ("out of time", None, 3)],
)
def test_following_ends_with_the_runs_own_status(cloud, deployed, state, exit_status, expected):
    name = deployed()
    folder = runs.folder(cloud.root, name)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        text = "".join(f"line {n}\n" for n in range(len(looks) + 1)).encode()
        folder.put("log/attempt-1.log", text)
        if len(looks) == 3:
            _say(cloud, name, state=state, exit_status=exit_status)
        else:
            _say(cloud, name, state="training")

    out = io.StringIO()
    seen = monitor.follow(connect(), cloud.root, name, every_s=9, out=out, sleep=sleep)
    assert seen.exit_status == expected
    assert [line for line in out.getvalue().splitlines() if line.startswith("line")] == [
        *("line 0", "line 1", "line 2", "line 3")
    ], "every line once"
    assert f"--- {name}: {state}" in out.getvalue()


def test_runs_are_listed_with_what_they_hold(cloud, deployed):
    assert "no runs" in cloud.run("list").out
    one, two = deployed("--name=one"), deployed("--name=two")
    cloud.run("stop", two)
    _say(cloud, one, state="training", epoch=2, epochs=9)
    first, second = cloud.run("list").out.splitlines()
    assert first.startswith("one ")
    assert "training" in first
    assert "epoch 2/9" in first
    assert "(running)" in first
    assert "role" in first
    assert second.startswith("two ")
    assert "stopped" in second
    assert "i-" not in second


def test_what_lies_about_without_a_run_is_listed(cloud, deployed):
    name = deployed("--name=torn")
    cloud.root.delete([found.name for found in cloud.root.objects()])
    listed = cloud.run("list").out
    assert "torn" in listed
    assert f"remove: stop {name} --delete" in listed
    assert cloud.run("stop", name, "--delete", "--yes").status == 0
    assert cloud.left_over() == []
    again = cloud.run("stop", name, "--delete", "--yes")
    assert (again.status, f"there is no run {name}" in again.err) == (1, True), "nothing is left"


def test_stopping_an_instance_that_does_not_answer_ends_it_all_the_same(
    cloud, deployed, monkeypatch
):
    monkeypatch.setattr("launch.aws.stop._POLL_S", 0.01)
    monkeypatch.setattr("launch.aws.stop.end.__kwdefaults__", {"wait": False, "save_for_s": 0.2})
    name = deployed()
    _say(cloud, name, state="training")
    result = cloud.run("stop", name)
    assert result.status == 0
    assert "it did not answer" in result.err
    assert cloud.instances() == []


def test_deleting_asks_first(cloud, deployed, monkeypatch):
    name = deployed()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    result = cloud.run("stop", name, "--delete")
    assert result.status == 1
    assert "pass --yes" in result.err
    assert len(cloud.instances()) == 1
    dry = cloud.run("stop", name, "--delete", "--dry_run")
    assert dry.status == 0
    assert len(cloud.instances()) == 1


@pytest.mark.parametrize("command", ["monitor", "fetch", "resume"])
def test_a_run_that_is_not_there(cloud, project, command):
    result = cloud.run(command, "nothing")
    assert result.status == 1
    assert "there is no run nothing in s3://" in result.err


def test_wrong_usage(cloud):
    assert "give one of: deploy" in cloud.run().err
    assert cloud.run("fly").status == 2
    assert "takes the name of one run" in cloud.run("monitor").err
    assert "is no run's name" in cloud.run("monitor", "../x").err


def test_what_aws_refuses_is_said(cloud, project):
    denied = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error>"
    denied += b"</ErrorResponse>"
    cloud.proxy.rules.insert(0, lambda r: Answer(403, denied) if r.service == "sts" else None)
    result = cloud.run("list")
    assert result.status == 1
    assert "AccessDenied" in result.err
    assert "not you" in result.err


def test_fetching_into_another_runs_folder_is_refused(cloud, deployed, tmp_path):
    one, two = deployed("--name=one"), deployed("--name=two")
    assert cloud.run("fetch", one, f"--out_dir={tmp_path / 'out'}").status == 0
    result = cloud.run("fetch", two, f"--out_dir={tmp_path / 'out'}")
    assert result.status == 1
    assert "holds another run's files" in result.err


def test_the_shell_commands_call_these(cloud, project_dir, deployed, tmp_path):
    def call(*arguments):
        return subprocess.run(
            [str(project_dir / "launch" / arguments[0]), *arguments[1:]],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=60,
        )

    refused = call("deploy.sh", "--data_dir=/nowhere", "--dry_run")
    assert refused.returncode == 1
    assert "--data_dir=/nowhere holds no data set" in refused.stderr
    name = deployed()
    _say(cloud, name, state="failed", exit_status=5)
    runs.folder(cloud.root, name).put("log/attempt-1.log", b"what was said\n")
    followed = call("monitor_training.sh", name)
    assert followed.returncode == 5
    assert "what was said" in followed.stdout
    assert call("monitor_training.sh").returncode == 2

    log = tmp_path / "train.log"
    log.write_text("first line\n")
    with subprocess.Popen(
        [str(project_dir / "launch" / "monitor_training.sh"), str(log)],
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout
        assert tail.stdout.readline() == "first line\n"
        with open(log, "a") as file:
            file.write("second line\n")
        assert tail.stdout.readline() == "second line\n"
        tail.terminate()


def test_the_skypilot_task_is_the_same_run(project_dir):
    task = yaml.safe_load((project_dir / "launch" / "skypilot.yaml").read_text())
    assert task["resources"]["instance_type"] == "c5.24xlarge"
    assert task["resources"]["autostop"]["down"] is True
    assert "make_venv" in task["setup"]
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "train.py --flagfile=" in task["run"]
