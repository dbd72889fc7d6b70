"""What a run needs besides its instances and files: role, security group. Made, found, removed.

Every function can be called again after it was broken off anywhere.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import botocore.exceptions

from launch import run as runs
from launch.aws.session import TAG, Aws, LaunchError
from launch.s3 import Folder

PATH = "/emotion-tfdata/"
_POLICY = "this-run"
# Addresses that --ssh_cidr may open at once.
_MAX_SSH_ADDRESSES_BITS = 16
_WEB = [
    {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    for port in (80, 443)
]


def role_name(aws: Aws, name: str) -> str:
    """Name of a run's role and instance profile. Roles have no region, so the name has."""
    return f"emotion-tfdata-{name}-{aws.region}"


def policy(aws: Aws, run: runs.Run, root: Folder) -> dict[str, Any]:
    """What an instance may do: read its source and data, read and write its run, no more."""
    bucket = f"arn:{aws.partition}:s3:::{root.bucket}"
    mine = f"{bucket}/{root.key(f'runs/{run.name}')}/*"
    own = {"StringEquals": {"aws:ResourceAccount": aws.account}}
    statements: list[dict[str, Any]] = [
        {
            "Sid": "ReadSourceAndData",
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": [
                f"{bucket}/{root.key(runs.source_key(run))}",
                f"{bucket}/{root.key(runs.data_key(run))}/*",
            ],
            "Condition": own,
        },
        {
            "Sid": "ReadAndWriteThisRun",
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": mine,
            "Condition": own,
        },
        {
            "Sid": "ListThisRun",
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            "Condition": {**own, "StringLike": {"s3:prefix": root.key(f"runs/{run.name}/*")}},
        },
    ]
    if run.spot:
        # Or the request would start another instance when this one ends.
        statements.append(
            {
                "Sid": "EndItsOwnSpotRequest",
                "Effect": "Allow",
                "Action": "ec2:CancelSpotInstanceRequests",
                "Resource": (
                    f"arn:{aws.partition}:ec2:{aws.region}:{aws.account}:spot-instances-request/*"
                ),
                "Condition": {"StringEquals": {f"aws:ResourceTag/{TAG}": run.name}},
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def ensure_role(aws: Aws, run: runs.Run, root: Folder) -> None:
    """Makes the run's role and instance profile, or brings them up to date."""
    name = role_name(aws, run.name)
    tags = [{"Key": TAG, "Value": run.name}]
    who = {"Service": "ec2.amazonaws.com"}
    trust = {"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}
    _unless_exists(
        aws.iam.create_role,
        RoleName=name,
        Path=PATH,
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        Description=f"What an instance of the training {run.name} may do",
        Tags=tags,
    )
    aws.iam.put_role_policy(
        RoleName=name,
        PolicyName=_POLICY,
        PolicyDocument=json.dumps(policy(aws, run, root)),
    )
    _unless_exists(aws.iam.create_instance_profile, InstanceProfileName=name, Path=PATH, Tags=tags)
    profile = aws.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        aws.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def delete_role(aws: Aws, name: str) -> list[str]:
    """Removes the run's role and instance profile; returns what was there."""
    role = role_name(aws, name)
    removed = []
    try:
        profile = aws.iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":  # never made, or removed already
            raise
    else:
        for held in profile["Roles"]:
            aws.iam.remove_role_from_instance_profile(
                InstanceProfileName=role, RoleName=held["RoleName"]
            )
    if _if_there(aws.iam.delete_instance_profile, InstanceProfileName=role):
        removed.append(f"instance profile {role}")
    _if_there(aws.iam.delete_role_policy, RoleName=role, PolicyName=_POLICY)
    if _if_there(aws.iam.delete_role, RoleName=role):
        removed.append(f"role {role}")
    return removed


def has_role(aws: Aws, name: str) -> bool:
    """Whether the run has a role."""
    return _if_there(aws.iam.get_role, RoleName=role_name(aws, name))


def runs_with_roles(aws: Aws) -> set[str]:
    """Names of the runs of this region that have a role or an instance profile."""
    start, end = "emotion-tfdata-", f"-{aws.region}"
    iam = aws.iam
    names = [
        role["RoleName"]
        for page in iam.get_paginator("list_roles").paginate(PathPrefix=PATH)
        for role in page["Roles"]
    ] + [
        profile["InstanceProfileName"]
        for page in iam.get_paginator("list_instance_profiles").paginate(PathPrefix=PATH)
        for profile in page["InstanceProfiles"]
    ]
    return {n[len(start) : -len(end)] for n in names if n.startswith(start) and n.endswith(end)}


def check_ssh_cidr(cidr: str) -> None:
    """Refuses address ranges that are none, or open to too many.

    Raises:
      LaunchError: saying which.
    """
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise LaunchError(f"--ssh_cidr={cidr}: {error}") from error
    if network.version != 4 or 32 - network.prefixlen > _MAX_SSH_ADDRESSES_BITS:
        raise LaunchError(
            f"--ssh_cidr={cidr}: give one IPv4 range of your own, from /16 to /32, such as "
            "203.0.113.7/32"
        )


def find_security_groups(aws: Aws, name: str) -> list[dict[str, Any]]:
    """The run's security groups; more than one only if --subnet_id's network was changed."""
    return aws.ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": [f"emotion-tfdata-{name}"]}]
    )["SecurityGroups"]


def ensure_security_group(aws: Aws, run: runs.Run, vpc_id: str) -> str:
    """Makes the run's security group, or brings it up to date: web out, and in what `let_in` says.

    Several instances reach each other on one port, as members of the same group.

    Returns:
      Its identifier.
    """
    found = [g for g in find_security_groups(aws, run.name) if g["VpcId"] == vpc_id]
    if found:
        group_id = found[0]["GroupId"]
    else:
        group_id = aws.ec2.create_security_group(
            GroupName=f"emotion-tfdata-{run.name}",
            # Says nothing of the rules: they can be brought up to date, a description cannot.
            Description=f"All instances of the training {run.name}",
            VpcId=vpc_id,
            TagSpecifications=[
                {"ResourceType": "security-group", "Tags": [{"Key": TAG, "Value": run.name}]}
            ],
        )["GroupId"]
    inward: list[dict[str, Any]] = []
    among: list[dict[str, Any]] = []
    if run.num_instances > 1:
        port = {"IpProtocol": "tcp", "FromPort": runs.WORKER_PORT, "ToPort": runs.WORKER_PORT}
        among = [{**port, "UserIdGroupPairs": [{"GroupId": group_id}]}]
    if run.ssh_cidr:
        ports = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        inward = [{**ports, "IpRanges": [{"CidrIp": run.ssh_cidr}]}]
    group = aws.ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]
    there, wanted = group["IpPermissions"], inward + among
    _change(aws.ec2.revoke_security_group_ingress, group_id, _without(there, wanted))
    _change(aws.ec2.authorize_security_group_ingress, group_id, _without(wanted, there))
    there, wanted = group["IpPermissionsEgress"], _WEB + among
    _change(aws.ec2.revoke_security_group_egress, group_id, _without(there, wanted))
    _change(aws.ec2.authorize_security_group_egress, group_id, _without(wanted, there))
    return group_id


def let_in(run: runs.Run) -> str:
    """Who reaches the run's instances, for a person."""
    among = f"each other on port {runs.WORKER_PORT}" if run.num_instances > 1 else ""
    return ", ".join(part for part in (run.ssh_cidr, among) if part) or "nothing"


def delete_security_groups(aws: Aws, name: str) -> list[str]:
    """Removes the run's security groups; its instances must be gone. Returns what was there."""
    removed = []
    for group in find_security_groups(aws, name):
        aws.ec2.delete_security_group(GroupId=group["GroupId"])
        removed.append(f"security group {group['GroupId']}")
    return removed


def _change(call: Any, group_id: str, rules: list[Any]) -> None:
    if rules:  # EC2 takes no empty list
        call(GroupId=group_id, IpPermissions=rules)


def _without(rules: list[Any], others: list[Any]) -> list[Any]:
    """The rules that are not among the others."""

    def key(rule: dict[str, Any]) -> tuple[Any, ...]:
        ranges = sorted(entry["CidrIp"] for entry in rule.get("IpRanges", []))
        groups = sorted(entry["GroupId"] for entry in rule.get("UserIdGroupPairs", []))
        ports = (rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort"))
        return (*ports, tuple(ranges), tuple(groups))

    known = {key(rule) for rule in others}
    return [rule for rule in rules if key(rule) not in known]


def _unless_exists(call: Any, **arguments: Any) -> None:
    """Makes something; that an earlier call has made it is no error."""
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "EntityAlreadyExists":
            raise


def _if_there(call: Any, **arguments: Any) -> bool:
    """Whether what is called upon was there: it may never have been made, or be removed already."""
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        return False
    return True
