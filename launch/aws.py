"""Talk to the caller's AWS account: clients, the bucket, and a run's stack."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.exceptions

from launch.files import RETRIES, Folder, s3_client

PREFIX = "emotion-tfdata-"
POLL_S = 5.0


class LaunchError(RuntimeError):
    """Something the caller must know or decide; the message says what to do."""


def say(text: str) -> None:
    """Print a message on standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Aws:
    """An account in a region, and the S3 folder (`root`) that holds its runs."""

    account: str
    region: str
    root: Folder
    session: Any
    _clients: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def client(self, service: str) -> Any:
        """Return the client of a service, made at first use."""
        if service not in self._clients:
            self._clients[service] = self.session.client(service, config=RETRIES)
        return self._clients[service]

    def run_folder(self, name: str) -> Folder:
        """Return the S3 folder of a run."""
        return self.root.folder(f"runs/{name}")


@dataclasses.dataclass(frozen=True)
class Stack:
    """A run's stack as CloudFormation describes it."""

    id: str  # its ARN, which outlives it
    name: str  # with PREFIX; the Auto Scaling group's too
    status: str
    parameters: dict[str, str]

    @property
    def run(self) -> str:
        """Return the run's name."""
        return self.name.removeprefix(PREFIX)

    @property
    def is_changing(self) -> bool:
        """Return whether CloudFormation is creating, updating or deleting it."""
        return self.status.endswith("_IN_PROGRESS")

    @property
    def is_started(self) -> bool:
        """Return whether it was asked to have a machine."""
        return self.parameters.get("Machines") == "1"


def connect(prefix: str = "") -> Aws:
    """Find region and credentials in AWS's usual places, and ask AWS for the account.

    Args:
      prefix: `s3://BUCKET/PREFIX` for all runs; empty for a bucket of their own.

    Raises:
      LaunchError: if no region is set.
      botocore.exceptions.NoCredentialsError, ClientError: if credentials are missing or refused.
    """
    # AWS's own command line goes by AWS_REGION first; boto3 does not read it.
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
    region = session.region_name
    if not region:
        raise LaunchError(
            "no AWS region is set: export AWS_REGION=us-east-1, or aws configure set region ..."
        )
    account = session.client("sts", config=RETRIES).get_caller_identity()["Account"]
    bucket, _, rest = prefix.removeprefix("s3://").partition("/")
    bucket = bucket or f"{PREFIX}{account}-{region}"
    root = Folder(s3_client(session, bucket, account), bucket, rest.strip("/"))
    return Aws(account, region, root, session)


def has_bucket(aws: Aws) -> bool:
    """Return whether the bucket exists; if not, it can be made.

    Raises:
      LaunchError: if it cannot be used.
    """
    bucket = aws.root.bucket
    try:
        region = aws.root.client.head_bucket(Bucket=bucket).get("BucketRegion", aws.region)
    except botocore.exceptions.ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404 and bucket.startswith(PREFIX):
            return False
        if status not in (403, 404):
            raise
        raise LaunchError(
            f"bucket {bucket} does not exist, or is not this account's or not open to it "
            f"({status}); name another: --prefix=s3://..."
        ) from error
    if region != aws.region:
        raise LaunchError(f"bucket {bucket} is in another region: export AWS_REGION={region}")
    return True


def make_bucket(aws: Aws) -> None:
    """Create the bucket; S3 makes every new one private and encrypted."""
    where = {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    with contextlib.suppress(aws.root.client.exceptions.BucketAlreadyOwnedByYou):
        aws.root.client.create_bucket(
            Bucket=aws.root.bucket, **({} if aws.region == "us-east-1" else where)
        )


def find_stack(aws: Aws, run: str) -> Stack | None:
    """Return a run's stack, or None if there is none."""
    with _unless_missing():
        return next(_stacks(aws, StackName=PREFIX + run), None)
    return None


def stacks(aws: Aws) -> list[Stack]:
    """Return the stacks of all runs."""
    return [one for one in _stacks(aws) if one.name.startswith(PREFIX)]


def _stacks(aws: Aws, **which: str) -> Iterator[Stack]:
    pages = aws.client("cloudformation").get_paginator("describe_stacks").paginate(**which)
    for one in pages.search("Stacks[]"):
        given = {p["ParameterKey"]: p.get("ParameterValue", "") for p in one.get("Parameters", [])}
        yield Stack(one["StackId"], one["StackName"], one["StackStatus"], given)


def wait(aws: Aws, stack_id: str) -> Stack:
    """Wait until AWS has changed a stack, printing its events, which botocore's waiters do not.

    Raises:
      LaunchError: if the change failed; the message has the first reason that AWS gave.
    """
    told: set[str] = set()
    while True:
        # Read before its events: when it is done, they are complete.
        stack = next(_stacks(aws, StackName=stack_id))
        events = _events_of_the_change(aws, stack)
        lines = [_line(one) for one in events if "_IN_PROGRESS" not in one["ResourceStatus"]]
        failed = [line for line in lines if "_FAILED" in line and "cancelled" not in line]
        since_s = events[0]["Timestamp"].timestamp() if events else 0
        why = why_no_machine(aws, stack.name, since_s)
        lines += [f"no machine yet: {why}"] if why else []
        for line in lines:
            if line not in told:
                say(f"  {line}")
        told.update(lines)
        if not stack.is_changing:
            break
        time.sleep(POLL_S)
    is_undone = "ROLLBACK" in stack.status or "FAILED" in stack.status
    if is_undone or (stack.status == "DELETE_COMPLETE" and failed):
        reason = "; ".join(filter(None, [*failed[:1], why]))
        raise LaunchError(f"AWS rolled it back ({stack.status}): {reason}")
    return stack


def _line(event: dict[str, Any]) -> str:
    reason = event.get("ResourceStatusReason")
    what = f"{event['LogicalResourceId']} {event['ResourceStatus']}"
    return f"{what}: {reason}" if reason else what


def _events_of_the_change(aws: Aws, stack: Stack) -> list[dict[str, Any]]:
    """Return the events since the last request to change the stack, oldest first."""
    found: list[dict[str, Any]] = []
    pages = aws.client("cloudformation").get_paginator("describe_stack_events")
    for event in pages.paginate(StackName=stack.id).search("StackEvents[]"):
        found.append(event)
        is_of_all = event["LogicalResourceId"] == stack.name
        if is_of_all and event.get("ResourceStatusReason") == "User Initiated":
            break
    return found[::-1]


def activities(aws: Aws, group: str) -> list[dict[str, Any]]:
    """Return what Auto Scaling did for a group, newest first; empty if there is no group."""
    with _unless_missing():
        client = aws.client("autoscaling")
        return list(client.describe_scaling_activities(AutoScalingGroupName=group)["Activities"])
    return []


def why_no_machine(aws: Aws, group: str, since_s: float = 0.0) -> str:
    """Return Auto Scaling's last reason for not starting a machine; empty if there is none."""
    for one in activities(aws, group):
        is_failed = one["StatusCode"] in ("Failed", "Cancelled")
        if is_failed and one["StartTime"].timestamp() >= since_s:
            return str(one.get("StatusMessage", ""))
    return ""


def group(aws: Aws, name: str) -> dict[str, Any]:
    """Return a stack's Auto Scaling group; empty if there is none."""
    answer = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return next(iter(answer["AutoScalingGroups"]), {})


def end_machine(aws: Aws, stack: Stack) -> None:
    """End a run's machine, which saves as it shuts down, and wait until it is gone."""
    with _unless_missing():
        aws.client("autoscaling").set_desired_capacity(
            AutoScalingGroupName=stack.name, DesiredCapacity=0, HonorCooldown=False
        )
    if stack.status == "UPDATE_IN_PROGRESS":  # setting up, for which CloudFormation would wait
        aws.client("cloudformation").cancel_update_stack(StackName=stack.name)
        with contextlib.suppress(LaunchError):
            wait(aws, stack.id)
    # EC2's own waiter gives up where a machine has only just been started.
    while machines := group(aws, stack.name).get("Instances"):
        say(f"{machines[0]['InstanceId']} saves and ends ...")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _unless_missing() -> Iterator[None]:
    """Ignore AWS's error for a stack or a group that does not exist."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        # ValidationError is also AWS's word for other things, so look at what it says.
        if not any(s in error.response["Error"]["Message"] for s in ("not found", "not exist")):
            raise
