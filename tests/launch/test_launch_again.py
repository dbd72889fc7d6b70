"""The same call again, and calls broken off at every step: nothing twice, nothing left behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import sys
import time

import botocore.httpsession
import pytest
from fake_aws import ACCOUNT, DROP, LOSE, REGION, Answer, quota, write_data
from whole_run import unpacked

from launch import ec2
from launch import run as runs
from launch.aws import deploy, instances, plan, stop
from launch.aws.interruption import Held
from launch.aws.session import connect

BUCKET = f"emotion-tfdata-{ACCOUNT}-{REGION}"


def test_the_same_call_again_starts_nothing_twice(cloud, deployed):
    cloud.proxy.rules.insert(0, quota(96))
    assert deployed() == deployed()
    assert len(cloud.instances()) == 1
    assert len(cloud.proxy.of("ec2", "RunInstances")) == 1


def test_another_run_under_the_same_name_is_refused(cloud, deployed, data_dir):
    deployed("--name=mine")
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=mine", "--spot")
    assert result.status == 1
    assert "there is a run mine of other settings (spot: there False, asked for True" in result.err


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "there already"])
def test_a_run_that_s3_did_not_take_is_not_started(cloud, project, data_dir, is_there):
    """Only a record that is there already may be taken up; another failure is none of that."""
    deploy = ("deploy", f"--data_dir={data_dir}", "--yes", "--name=mine")
    if is_there:
        assert cloud.run(*deploy).status == 0
    asked_before = len(cloud.proxy.of("ec2", "RunInstances"))
    damaged = Answer(400, b"<Error><Code>BadDigest</Code></Error>")
    cloud.proxy.rules.append(
        lambda r: damaged if r.action == "PUT" and r.path.endswith("/run.json") else None
    )
    result = cloud.run(*deploy)
    assert result.status == 1
    assert "run.json: changed while it was uploaded, or was damaged on the way" in result.err
    assert len(cloud.proxy.of("ec2", "RunInstances")) == asked_before
    assert len(cloud.instances()) == is_there


def test_a_run_that_never_began_is_replaced(cloud, deployed, project):
    name = deployed("--name=mine")
    cloud.client("ec2").terminate_instances(InstanceIds=[cloud.instances()[0]["InstanceId"]])
    runs.folder(cloud.root, name).delete([runs.LAUNCH])  # as if killed before the instance
    (project / "tcn.flags").write_text("--epochs=9\n")
    before = cloud.load(name)
    deployed("--name=mine")
    assert cloud.load(name).source != before.source
    assert cloud.root.find(runs.source_key(before)) is None, "or nobody would remove it"
    assert cloud.load(name).data == before.data
    assert len(cloud.root.folder(runs.data_key(before)).objects()) == 4
    assert len(cloud.instances()) == 1


def test_a_run_that_has_been_is_not_started_again(cloud, deployed, data_dir):
    name = deployed()
    cloud.run("stop", name)
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes")
    assert result.status == 1
    assert f"`resume {name}` goes on" in result.err
    status = json.dumps({"attempt": 1, "state": "finished", "updated_at": 0}).encode()
    runs.folder(cloud.root, name).put(runs.STATUS, status)
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes")
    assert f"run {name} has been: finished. `fetch {name}` brings its files, --name" in result.err
    assert cloud.instances() == []


def test_uploading_takes_nothing_of_the_time_limit(cloud, deployed, monkeypatch):
    upload, hours = deploy.dataset.upload, []

    def slowly(*arguments):
        upload(*arguments)
        hours.append(2)

    now = time.time
    monkeypatch.setattr(deploy.dataset, "upload", slowly)
    monkeypatch.setattr(deploy.time, "time", lambda: now() + 3600 * sum(hours))
    name = deployed("--max_hours=1")
    run = cloud.load(name)
    assert run.deadline == pytest.approx(now() + 3 * 3600, abs=60)
    (request,) = cloud.proxy.of("ec2", "RunInstances")
    assert f"DEADLINE={run.deadline}\n" in unpacked(request.form["UserData"])


@pytest.mark.parametrize("stopped", [True, False])
def test_an_earlier_attempts_spot_request_is_ended_before_the_next_starts(cloud, deployed, stopped):
    """Or two instances would train into one folder."""
    name = deployed("--spot", "--price=1")
    requested = cloud.make_spot_request(name)
    cloud.client("ec2").terminate_instances(InstanceIds=[cloud.instances()[0]["InstanceId"]])
    if stopped:
        runs.folder(cloud.root, name).put(runs.STOP, b"")
    listed = cloud.run("list").out
    assert ("stopped" if stopped else "lost") in listed
    assert f"spot request {requested}" in listed
    assert cloud.run("resume", name, "--price=1", "--dry_run").status == 0
    assert cloud.spot_requests() == [requested], "nothing is done yet"
    cloud.proxy.requests.clear()
    resumed = cloud.run("resume", name, "--price=1", "--yes")
    assert resumed.status == 0, resumed.err
    assert f"spot request {requested} of an earlier attempt ended\n" in resumed.err
    assert cloud.spot_requests() == []
    actions = [request.action for request in cloud.proxy.requests]
    assert actions.index("CancelSpotInstanceRequests") < actions.index("RunInstances")
    assert len(cloud.instances()) == 1


@pytest.mark.parametrize(
    "flag",
    [
        *("--num_instances=3", "--ssh_cidr=203.0.113.7/32", "--key_name=mine", "--name=other"),
        *("--os=amazon", "--image_id=ami-1", "--subnet_id=subnet-1", "--data_dir=/else"),
        "--flagfile=other.flags",
    ],
)
def test_what_resume_cannot_change_is_refused(cloud, deployed, flag):
    name = deployed()
    cloud.run("stop", name)
    refused = cloud.run("resume", name, flag, "--yes")
    assert refused.status == 1
    assert f"cannot change {flag.partition('=')[0]}; it takes --instance_type" in refused.err
    assert cloud.load(name).attempt == 1
    assert cloud.instances() == []


def test_a_lost_answer_starts_nothing_twice(cloud, deployed):
    def lose_once(request):
        if request.action == "RunInstances" and len(cloud.proxy.of("ec2", "RunInstances")) == 1:
            return LOSE
        return None

    cloud.proxy.rules.append(lose_once)
    deployed()
    first, second = cloud.proxy.of("ec2", "RunInstances")
    # EC2 answers the second with the first's instance; moto does not know of tokens.
    assert first.form["ClientToken"] == second.form["ClientToken"]
    assert first.form == second.form


def test_another_zone_is_tried_where_there_is_no_room(cloud, deployed):
    full = Answer(
        500,
        b"<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>full</Message>"
        b"</Error></Errors></Response>",
    )
    subnets = []

    def first_is_full(request):
        if request.action != "RunInstances":
            return None
        subnets.append(request.form["SubnetId"])
        return full if len(set(subnets)) == 1 else None

    cloud.proxy.rules.append(first_is_full)
    deployed()
    assert len(set(subnets)) == 2
    assert len({r.form["ClientToken"] for r in cloud.proxy.of("ec2", "RunInstances")}) == 2


def test_no_room_anywhere_leaves_nothing_but_files(cloud, project, data_dir):
    full = b"<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>full"
    full += b"</Message></Error></Errors></Response>"
    rule = lambda r: Answer(400, full) if r.action == "RunInstances" else None  # noqa: E731
    cloud.proxy.rules.append(rule)
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=unlucky")
    assert result.status == 1
    assert "AWS has no room for c5.24xlarge now" in result.err
    assert "role emotion-tfdata-unlucky-us-east-1 removed" in result.err
    assert "to remove them too: stop unlucky --delete" in result.err
    assert cloud.left_over() == [BUCKET]
    cloud.proxy.rules.remove(rule)
    again = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=unlucky")
    assert again.status == 0, again.err
    assert len(cloud.instances()) == 1


def test_a_profile_that_is_not_known_yet_is_waited_for(cloud, deployed, monkeypatch):
    monkeypatch.setattr(instances.time, "sleep", lambda s: None)
    unknown = b"<Response><Errors><Error><Code>InvalidParameterValue</Code><Message>Value for "
    unknown += b"parameter iamInstanceProfile.name is invalid</Message></Error></Errors></Response>"

    def at_first(request):
        if request.action != "RunInstances":
            return None
        return Answer(400, unknown) if len(cloud.proxy.of("ec2", "RunInstances")) < 4 else None

    cloud.proxy.rules.append(at_first)
    deployed()
    assert len(cloud.instances()) == 1


def test_aws_that_stutters_is_asked_again(cloud, deployed):
    seen: dict[tuple[object, ...], int] = {}

    def every_first_fails(request):
        key = (request.service, request.action, request.path, request.body)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1 or request.action in ("CreateSecurityGroup", "CreateRole"):
            return None
        return DROP if len(seen) % 2 else Answer(503, b"<Error><Code>x</Code></Error>")

    cloud.proxy.rules.insert(0, every_first_fails)
    deployed()
    assert len(cloud.instances()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_deployment_that_is_told_to_end_removes_what_it_made(cloud, project, data_dir, number):
    def tell(request):
        if request.action == "RunInstances":
            os.kill(os.getpid(), number)

    cloud.proxy.rules.append(tell)
    before = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored, and then it stays so
    try:
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=told")
    finally:
        signal.signal(number, before)
    assert result.status == 130
    assert cloud.left_over() == [BUCKET]
    assert "Should that be broken off too, this removes the rest: stop told --delete" in result.err
    assert result.err.endswith("stop told --delete\nlaunch.ec2: interrupted\n")


def test_an_instance_that_ec2_still_calls_pending_is_waited_for(cloud, deployed, monkeypatch):
    """As EC2 may of one that was ended seconds after its start."""
    monkeypatch.setattr(instances.time, "sleep", lambda s: None)
    name = deployed()
    asked = []

    def lags(request):
        if request.action != "DescribeInstances" or "InstanceId.1" not in request.form:
            return None
        asked.append(request)
        if len(asked) > 2:
            return None
        answer = cloud.proxy.forward(request)
        state = answer.body.replace(b"<name>terminated<", b"<name>pending<")
        assert state != answer.body
        return dataclasses.replace(answer, body=state)

    cloud.proxy.rules.append(lags)
    result = cloud.run("stop", name, "--delete", "--yes")
    assert result.status == 0, result.err
    assert len(asked) == 3
    assert cloud.left_over() == []


class Gone:
    def write(self, text):
        raise BrokenPipeError


def test_where_nobody_is_told_any_more_it_is_removed_all_the_same(cloud, project, data_dir):
    def tell(request):
        if request.action == "RunInstances":
            sys.stderr = Gone()
            os.kill(os.getpid(), signal.SIGTERM)

    cloud.proxy.rules.append(tell)
    stderr, before = sys.stderr, signal.getsignal(signal.SIGTERM)
    try:
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=told")
    finally:
        sys.stderr = stderr
        signal.signal(signal.SIGTERM, before)
    assert result.status == 130
    assert cloud.left_over() == [BUCKET]


def test_a_signal_waits_for_what_has_begun_and_only_a_persons_second_one_does_not():
    before = signal.signal(signal.SIGTERM, ec2._interrupt)
    # It is ignored where the tests run in a shell's background.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    said, done = [], []

    def get(*numbers, and_give_way=False):
        with Held(said.append) as held:
            held.give_way()
            for number in numbers:
                os.kill(os.getpid(), number)
                done.append(number)
            if and_give_way:
                held.give_way()
            done.append("the rest")

    try:
        get()
        assert done == ["the rest"]
        for numbers, and_give_way, expected in (
            ([signal.SIGTERM], False, [signal.SIGTERM, "the rest"]),
            ([signal.SIGTERM], True, [signal.SIGTERM]),
            # As of a terminal that closes, and then of a person.
            ([signal.SIGTERM, signal.SIGTERM], False, [signal.SIGTERM] * 2 + ["the rest"]),
            ([signal.SIGTERM, signal.SIGINT], False, [signal.SIGTERM]),
        ):
            said.clear()
            done.clear()
            with pytest.raises(KeyboardInterrupt):
                get(*numbers, and_give_way=and_give_way)
            assert done == expected
            assert said == [
                "interrupted: ends when EC2 has answered, to remove what it has started"
            ]
        assert signal.getsignal(signal.SIGTERM) is ec2._interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, before_int)


class Broken(BaseException):
    """The process is gone."""


class Break:
    """Lets a number of changes through, and then ends the process, or as good as."""

    def __init__(self, monkeypatch, error):
        self.left, self.changes = 10**6, 0
        honest = botocore.httpsession.URLLib3Session.send

        def send(session, request):
            answer = honest(session, request)
            if self._is_change(request):
                self.changes += 1
                self.left -= 1
                if self.left == 0:
                    raise error
            return answer

        monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", send)

    @staticmethod
    def _is_change(request):
        body = request.body.encode() if isinstance(request.body, str) else request.body
        body = body if isinstance(body, bytes) else b""
        reading = (b"Action=Describe", b"Action=Get", b"Action=List")
        return request.method not in ("GET", "HEAD") and not any(w in body for w in reading)


@pytest.fixture
def planned(cloud, project, tmp_path):
    """A plan as the command makes it, and what executes it."""
    aws, data_dir = connect(), write_data(tmp_path / "one", seed=1, shards=1)
    made = plan.new(
        aws,
        cloud.root,
        project,
        flagfile="tcn.flags",
        train_args=(),
        data_dir=str(data_dir),
        name="broken",
        instance_type="c5.24xlarge",
        system="ubuntu",
        image_id="",
        spot=False,
        max_hours=1.0,
        price=None,
        subnet_id="",
        ssh_cidr="",
        key_name="",
    )
    said: list[str] = []
    return aws, said, lambda: deploy.execute(aws, made, project, said.append)


def _steps(cloud, planned, monkeypatch):
    """How many changes a deployment makes."""
    aws, _, execute = planned
    with monkeypatch.context() as patch:
        counter = Break(patch, Broken())
        execute()
    stop.end(aws, cloud.root, "broken", lambda text: None, wait=True)
    stop.delete(aws, cloud.root, "broken", lambda text: None)
    assert cloud.left_over() == []
    return counter.changes


def test_killed_at_each_step_it_is_gone_on_with_or_removed(cloud, planned, monkeypatch):
    aws, _, execute = planned
    steps = _steps(cloud, planned, monkeypatch)
    assert steps >= 16
    for step in range(1, steps + 1):
        with monkeypatch.context() as patch:
            patch.setattr(deploy, "_undo", lambda *arguments: None)  # as of a killed process
            Break(patch, Broken()).left = step
            with pytest.raises(Broken):
                execute()
        if step % 3 == 0 or step >= steps - 1:
            execute()
            assert len(cloud.instances()) == 1, f"after step {step}"
            launched = runs.read_json(runs.folder(cloud.root, "broken"), runs.LAUNCH)
            recorded = [one["instance_id"] for one in launched["instances"]]
            assert recorded == [one["InstanceId"] for one in cloud.instances()]
        stop.end(aws, cloud.root, "broken", lambda text: None, wait=True)
        stop.delete(aws, cloud.root, "broken", lambda text: None)
        assert cloud.left_over() == [], f"after step {step}"


def test_interrupted_at_each_step_it_removes_what_it_made(cloud, planned, monkeypatch):
    aws, said, execute = planned
    steps = 0
    for step in itertools.count(1):
        said.clear()
        with monkeypatch.context() as patch:
            Break(patch, KeyboardInterrupt()).left = step
            try:
                execute()
            except KeyboardInterrupt:
                steps += 1
            else:
                break
        assert cloud.left_over() == [BUCKET], f"after step {step}"
        assert said[-1].endswith("stop broken --delete"), "what is left is named"
    assert steps >= 14, "what an earlier call uploaded is no step of a later one"
    stop.end(aws, cloud.root, "broken", said.append, wait=True)
    stop.delete(aws, cloud.root, "broken", said.append)
    assert cloud.left_over() == []
