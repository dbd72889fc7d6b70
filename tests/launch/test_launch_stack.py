"""The template, the policies and the locked packages, by independent judges; AWS's own failures.

What moto's CloudFormation cannot do (roll back, wait for a condition, cancel) is answered by
botocore's Stubber, which takes only what AWS's interface descriptions allow.
"""

from __future__ import annotations

import datetime
import fnmatch
import importlib.metadata
import json
import re

import boto3
import cfnlint.api
import numpy as np
import pytest
import yaml
from botocore.stub import ANY, Stubber
from cfnlint.core import get_rules
from packaging.markers import default_environment
from packaging.requirements import Requirement
from policy_sentry.querying.actions import get_action_data

from launch import aws, deploy, offers
from launch.files import Folder

LOCKED = re.compile(r"^([a-zA-Z0-9_.-]+)==([^\s;\\]+)", re.M)


@pytest.fixture(scope="module")
def template():
    return deploy.TEMPLATE.read_text()


def test_aws_s_own_schemas_find_nothing_in_the_template(template):
    rules = cfnlint.api.ManualArgs(regions=["us-east-1"])
    assert [str(found) for found in cfnlint.api.lint(template, config=rules)] == []
    assert get_rules([], [], []), "and there are rules"
    wrong = template.replace("HttpTokens: required", "HttpTokens: perhaps")
    assert "'perhaps' is not one of" in str(cfnlint.api.lint(wrong, config=rules)[0])
    assert len(template) < 51200, "CloudFormation's limit"


def _resources(template, **known):
    """The template's resources, as with all parameters given."""
    known |= {
        "AWS::Partition": "aws",
        "AWS::Region": "us-east-1",
        "AWS::AccountId": "123456789012",
        "AWS::StackName": "emotion-tfdata-one",
    }
    loader = type("Loader", (yaml.SafeLoader,), {})

    def construct(loader, suffix, node):
        if isinstance(node, yaml.SequenceNode):
            values = loader.construct_sequence(node, deep=True)
            return values[1] if suffix == "If" else values
        value = loader.construct_scalar(node)
        if suffix == "Ref":
            return known.get(value, value)
        return re.sub(r"\$\{([^}]+)\}", lambda m: known.get(m[1], m[1].lower()), value)

    loader.add_multi_constructor("!", construct)
    return yaml.load(template, loader)["Resources"]


def _policies(template):
    """The caller's policy, and the machine's with all that it may have."""
    topic = "arn:aws:sns:us-east-1:123456789012:one"
    (policy,) = _resources(template, Topic=topic)["Role"]["Properties"]["Policies"]
    caller = json.loads((deploy.TEMPLATE.parent / "policy.json").read_text())
    return {"caller": caller, "machine": policy["PolicyDocument"]}


def test_aws_mails_whenever_a_run_has_no_machine(cloud, deployed, template):
    """By an alarm on its group; moto makes none of a stack, has no such metrics, sends no mail."""
    deployed("--name=one", "--notify=me@example.org")
    (topic,) = cloud.client("sns").list_topics()["Topics"]
    resources = _resources(template, Topic=topic["TopicArn"], Group="emotion-tfdata-one")
    client, given = cloud.client("cloudwatch"), resources["NoMachine"]["Properties"]
    client.put_metric_alarm(AlarmName="one", **given)  # botocore knows every field of it
    (alarm,) = client.describe_alarms()["MetricAlarms"]
    of_topic = {"TopicArn": alarm["AlarmActions"][0]}
    (mailed,) = cloud.client("sns").list_subscriptions_by_topic(**of_topic)["Subscriptions"]
    assert (mailed["Protocol"], mailed["Endpoint"]) == ("email", "me@example.org")

    expression, *metrics = alarm["Metrics"]
    assert [one["ReturnData"] for one in alarm["Metrics"]] == [True, False, False]
    of_group = [{"Name": "AutoScalingGroupName", "Value": "emotion-tfdata-one"}]
    assert all(one["MetricStat"]["Metric"]["Dimensions"] == of_group for one in metrics)
    names = [one["MetricStat"]["Metric"]["MetricName"] for one in metrics]
    (collected,) = resources["Group"]["Properties"]["MetricsCollection"]
    assert names == collected["Metrics"]

    def is_mailed(*series):
        """For pairs of wanted and running machines in successive periods, numpy as CloudWatch."""
        figures = dict(zip([one["Id"] for one in metrics], np.transpose(series), strict=True))
        meaning = {"IF": np.where, "DIFF": lambda x: np.diff(x, prepend=x[0]), **figures}
        values = eval(expression["Expression"].replace(" OR ", " | "), meaning)
        assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
        return (values > alarm["Threshold"]).tolist()

    # As the group really is: made, started, its machine interrupted, and stopped.
    seen = [(0, 0)]

    def look():
        group = cloud.group("one")
        seen.append((group["DesiredCapacity"], len(group["Instances"])))

    look()
    (machine,) = cloud.instances()
    cloud.client("autoscaling").terminate_instance_in_auto_scaling_group(
        InstanceId=machine["InstanceId"], ShouldDecrementDesiredCapacity=False
    )
    look()
    assert cloud.run("stop", "one").status == 0  # sets the capacity, as machine and deadline do
    look()
    assert is_mailed(*seen, (0, 0)) == [False, False, False, True, False], seen
    waiting = is_mailed((0, 1), (1, 1), (1, 0), (1, 0), (1, 1), (1, 1))
    assert waiting == [False, False, True, True, False, False], (
        "a spot machine that is not replaced"
    )


# EC2's identifiers are not known before, and these services know no resources or take part of them.
OVER_ALL = {"Look", "LaunchTemplatesAndFirewalls", "Unsubscribe", "Shell"}


def _faults(policy):
    """Actions that IAM does not know, and those that none of their statement's resources is for."""
    faults = []
    for statement in policy["Statement"]:
        for action in _list(statement["Action"]):
            service, name = action.split(":")
            known = get_action_data(service, name)
            formats = [one["resource_arn_format"] for one in known[service]] if known else []
            resources = _list(statement["Resource"])
            fits = any(
                fnmatch.fnmatchcase(resource, re.sub(r"\$\{[^}]+\}", "*", one))
                for one in formats
                for resource in resources
            )
            if not fits and not (resources == ["*"] and statement["Sid"] in OVER_ALL and known):
                faults.append(action)
    return faults


def _list(value):
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("whose", ["caller", "machine"])
def test_iam_s_list_of_actions_knows_what_the_policies_allow_and_where(template, whose):
    policy = _policies(template)[whose]
    assert _faults(policy) == []
    assert [one["Sid"] for one in policy["Statement"] if one["Resource"] == "*"] == (
        [one for one in ("Look", "LaunchTemplatesAndFirewalls", "Unsubscribe") if whose == "caller"]
        or ["Shell"]
    )
    keys = [one["Condition"] for one in policy["Statement"] if "kms:Decrypt" in one["Action"]]
    through_s3 = {"StringEquals": {"kms:ViaService": "s3.us-east-1.amazonaws.com"}}
    assert keys == ([through_s3] if whose == "machine" else []), "a bucket's key, for its files"
    where = "arn:aws:s3:::bucket/*"
    wrong = {"Sid": "", "Action": ["s3:GetObjects", "s3:ListBucket"], "Resource": [where]}
    assert _faults({"Statement": [wrong]}) == ["s3:GetObjects"], "and it looks"
    wrong = {"Sid": "", "Action": "sns:Publish", "Resource": where}
    assert _faults({"Statement": [wrong]}) == ["sns:Publish"]


def test_the_caller_s_policy_allows_all_that_the_commands_ask_for(
    cloud, deployed, tmp_path, template
):
    deployed("--name=one")
    cloud.say("one", state="running", instance_id="i-1")
    for arguments in (
        *(("monitor", "one"), ("list",), ("stop", "one"), ("resume", "one", "--yes")),
        *(("fetch", "one", f"--out_dir={tmp_path / 'out'}"), ("stop", "one", "--delete", "--yes")),
    ):
        assert cloud.run(*arguments).status == 0
    allowed = set()
    for statement in _policies(template)["caller"]["Statement"]:
        allowed |= set(_list(statement["Action"]))
    s3 = {"GET": "GetObject", "HEAD": "ListBucket", "PUT": "PutObject", "POST": "DeleteObject"}
    for request in cloud.proxy.requests:
        action = f"{request.service}:{request.action}"
        if request.service == "s3":
            action = f"s3:{s3[request.method]}"
        assert action in allowed, action


def test_the_locks_are_what_the_constraints_say_with_hashes(project_dir):
    """And hold all that the extras need on the machine's Python, by the packages' own metadata."""
    constraints = dict(LOCKED.findall((project_dir / "launch" / "constraints.txt").read_text()))
    normal = {_normal(name): version for name, version in constraints.items()}
    for extras in (["train"], ["train", "preprocess"]):
        text = (project_dir / "launch" / f"{extras[-1]}.lock").read_text()
        locked = {_normal(name): version for name, version in LOCKED.findall(text)}
        entries = re.split(r"\n(?=[a-z])", text.strip())
        assert all(re.search("--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
        # setuptools and wheel are in no environment of Python 3.12 by themselves.
        other = {k: v for k, v in locked.items() if normal.get(k, v) != v}
        assert other == {}, "run launch/lock.sh"
        wanted = {_normal(Requirement(one).name) for one in _required("emotion_tfdata", extras)}
        assert wanted | {"boto3"} <= set(locked)
        for name in sorted(set(locked) & set(normal)):
            missing = {_normal(Requirement(one).name) for one in _required(name, [])} - set(locked)
            assert missing == set(), name


def _normal(name):
    return re.sub("[-_.]+", "-", name).lower()


def _required(name, extras):
    """What a package needs on the machine: Linux and Python 3.12."""
    try:
        required = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    machine = {**default_environment(), "python_version": "3.12", "python_full_version": "3.12.3"}
    for one in required:
        marker = Requirement(one).marker
        if marker is None or any(marker.evaluate({**machine, "extra": e}) for e in ["", *extras]):
            yield one


ID = "arn:aws:cloudformation:us-east-1:123456789012:stack/emotion-tfdata-one/1"
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture
def stubs(monkeypatch):
    """An account whose answers are those of the test, in that order."""
    monkeypatch.setattr(aws, "POLL_S", 0.0)
    session = boto3.session.Session("a", "b", region_name="us-east-1")
    names = ("cloudformation", "autoscaling", "ec2", "s3")
    clients = {name: session.client(name) for name in names}
    stubs = {name: Stubber(client) for name, client in clients.items()}
    for stub in stubs.values():
        stub.activate()
    account = aws.Aws("123456789012", "us-east-1", Folder(clients["s3"], "b", ""), None, clients)
    yield account, stubs
    for stub in stubs.values():
        stub.assert_no_pending_responses()


def _stack(status, **parameters):
    given = [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()]
    entry = {"StackId": ID, "StackName": "emotion-tfdata-one", "CreationTime": NOW}
    return {"Stacks": [{**entry, "StackStatus": status, "Parameters": given}]}


def _event(number, what, status, reason=""):
    entry = {"StackId": ID, "EventId": str(number), "StackName": "emotion-tfdata-one"}
    more = {"ResourceStatusReason": reason} if reason else {}
    return {**entry, "LogicalResourceId": what, "Timestamp": NOW, "ResourceStatus": status, **more}


def _activity(status, message):
    entry = {"ActivityId": "1", "AutoScalingGroupName": "emotion-tfdata-one", "Cause": "c"}
    return {**entry, "StartTime": NOW, "StatusCode": status, "StatusMessage": message}


def _looks(stubs, *looks):
    """Each a status, the events so far, and what Auto Scaling says of machines."""
    for status, events, activities in looks:
        stubs["cloudformation"].add_response("describe_stacks", _stack(status))
        stubs["cloudformation"].add_response("describe_stack_events", {"StackEvents": events[::-1]})
        stubs["autoscaling"].add_response("describe_scaling_activities", {"Activities": activities})


def test_a_creation_that_aws_took_back_says_what_failed_first(stubs, capsys):
    account, stub = stubs
    denied = "User: arn:aws:iam::1:user/me is not authorized to perform: iam:CreateRole"
    events = [
        _event(1, "emotion-tfdata-one", "CREATE_IN_PROGRESS", "User Initiated"),
        _event(2, "Role", "CREATE_FAILED", denied),
        _event(3, "Firewall", "CREATE_FAILED", "Resource creation cancelled"),
        _event(4, "emotion-tfdata-one", "DELETE_COMPLETE"),
    ]
    _looks(stub, ("CREATE_IN_PROGRESS", events[:1], []), ("DELETE_COMPLETE", events, []))
    with pytest.raises(aws.LaunchError) as raised:
        aws.wait(account, ID)
    assert (
        str(raised.value) == f"AWS rolled it back (DELETE_COMPLETE): Role CREATE_FAILED: {denied}"
    )
    assert "  Role CREATE_FAILED: " + denied in capsys.readouterr().err


def test_a_machine_that_is_not_set_up_is_taken_back_with_its_reason(stubs):
    account, stub = stubs
    reason = "WaitCondition received failed message: 'setting up failed: fetching the source'"
    events = [
        _event(0, "Role", "CREATE_FAILED", "of an earlier change"),
        _event(1, "emotion-tfdata-one", "UPDATE_IN_PROGRESS", "User Initiated"),
        _event(2, "Start", "CREATE_FAILED", reason),
    ]
    _looks(stub, ("UPDATE_ROLLBACK_COMPLETE", events, []))
    with pytest.raises(aws.LaunchError, match="fetching the source"):
        aws.wait(account, ID)


@pytest.mark.parametrize(
    "message",
    [
        "We currently do not have sufficient c7i.xlarge capacity in the Availability Zone "
        "you requested (InsufficientInstanceCapacity).",
        "UnfulfillableCapacity: Unable to fulfill capacity due to your request configuration.",
        "You have requested more vCPU capacity than your current vCPU limit of 4 allows.",
    ],
)
def test_where_there_is_no_machine_auto_scaling_s_words_are_told_once(stubs, message, capsys):
    account, stub = stubs
    events = [_event(2, "Group", "UPDATE_COMPLETE")]
    failed = [_activity("Failed", message)]
    timed = [*events, _event(3, "Start", "CREATE_FAILED", "WaitCondition timed out.")]
    _looks(
        stub,
        ("UPDATE_IN_PROGRESS", events, failed),
        ("UPDATE_IN_PROGRESS", events, failed * 2),
        ("UPDATE_ROLLBACK_COMPLETE", timed, failed * 3),
    )
    with pytest.raises(aws.LaunchError) as raised:
        aws.wait(account, ID)
    assert capsys.readouterr().err.count(f"  no machine yet: {message}\n") == 1
    assert str(raised.value).endswith(f"Start CREATE_FAILED: WaitCondition timed out.; {message}")


def test_a_deletion_that_fails_is_told(stubs):
    account, stub = stubs
    reason = "resource sg-1 has a dependent object (Service: Ec2, DependencyViolation)"
    _looks(stub, ("DELETE_FAILED", [_event(2, "Firewall", "DELETE_FAILED", reason)], []))
    with pytest.raises(aws.LaunchError, match="DependencyViolation"):
        aws.wait(account, ID)


def test_a_machine_that_is_being_set_up_is_ended_without_waiting_for_it(stubs):
    account, stub = stubs
    stub["autoscaling"].add_response(
        "set_desired_capacity",
        {},
        {"AutoScalingGroupName": "emotion-tfdata-one", "DesiredCapacity": 0, "HonorCooldown": ANY},
    )
    stub["cloudformation"].add_response("cancel_update_stack", {}, {"StackName": ANY})
    events = [_event(1, "emotion-tfdata-one", "UPDATE_ROLLBACK_IN_PROGRESS", "User Initiated")]
    done = [*events, _event(2, "emotion-tfdata-one", "UPDATE_ROLLBACK_COMPLETE")]
    _looks(stub, ("UPDATE_ROLLBACK_COMPLETE", done, []))
    stub["autoscaling"].add_response("describe_auto_scaling_groups", {"AutoScalingGroups": []})
    stack = aws.Stack(ID, "emotion-tfdata-one", "UPDATE_IN_PROGRESS", {})
    aws.end_machine(account, stack)


def test_spot_prices_are_those_of_the_cheapest_zone(stubs):
    account, stub = stubs

    def entry(zone, usd):
        about = {"InstanceType": "c7i.xlarge", "AvailabilityZone": zone, "Timestamp": NOW}
        return {**about, "SpotPrice": usd}

    history = [entry("a", "0.09"), entry("b", "0.08"), entry("c", "0.10")]
    stub["ec2"].add_response("describe_spot_price_history", {"SpotPriceHistory": history})
    assert offers._spot_usd(account, ["c7i.xlarge"]) == {"c7i.xlarge": 0.08}
