"""Several instances that train one model: asked for, found by each other, ended together."""

from __future__ import annotations

import json
import re

import pytest
from fake_aws import Answer, git, quota
from machine_double import ADDRESS
from waiting import wait_until
from whole_run import unpacked

from launch import run as runs
from launch.aws import deploy
from launch.instance import agent

OTHER = "10.1.2.4:2222"


def _scripts(cloud):
    requests = cloud.proxy.of("ec2", "RunInstances")
    return [unpacked(request.form["UserData"]) for request in requests]


def _tag(entry, key):
    return {tag["Key"]: tag["Value"] for tag in entry["Tags"]}[f"emotion_tfdata:{key}"]


# What is asked of AWS.


def test_each_instance_knows_which_it_is_and_none_is_started_twice(cloud, deployed):
    name = deployed("--num_instances=3", "--name=three", "--instance_type=c5.large")
    requests = cloud.proxy.of("ec2", "RunInstances")
    assert len({request.form["ClientToken"] for request in requests}) == 3
    assert {_tag(one, "worker") for one in cloud.instances()} == {"0", "1", "2"}
    assert {_tag(one, "run") for one in cloud.instances()} == {name}
    workers = [re.search("^WORKER=([0-9])$", script, re.M)[1] for script in _scripts(cloud)]
    assert workers == ["0", "1", "2"]
    started = {one["InstanceId"] for one in cloud.instances()}
    recorded = runs.read_json(runs.folder(cloud.root, name), runs.LAUNCH)["instances"]
    assert {one["instance_id"] for one in recorded} == started

    assert deployed("--num_instances=3", "--name=three", "--instance_type=c5.large") == name
    assert {one["InstanceId"] for one in cloud.instances()} == started


def test_they_reach_each_other_on_one_port_and_nobody_else_reaches_them(cloud, deployed):
    deployed("--num_instances=2")
    (group,) = [
        g
        for g in cloud.client("ec2").describe_security_groups()["SecurityGroups"]
        if g["GroupName"] != "default"
    ]
    (inward,) = group["IpPermissions"]
    assert (inward["IpProtocol"], inward["FromPort"], inward["ToPort"]) == ("tcp", 2222, 2222)
    assert [pair["GroupId"] for pair in inward["UserIdGroupPairs"]] == [group["GroupId"]]
    assert inward["IpRanges"] == inward["Ipv6Ranges"] == []
    outward = {rule["FromPort"]: rule for rule in group["IpPermissionsEgress"]}
    assert sorted(outward) == [80, 443, 2222]
    assert outward[2222]["IpRanges"] == []
    # The same call again changes no rule.
    before = len(cloud.proxy.of("ec2", "AuthorizeSecurityGroupIngress"))
    deployed("--num_instances=2")
    assert len(cloud.proxy.of("ec2", "AuthorizeSecurityGroupIngress")) == before
    assert not cloud.proxy.of("ec2", "RevokeSecurityGroupIngress")


def test_price_and_quota_count_all_of_them(cloud, deployed, data_dir):
    one = cloud.load(deployed("--name=one", "--instance_type=c5.large"))
    shown = cloud.run(
        *("deploy", f"--data_dir={data_dir}", "--dry_run", "--num_instances=3"),
        *("--instance_type=c5.large", "--max_hours=10"),
    )
    assert "3 x c5.large" in shown.err
    assert "each of 3" in shown.err
    assert f"${30 * one.usd_per_hour:.2f} at most" in shown.err
    assert "in: each other on port 2222; out" in shown.err
    cloud.proxy.rules.insert(0, quota(7))
    refused = cloud.run(
        *("deploy", f"--data_dir={data_dir}", "--yes", "--num_instances=3", "--name=many"),
        "--instance_type=c5.large",
    )
    assert refused.status == 1
    assert "3 x c5.large have 6 vCPUs; of the account's 7" in refused.err


@pytest.mark.parametrize(
    ("written", "more", "size"),
    [
        ("", [], 24),  # train.py's own default
        ("--batch_size=25\n# --batch_size=24\n", [], 25),
        ("# try also --batch_size=24\n--batch_size=10\n", [], 10),
        ("--flagfile=nested.flags\n", [], 9),
        ("--batch_size=10\n--flagfile=nested.flags\n", [], 9),
        ("--flagfile=nested.flags\n--batch_size=10\n", [], 10),
        ("--batch_size=9\n", ["--epochs=2", "--batch_size=15"], 15),
    ],
)
@pytest.mark.parametrize("num_instances", [5, 2])
def test_a_batch_is_shared_as_train_py_reads_its_size(
    cloud, project, data_dir, monkeypatch, tmp_path, written, more, size, num_instances
):
    monkeypatch.chdir(tmp_path)  # flag files are found from the project all the same
    (project / "tcn.flags").write_text(written)
    (project / "nested.flags").write_text("# of nine\n--batch_size=9\n")
    git(project, "add", "nested.flags")
    result = cloud.run(
        *("deploy", f"--data_dir={data_dir}", "--dry_run", "--instance_type=c5.large"),
        *(f"--num_instances={num_instances}", "--", *more),
    )
    refused = f"a batch of {size} cannot be shared equally by" in result.err
    assert (refused, result.status) == ((True, 1) if size % num_instances else (False, 0))


def test_where_one_cannot_be_started_none_is_left(cloud, project, data_dir):
    asked = []

    def full(request):
        if request.action != "RunInstances":
            return None
        asked.append(request)
        if len(asked) == 1:
            return None
        body = (
            "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>"
            "<Message>none</Message></Error></Errors></Response>"
        )
        return Answer(500, body.encode(), "text/xml")

    cloud.proxy.rules.insert(0, full)
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--num_instances=2")
    assert result.status == 1
    assert "AWS has no room for c5.24xlarge" in result.err
    assert cloud.instances() == []


def test_killed_between_two_instances_the_same_call_starts_the_missing_one(
    cloud, deployed, data_dir, monkeypatch
):
    class KilledError(BaseException):
        pass

    launch, started = deploy.instances.launch, []

    def once(*arguments):
        if started:
            raise KilledError
        started.append(launch(*arguments))
        return started[0]

    with monkeypatch.context() as patch:
        patch.setattr(deploy.instances, "launch", once)
        patch.setattr(deploy, "_undo", lambda *arguments: None)  # as of a killed process
        with pytest.raises(KilledError):
            cloud.run(
                "deploy", f"--data_dir={data_dir}", "--yes", "--num_instances=2", "--name=two"
            )
    assert [one["InstanceId"] for one in cloud.instances()] == [started[0].id]
    deployed("--num_instances=2", "--name=two")
    assert sorted(_tag(one, "worker") for one in cloud.instances()) == ["0", "1"]
    assert started[0].id in {one["InstanceId"] for one in cloud.instances()}


def test_all_are_shown_and_all_are_ended(cloud, deployed):
    name = deployed("--num_instances=2")
    ids = [one["InstanceId"] for one in cloud.instances()]
    shown = cloud.run("monitor", name).out
    assert "2 x c5.24xlarge" in shown
    assert all(one in shown for one in ids)
    assert all(one in cloud.run("list").out for one in ids)
    ended = cloud.run("stop", name, "--delete", "--yes")
    assert ended.status == 0
    assert cloud.instances() == []
    assert cloud.left_over() == []


def test_what_is_left_without_its_first_instance_is_not_called_fine(cloud, deployed):
    name = deployed("--num_instances=2")
    (first,) = [one for one in cloud.instances() if _tag(one, "worker") == "0"]
    cloud.client("ec2").terminate_instances(InstanceIds=[first["InstanceId"]])
    shown = cloud.run("monitor", name).out
    assert f"{name}  lost" in shown
    assert f"worker 0 is gone without a last word; stop {name}, then `resume {name}`" in shown
    assert cloud.run("resume", name, "--yes").err.startswith(f"{name} has its instance")


# What an instance does.


def test_the_first_waits_for_the_other_and_tells_the_training_of_it(instance, recorders):
    instance.deploy("--epochs=4", flags=["--num_instances=2"])
    run = instance.cloud.load(instance.name)
    seen = []

    def meanwhile():
        wait_until(lambda: instance.status.get("state") == runs.WAITING, "it waits")
        wait_until(lambda: instance.folder.find(run.address_of(0)), "its address")
        seen.append("TF_CONFIG" in instance.log)
        instance.folder.put(run.address_of(1), OTHER.encode())

    assert instance.run(meanwhile) == 0
    assert seen == [False]
    config = json.loads(re.search("^TF_CONFIG (.*)$", instance.log, re.M)[1])
    assert config["cluster"] == {"worker": [f"{ADDRESS}:2222", OTHER]}
    assert config["task"] == {"type": "worker", "index": 0}
    assert instance.status["state"] == "finished"
    assert recorders.calls == ["shutdown -h now"]


def test_another_that_never_comes_is_not_waited_for_until_the_time_limit(
    instance, recorders, monkeypatch
):
    monkeypatch.setattr(agent, "_PEERS_S", 0.6)
    instance.deploy(flags=["--num_instances=3", "--instance_type=c5.large"])
    run = instance.cloud.load(instance.name)
    instance.folder.put(run.address_of(1), OTHER.encode())
    assert instance.run() == 0
    assert recorders.calls == ["shutdown -h now"]
    assert (instance.status["state"], instance.status["exit_status"]) == ("failed", 1)
    assert instance.status["message"] == "worker 2 did not come within 0.01 minutes"


def test_when_another_is_taken_away_the_first_trains_on(instance):
    instance.deploy("--epochs=4", "--others_stop", flags=["--num_instances=2"])
    run = instance.cloud.load(instance.name)
    instance.folder.put(run.address_of(1), OTHER.encode())
    assert instance.run() == 0
    assert "stopped by another" in instance.log
    assert "train.py stopped with the others" in instance.log
    assert "from epoch 1\n" in instance.log
    assert instance.status["state"] == "finished"


@pytest.fixture
def worker(instance, monkeypatch):
    """The second of two instances, the first one's address known."""

    def deploy_one(*train_args):
        instance.deploy(*train_args, flags=["--num_instances=2"])
        run = instance.cloud.load(instance.name)
        instance.folder.put(run.address_of(0), OTHER.encode())
        monkeypatch.setenv("WORKER", "1")
        return run

    return deploy_one


def test_the_other_ends_when_the_first_has(instance, worker, recorders):
    run = worker()
    # What an earlier attempt came to is not this one's end.
    before = {"state": "stopped", "attempt": 0}
    instance.folder.put(runs.STATUS, json.dumps(before).encode())

    def meanwhile():
        # Its training ends and begins again until the first says that all is done.
        wait_until(lambda: instance.log.count("a worker's training") >= 2, "two trainings")
        ended = {"state": "finished", "attempt": 1}
        instance.folder.put(runs.STATUS, json.dumps(ended).encode())

    assert instance.run(meanwhile) == 0
    assert recorders.calls == ["shutdown -h now"]
    assert json.loads(instance.folder.read(runs.STATUS))["state"] == "finished"
    assert runs.read_json(instance.folder, runs.status_of(1))["state"] == "finished"
    assert b"a worker's training" in instance.folder.read(run.log_of(1))
    assert instance.folder.find(run.log_of(0)) is None
    assert not instance.folder.folder("model").objects()


def test_a_failure_of_the_other_stops_all_and_says_whose_it_was(instance, worker, recorders):
    run = worker("--fail_at=0")
    assert instance.run() == 0
    assert recorders.calls == ["shutdown -h now"]
    why = instance.folder.read(runs.STOP).decode()
    assert why == f"worker 1: train.py ended with status 1; {run.log_of(1)} says why"
    assert b"worker 1: the loss is nan" in instance.folder.read(run.log_of(1))


def test_why_all_are_stopped_is_in_the_runs_status(instance):
    instance.deploy("--epochs=1000", flags=["--num_instances=2"])
    run = instance.cloud.load(instance.name)
    instance.folder.put(run.address_of(1), OTHER.encode())

    def meanwhile():
        wait_until(lambda: "epoch 2" in instance.log, "two epochs")
        instance.folder.put(runs.STOP, b"worker 1: it is out of memory")

    instance.run(meanwhile)
    assert instance.status["state"] == "stopped"
    assert instance.status["message"].startswith("worker 1: it is out of memory; saved; `resume`")
