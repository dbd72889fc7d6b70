"""The account that is called upon: clients, the bucket, and a run's stack."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import botocore.exceptions

from launch.files import RETRIES, Folder

PREFIX = "emotion-tfdata-"
# In a run's folder: the name, below data/, of the data set that was uploaded for it.
UPLOADED = "uploaded-data.txt"
_POLL_S = 5.0


class LaunchError(RuntimeError):
    """Something the caller must know or decide; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Aws:
    """An account in a region, and the folder of S3 (`root`) that runs are kept in."""

    account: str
    region: str
    root: Folder
    session: Any
    _clients: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def client(self, service: str) -> Any:
        """The service's client, made once."""
        if service not in self._clients:
            self._clients[service] = self.session.client(service, config=RETRIES)
        return self._clients[service]

    def run_folder(self, name: str) -> Folder:
        """A run's folder."""
        return self.root.folder(f"runs/{name}")


@dataclasses.dataclass(frozen=True)
class Stack:
    """A run's stack as CloudFormation describes it.

    Attributes:
      id: its ARN, which outlives it.
      name: `emotion-tfdata-` and the run's name, of the Auto Scaling group too.
      status, reason: CloudFormation's words.
      parameters, tags: as they were given.
    """

    id: str
    name: str
    status: str
    reason: str
    parameters: dict[str, str]
    tags: dict[str, str]

    @property
    def run(self) -> str:
        """The run's name."""
        return self.name.removeprefix(PREFIX)

    @property
    def is_changing(self) -> bool:
        """Whether AWS is at work on it."""
        return self.status.endswith("_IN_PROGRESS")

    @property
    def is_started(self) -> bool:
        """Whether it was asked to have a machine."""
        return self.parameters.get("Machines") == "1"


def connect(prefix: str = "") -> Aws:
    """Finds region and credentials in AWS's usual places and asks AWS who they belong to.

    Args:
      prefix: `s3://BUCKET/PREFIX` that runs are kept in; empty for a bucket of their own.

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
    client = session.client("s3", config=RETRIES)
    name = bucket or f"{PREFIX}{account}-{region}"
    return Aws(account, region, Folder(client, name, rest.strip("/"), account), session)


def bucket_key(aws: Aws) -> str | None:
    """The KMS key of the bucket, empty for S3's own; None where the bucket is missing.

    Raises:
      LaunchError: if no run can be kept in the bucket.
    """
    bucket, own = aws.root.bucket, {"ExpectedBucketOwner": aws.account}
    try:
        found = aws.root.client.head_bucket(Bucket=bucket, **own)
    except botocore.exceptions.ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404 and bucket.startswith(PREFIX):
            return None
        reason = {
            301: "is in another region",
            403: "is not this account's, or not open to it",
            404: "does not exist",
        }.get(status)
        if not reason:
            raise
        raise LaunchError(f"bucket {bucket} {reason}; name another: --prefix=s3://...") from error
    region = found.get("BucketRegion") or aws.region
    if region != aws.region:
        raise LaunchError(
            f"bucket {bucket} is in {region}, the machine would be in {aws.region}, and every "
            f"file would be paid for: name a bucket there, or export AWS_REGION={region}"
        )
    try:
        answer = aws.root.client.get_bucket_encryption(Bucket=bucket, **own)
    except botocore.exceptions.ClientError as error:
        if "EncryptionConfigurationNotFound" in error.response["Error"]["Code"]:
            return ""
        raise
    rule = answer["ServerSideEncryptionConfiguration"]["Rules"][0]
    key = rule.get("ApplyServerSideEncryptionByDefault", {}).get("KMSMasterKeyID", "")
    if key and not key.startswith("arn:"):
        raise LaunchError(
            f"bucket {bucket} is encrypted by the key {key!r}, which its default encryption must "
            "name by its ARN, so that the machine can be allowed to use it"
        )
    return str(key)


def make_bucket(aws: Aws) -> None:
    """Makes the bucket: private and encrypted, as S3 makes every one by itself."""
    where = {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    with contextlib.suppress(aws.root.client.exceptions.BucketAlreadyOwnedByYou):
        aws.root.client.create_bucket(
            Bucket=aws.root.bucket, **({} if aws.region == "us-east-1" else where)
        )


def find_stack(aws: Aws, run: str) -> Stack | None:
    """A run's stack, or None."""
    with _unless_missing():
        return next(_stacks(aws, StackName=PREFIX + run), None)
    return None


def stacks(aws: Aws) -> list[Stack]:
    """All runs' stacks."""
    return [one for one in _stacks(aws) if one.name.startswith(PREFIX)]


def _stacks(aws: Aws, **which: str) -> Iterator[Stack]:
    pages = aws.client("cloudformation").get_paginator("describe_stacks").paginate(**which)
    for one in pages.search("Stacks[]"):
        given = {p["ParameterKey"]: p.get("ParameterValue", "") for p in one.get("Parameters", [])}
        tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
        reason = one.get("StackStatusReason", "")
        yield Stack(one["StackId"], one["StackName"], one["StackStatus"], reason, given, tags)


def newest_event(aws: Aws, stack_id: str) -> str:
    """The last thing that happened to a stack, to wait for what comes after it."""
    answer = aws.client("cloudformation").describe_stack_events(StackName=stack_id)
    return next((str(event["EventId"]) for event in answer["StackEvents"]), "")


def wait(aws: Aws, stack_id: str, after: str, say: Callable[[str], None]) -> Stack:
    """Waits until AWS is done with a stack, telling what it does.

    Unlike botocore's waiters it tells what happens meanwhile, since finding a machine may take
    longer than anybody watches a silent command.

    Args:
      aws: where.
      stack_id: of the stack; its ARN, for it may be gone at the end.
      after: the last event before the change; empty for all.
      say: told each resource that is done, and what Auto Scaling says where a machine fails.

    Raises:
      LaunchError: if the change failed; it says what AWS gave as the first reason.
    """
    told: set[str] = set()
    while True:
        # Looked up before its events: when it is done, they are whole.
        stack = next(_stacks(aws, StackName=stack_id))
        first = why = ""
        events = _events(aws, stack_id, after)
        for event in events:
            status, what = event.get("ResourceStatus", ""), event["LogicalResourceId"]
            reason = event.get("ResourceStatusReason", "")
            if status.endswith("_FAILED") and "cancelled" not in reason:
                first = first or f"{what}: {reason}"
            if status.endswith(("_COMPLETE", "_FAILED")) and event["EventId"] not in told:
                told.add(event["EventId"])
                say(f"  {what} {status.lower()} {reason}".rstrip())
        if events:
            since_s = events[0]["Timestamp"].timestamp()
            why = next(iter(failures(activities(aws, stack.name), since_s)), "")
        if why and why not in told:
            told.add(why)
            say(f"  no machine yet: {why}")
        if not stack.is_changing:
            break
        time.sleep(_POLL_S)
    failed = stack.status == "DELETE_COMPLETE" and first
    if "ROLLBACK" in stack.status or "FAILED" in stack.status or failed:
        reason = "; ".join(part for part in (first or stack.reason, why) if part)
        raise LaunchError(f"AWS rolled it back ({stack.status}): {reason}")
    return stack


def _events(aws: Aws, stack_id: str, after: str) -> list[dict[str, Any]]:
    """Those after an event, oldest first."""
    found: list[dict[str, Any]] = []
    pages = aws.client("cloudformation").get_paginator("describe_stack_events")
    for event in pages.paginate(StackName=stack_id).search("StackEvents[]"):
        if event["EventId"] == after:
            break
        found.append(event)
    return found[::-1]


def activities(aws: Aws, group: str) -> list[dict[str, Any]]:
    """What Auto Scaling did for a group, newest first; empty where there is none."""
    answer: dict[str, Any] = {}
    with _unless_missing():
        answer = aws.client("autoscaling").describe_scaling_activities(
            AutoScalingGroupName=group, MaxRecords=20
        )
    return list(answer.get("Activities", []))


def failures(activities: list[dict[str, Any]], since_s: float = 0.0) -> list[str]:
    """Why machines could not be started, newest first, in Auto Scaling's words."""
    return [
        one.get("StatusMessage", "")
        for one in activities
        if one.get("StatusCode") in ("Failed", "Cancelled")
        and (not since_s or one["StartTime"].timestamp() >= since_s)
    ]


def group(aws: Aws, name: str) -> dict[str, Any]:
    """A stack's Auto Scaling group; empty where there is none."""
    answer = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return next(iter(answer["AutoScalingGroups"]), {})


def end_machine(aws: Aws, name: str) -> None:
    """Has a group end its machine and start no other; one that is not there is no error."""
    with _unless_missing():
        aws.client("autoscaling").set_desired_capacity(
            AutoScalingGroupName=name, DesiredCapacity=0, HonorCooldown=False
        )


@contextlib.contextmanager
def _unless_missing() -> Iterator[None]:
    """Ignores AWS's word for a stack or a group that is not there."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        # ValidationError is also AWS's word for other things, so look at what it says.
        if not any(s in error.response["Error"]["Message"] for s in ("not found", "not exist")):
            raise
