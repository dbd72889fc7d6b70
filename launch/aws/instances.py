"""The run's instances: asking for them, finding them, ending them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import botocore.exceptions

from launch import run as runs
from launch.aws import resources
from launch.aws.machine import Image, Subnet
from launch.aws.session import TAG, Aws, LaunchError

# A new instance profile is known everywhere only after a while.
_PROFILE_WAIT_S = 90
# And a new instance is found by its tags only after a moment.
_KNOWN_WAIT_S = 60
_GONE_WAIT_S = 600
_NO_CAPACITY = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "SpotMaxPriceTooLow",
    "Unsupported",
)
_LIVE = ("pending", "running", "stopping", "stopped")
_OPEN_REQUEST = ("open", "active", "disabled")


@dataclasses.dataclass(frozen=True)
class Instance:
    """An instance of a run.

    Attributes:
      id: its identifier.
      state: EC2's word for it.
      instance_type: its type.
      attempt: which of the run's it is.
      spot_request_id: empty for on-demand.
      worker: which of the attempt's it is.
    """

    id: str
    state: str
    instance_type: str
    attempt: int
    spot_request_id: str
    worker: int


def request(
    run: runs.Run,
    image: Image,
    subnet: Subnet,
    group_id: str,
    profile: str,
    user_data: bytes,
    worker: int,
) -> dict[str, Any]:
    """What RunInstances is asked for.

    The same run, attempt, worker and subnet give the same request, so that its client token keeps
    EC2 from starting a second instance however often it is sent.
    """
    tags = [
        {"Key": TAG, "Value": run.name},
        {"Key": "emotion_tfdata:attempt", "Value": str(run.attempt)},
        {"Key": "emotion_tfdata:worker", "Value": str(worker)},
        {"Key": "Name", "Value": f"emotion_tfdata {run.name}"},
    ]
    tagged = ["instance", "volume", "network-interface"]
    arguments: dict[str, Any] = {
        "ClientToken": client_token(run, subnet, worker),
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": image.id,
        "InstanceType": run.instance_type,
        "SubnetId": subnet.id,
        "SecurityGroupIds": [group_id],
        "IamInstanceProfile": {"Name": profile},
        "UserData": user_data,
        # Ending itself is the instance's own `shutdown`.
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": image.root_device,
                "Ebs": {
                    "Encrypted": True,
                    "VolumeType": "gp3",
                    "VolumeSize": run.volume_gb,
                    "DeleteOnTermination": True,
                },
            }
        ],
    }
    if run.key_name:
        arguments["KeyName"] = run.key_name
    if run.spot:
        tagged.append("spot-instances-request")
        # Interrupted, it is stopped, and started again when there is room; the request and with it
        # every further start end at the run's time limit.
        arguments["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {
                "SpotInstanceType": "persistent",
                "InstanceInterruptionBehavior": "stop",
                "ValidUntil": datetime.datetime.fromtimestamp(run.deadline, datetime.timezone.utc),
            },
        }
    arguments["TagSpecifications"] = [{"ResourceType": kind, "Tags": tags} for kind in tagged]
    return arguments


def client_token(run: runs.Run, subnet: Subnet, worker: int) -> str:
    """The same for the same attempt's same worker in the same subnet."""
    text = f"{run.name}\n{run.attempt}\n{run.started_at}\n{run.source}\n{subnet.id}\n{worker}"
    return hashlib.sha256(text.encode()).hexdigest()


def launch(
    aws: Aws,
    run: runs.Run,
    image: Image,
    subnets: list[Subnet],
    group_id: str,
    user_data: bytes,
    worker: int,
    give_way: Callable[[], None],
) -> Instance:
    """Starts one of the run's instances in the first subnet that has room for it.

    `give_way` is called between two requests for it, and may raise what it likes.

    Raises:
      LaunchError: if none has.
      botocore.exceptions.ClientError: if EC2 refuses it for another reason.
    """
    profile = resources.role_name(aws, run.name)
    full = []
    for subnet in subnets:
        arguments = request(run, image, subnet, group_id, profile, user_data, worker)
        try:
            answer = _run_instances(aws, arguments, give_way)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _NO_CAPACITY:
                raise
            full.append(f"{subnet.zone}: {error.response['Error']['Code']}")
            give_way()
            continue
        return _instance(answer["Instances"][0], run.attempt, worker)
    raise LaunchError(
        f"AWS has no room for {run.instance_type} now ({'; '.join(full)}). Try again later, "
        "another --instance_type, or without --spot."
    )


def _run_instances(aws: Aws, arguments: dict[str, Any], give_way: Callable[[], None]) -> Any:
    give_up = time.monotonic() + _PROFILE_WAIT_S
    while True:
        try:
            return aws.ec2.run_instances(**arguments)
        except botocore.exceptions.ClientError as error:
            about = error.response["Error"]
            unknown = about["Code"] == "InvalidParameterValue" and (
                "iamInstanceProfile" in about["Message"] or "Instance Profile" in about["Message"]
            )
            if not unknown or time.monotonic() > give_up:
                raise
            give_way()
            time.sleep(3)


def find(aws: Aws, name: str) -> list[Instance]:
    """The run's instances that are not terminated, by worker."""
    found = _described(aws, f"tag:{TAG}", [name], _LIVE)
    # A spot request that starts another instance does not tag it.
    requested = {
        entry["InstanceId"] for entry in _spot_requests(aws, name) if entry.get("InstanceId")
    } - {entry["InstanceId"] for entry in found}
    if requested:
        found += _described(aws, "instance-id", sorted(requested), _LIVE)
    return sorted((_instance(entry, 0, 0) for entry in found), key=lambda one: one.worker)


def end(aws: Aws, name: str, *, wait: bool, known: Sequence[Instance] = ()) -> list[str]:
    """Ends the run's spot requests and instances; returns what there was to end.

    Args:
      aws: where.
      name: the run's.
      wait: until EC2 says they are gone, those that an earlier call has ended too.
      known: instances of it that have just been started. EC2 takes a while to find those.
    """
    if known:
        wait_until_found(aws, name, [one.id for one in known])
    live = list({one.id: one for one in [*known, *find(aws, name)]}.values())
    ended = []
    asked = {one.spot_request_id for one in known} - {""}
    requests = sorted(asked | set(open_requests(aws, name)))  # after what is found by them
    if requests:
        # First, or it would start another instance.
        aws.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=requests)
        ended += [f"spot request {one}" for one in requests]
    if live:
        ids = [instance.id for instance in live]
        aws.ec2.terminate_instances(InstanceIds=ids)
        ended += [f"instance {one}" for one in ids]
    ending = _described(aws, f"tag:{TAG}", [name], ("shutting-down",)) if wait else []
    going = sorted({one.id for one in live} | {entry["InstanceId"] for entry in ending})
    if wait and going:
        _wait_until_gone(aws, going)
    return ended


def wait_until_found(aws: Aws, name: str, ids: Sequence[str]) -> None:
    """Waits until EC2 finds the run's instances with these identifiers, but not for ever."""
    give_up = time.monotonic() + _KNOWN_WAIT_S
    while not set(ids) <= {one.id for one in find(aws, name)} and time.monotonic() < give_up:
        time.sleep(2)


def _wait_until_gone(aws: Aws, ids: list[str]) -> None:
    # boto3's own waiter fails where one of them is still said to be `pending` or `stopping`.
    give_up = time.monotonic() + _GONE_WAIT_S
    while True:
        pages = aws.ec2.get_paginator("describe_instances").paginate(InstanceIds=ids)
        found = [e for page in pages for r in page["Reservations"] for e in r["Instances"]]
        left = {e["InstanceId"]: e["State"]["Name"] for e in found}
        left = {one: state for one, state in left.items() if state != "terminated"}
        if not left:
            return
        if time.monotonic() > give_up:
            states = ", ".join(f"{one} is {state}" for one, state in left.items())
            raise LaunchError(f"EC2 was asked to end them, and still says: {states}")
        time.sleep(5)


def open_requests(aws: Aws, name: str) -> dict[str, str]:
    """States of the run's spot requests that may start an instance or have one, by identifier."""
    return {one["SpotInstanceRequestId"]: one["State"] for one in _spot_requests(aws, name)}


def _described(
    aws: Aws, what: str, values: list[str], states: tuple[str, ...]
) -> list[dict[str, Any]]:
    """EC2's descriptions of the instances with one of these values, in one of these states."""
    pages = aws.ec2.get_paginator("describe_instances").paginate(
        Filters=[
            {"Name": what, "Values": values},
            {"Name": "instance-state-name", "Values": list(states)},
        ]
    )
    return [e for page in pages for r in page["Reservations"] for e in r["Instances"]]


def _spot_requests(aws: Aws, name: str) -> list[dict[str, Any]]:
    return [
        entry
        for page in aws.ec2.get_paginator("describe_spot_instance_requests").paginate(
            Filters=[{"Name": f"tag:{TAG}", "Values": [name]}]
        )
        for entry in page["SpotInstanceRequests"]
        if entry["State"] in _OPEN_REQUEST
    ]


def _instance(entry: dict[str, Any], attempt: int, worker: int) -> Instance:
    tags = {tag["Key"]: tag["Value"] for tag in entry.get("Tags", [])}
    return Instance(
        entry["InstanceId"],
        entry["State"]["Name"],
        entry["InstanceType"],
        int(tags.get("emotion_tfdata:attempt", attempt)),
        entry.get("SpotInstanceRequestId", ""),
        int(tags.get("emotion_tfdata:worker", worker)),
    )
