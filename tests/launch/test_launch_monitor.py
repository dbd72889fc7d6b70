"""Watching runs, ending them, and what is said of them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from fake_aws import DROP, Answer
from quick_run import TRAINER

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


def test_an_instance_that_outlives_its_run_is_warned_of(cloud, deployed):
    """It costs on, and nobody would look for it."""
    name = deployed()
    _say(cloud, name, state="finished", updated_at=round(time.time()) - 900)
    (instance,) = cloud.instances()
    shown = cloud.run("monitor", name).out
    told = f"WARNING    finished for 90[0-9] s, and {instance['InstanceId']} runs and costs still"
    assert re.search(f"{told}; end it: stop {name}\n", shown)
    assert "$2.52 so far" in shown, "1.50 and a quarter of an hour"
    cloud.run("stop", name)
    shown = cloud.run("monitor", name).out
    assert "$1.50 so far" in shown
    assert "WARNING" not in shown


def test_what_never_started_is_not_called_lost(cloud, deployed):
    name = deployed()
    cloud.client("ec2").terminate_instances(InstanceIds=[cloud.instances()[0]["InstanceId"]])
    runs.folder(cloud.root, name).delete([runs.LAUNCH])  # as if killed before the instance
    shown = cloud.run("monitor", name).out
    assert f"{name}  not started" in shown
    assert "then the same deploy command goes on, and\n" in shown
    assert f"  stop {name} --delete removes what was made\n" in shown
    refused = cloud.run("resume", name, "--yes")
    assert refused.status == 1
    assert f"{name} has not been started; the same deploy command goes on" in refused.err
    assert cloud.instances() == []


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


def test_following_outlasts_a_network_that_is_away(cloud, deployed):
    name = deployed()
    runs.folder(cloud.root, name).put("log/attempt-1.log", b"line\n")
    _say(cloud, name, state="training")
    away = lambda request: DROP  # noqa: E731
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            cloud.proxy.rules.insert(0, away)
        elif len(looks) == 3:
            cloud.proxy.rules.remove(away)
            _say(cloud, name, state="finished", exit_status=0)

    out = io.StringIO()
    seen = monitor.follow(connect(), cloud.root, name, every_s=9, out=out, sleep=sleep)
    assert seen.exit_status == 0
    told = [line.partition(" (")[0] for line in out.getvalue().splitlines()]
    lost = f"--- {name}: AWS is not reached"
    assert told == [f"--- {name}: training", "line", lost, lost, f"--- {name}: finished"]


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


def test_a_dry_run_of_stop_ends_nothing(cloud, deployed):
    name = deployed()
    (instance,) = cloud.instances()
    dry = cloud.run("stop", name, "--dry_run")
    assert dry.status == 0
    assert f"nothing was ended; it has {instance['InstanceId']} (running)\n" in dry.err
    assert len(cloud.instances()) == 1
    assert runs.folder(cloud.root, name).find(runs.STOP) is None
    assert cloud.run("stop", name).status == 0
    assert "it has no instance" in cloud.run("stop", name, "--dry_run").err


@pytest.mark.parametrize(
    "arguments",
    [
        *("fetch run --dry_run", "monitor run --delete", "list --yes", "stop run --price=1"),
        *("deploy --out_dir=x", "resume run --follow", "stop run --flagfile=tcn.flags"),
    ],
)
def test_flags_that_a_command_does_not_take_are_refused(cloud, arguments):
    """Or who asks for a dry run would get a real one."""
    command, *_, flag = arguments.split()
    result = cloud.run(*arguments.split())
    assert result.status == 2
    assert result.err == f"launch.ec2: {command} takes no {flag.partition('=')[0]}\n"
    assert cloud.proxy.requests == []


def test_a_run_under_another_prefix_is_neither_taken_up_nor_ended_unsaved(
    cloud, deployed, data_dir
):
    cloud.client("s3").create_bucket(Bucket="mine")
    name = deployed("--prefix=s3://mine/a", "--name=far")
    (instance,) = cloud.instances()
    listed = cloud.run("list").out
    assert f"far                               not in {cloud.root}" in listed
    assert "look under another --prefix" in listed
    again = cloud.run("deploy", f"--data_dir={data_dir}", "--name=far", "--dry_run")
    assert again.status == 1
    belongs = f"{instance['InstanceId']} belongs to a run far that is not in {cloud.root}, but"
    assert belongs in again.err
    refused = cloud.run("stop", name)
    assert refused.status == 1
    assert f"far is not in {cloud.root} and cannot be asked to save; give its" in refused.err
    assert len(cloud.instances()) == 1
    assert cloud.run("stop", name, "--prefix=s3://mine/a").status == 0
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
    assert "--every_s=nan: give from 0.1" in cloud.run("monitor", "x", "--every_s=nan").err


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


def test_fetching_overwrites_nothing_that_is_not_the_runs(cloud, deployed, tmp_path):
    name = deployed()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text("dear")
    folder = runs.folder(cloud.root, name)
    folder.put("model/report.json", b"other")
    result = cloud.run("fetch", name, f"--out_dir={tmp_path / 'mine'}")
    assert result.status == 1
    assert "mine holds files that are no run's; choose another --out_dir" in result.err
    for key in ("model/../../mine/report.json", f"model/{tmp_path}/mine/report.json"):
        folder.client.put_object(Bucket=folder.bucket, Key=folder.key(key), Body=b"other")
        result = cloud.run("fetch", name, f"--out_dir={tmp_path / 'out'}")
        assert result.status == 1
        assert f"{folder}/{key}: the name leads out of" in result.err
        folder.delete([key])
    assert (tmp_path / "mine" / "report.json").read_text() == "dear"
    assert cloud.run("fetch", name, f"--out_dir={tmp_path / 'out'}").status == 0
    assert (tmp_path / "out" / "report.json").read_bytes() == b"other"


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
    said = "launch.ec2: --data_dir=/nowhere holds no data set (no manifest.json). Make one with: "
    (line,) = refused.stderr.splitlines()
    assert line.startswith(said), "and nothing of where boto3 found what"
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


def test_the_skypilot_task_trains_saves_and_goes_on(project_dir, tmp_path):
    """Its script really run, with a trainer that takes no time, and a copy that fails at times."""
    task = yaml.safe_load((project_dir / "launch" / "skypilot.yaml").read_text())
    script = task["run"].replace("sleep 30", "sleep 0.1")
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    commands = tmp_path / "emotion-tfdata-venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "python").symlink_to(sys.executable)
    (commands / "cp").write_text(
        '#!/bin/sh\necho >>"$HOME/copies"\n'
        '[ "$(wc -l <"$HOME/copies")" != 2 ] || exit 1\nexec /bin/cp "$@"\n'
    )
    (commands / "cp").chmod(0o755)
    path = f"{commands}:{os.environ['PATH']}"
    environment = {**os.environ, **task["envs"], "HOME": str(tmp_path), "PATH": path}

    def run(flags):
        return subprocess.run(
            ["bash", "-c", script],
            env={**environment, "BUCKET": "b", "FLAGFILE": f"tcn.flags --epochs=9 {flags}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    failed = run("--fail_at=6")
    assert failed.returncode == 1
    assert "the loss is nan" in failed.stderr
    assert "replaced while it was copied" in failed.stdout
    saved = tmp_path / "runs" / "tcn"
    assert json.loads((saved / "checkpoint.npz").read_text()) == 6
    shutil.rmtree(tmp_path / "model")  # another machine
    done = run("")
    assert done.returncode == 0
    assert "from epoch 6\n" in done.stdout
    assert json.loads((saved / "report.json").read_text()) == {"epochs": 9}
