"""What AWS offers: instance type, image, subnets, and how much of it the account may use."""

from __future__ import annotations

import dataclasses

import botocore.exceptions

from launch.aws.session import Aws, LaunchError

# AWS and Canonical publish the newest image of each system under these names.
_IMAGE_PARAMETER = {
    ("ubuntu", "x86_64"): (
        "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
    ),
    ("ubuntu", "arm64"): (
        "/aws/service/canonical/ubuntu/server/22.04/stable/current/arm64/hvm/ebs-gp2/ami-id"
    ),
    ("amazon", "x86_64"): ("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"),
    ("amazon", "arm64"): "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
}
SYSTEMS = {"ubuntu": "Ubuntu 22.04", "amazon": "Amazon Linux 2023"}

# Quotas count vCPUs of all running instances of the standard families together.
_STANDARD_FAMILIES = frozenset("acdhimrtz")
_QUOTA = {False: "L-1216C47A", True: "L-34B43A08"}  # by whether it is a spot instance


@dataclasses.dataclass(frozen=True)
class Machine:
    """An instance type.

    Attributes:
      instance_type: its name.
      vcpus: how many.
      memory_gib: its memory.
      architecture: `x86_64` or `arm64` (Graviton).
    """

    instance_type: str
    vcpus: int
    memory_gib: float
    architecture: str


@dataclasses.dataclass(frozen=True)
class Image:
    """A machine image.

    Attributes:
      id: its identifier.
      root_device: name of its root volume.
    """

    id: str
    root_device: str


@dataclasses.dataclass(frozen=True)
class Subnet:
    """Where an instance can be.

    Attributes:
      id: its identifier.
      vpc_id: the network it belongs to.
      zone: its availability zone.
    """

    id: str
    vpc_id: str
    zone: str


def machine(aws: Aws, instance_type: str) -> Machine:
    """Looks an instance type up.

    Raises:
      LaunchError: if the region does not have it, or it cannot run the training.
    """
    try:
        found = aws.ec2.describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"][0]
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "InvalidInstanceType":
            raise
        raise LaunchError(f"--instance_type={instance_type}: not in {aws.region}") from error
    memory_gib = found["MemoryInfo"]["SizeInMiB"] / 1024
    if memory_gib < 3.5:
        raise LaunchError(
            f"--instance_type={instance_type}: {memory_gib:g} GiB of memory; training needs 4"
        )
    for architecture in ("x86_64", "arm64"):
        if architecture in found["ProcessorInfo"]["SupportedArchitectures"]:
            vcpus = found["VCpuInfo"]["DefaultVCpus"]
            return Machine(instance_type, vcpus, memory_gib, architecture)
    raise LaunchError(f"--instance_type={instance_type}: neither x86-64 nor Graviton")


def image(aws: Aws, system: str, architecture: str, image_id: str = "") -> Image:
    """The newest image of a system, or the given one.

    Raises:
      LaunchError: if it is not there.
    """
    if not image_id:
        name = _IMAGE_PARAMETER[system, architecture]
        try:
            image_id = aws.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
        except botocore.exceptions.ClientError as error:
            raise LaunchError(
                f"the image of {SYSTEMS[system]} was not found ({error}); name one: --image_id=ami-"
            ) from error
    try:
        found = aws.ec2.describe_images(ImageIds=[image_id])["Images"]
    except botocore.exceptions.ClientError as error:
        raise LaunchError(f"image {image_id}: {error}") from error
    if not found:
        raise LaunchError(f"image {image_id} is not in {aws.region}")
    if found[0]["Architecture"] != architecture:
        raise LaunchError(
            f"image {image_id} is for {found[0]['Architecture']}, the instance is {architecture}"
        )
    return Image(image_id, found[0]["RootDeviceName"])


def subnets(aws: Aws, instance_type: str, subnet_id: str = "") -> list[Subnet]:
    """Subnets whose zone has the instance type: the given one, or those of the default network.

    Raises:
      LaunchError: if there is none.
    """
    offered = {
        offering["Location"]
        for page in aws.ec2.get_paginator("describe_instance_type_offerings").paginate(
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": [instance_type]}],
        )
        for offering in page["InstanceTypeOfferings"]
    }
    if subnet_id:
        answer = aws.ec2.describe_subnets(SubnetIds=[subnet_id])
    else:
        answer = aws.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])
    found = [
        Subnet(entry["SubnetId"], entry["VpcId"], entry["AvailabilityZone"])
        for entry in answer["Subnets"]
    ]
    usable = sorted((s for s in found if s.zone in offered), key=lambda s: s.zone)
    if usable:
        return usable
    if not found:
        raise LaunchError(
            f"{aws.region} has no default network; name a subnet with a route to the internet: "
            "--subnet_id=subnet-"
        )
    raise LaunchError(
        f"{instance_type} is not offered in {', '.join(sorted(s.zone for s in found))}, but in: "
        f"{', '.join(sorted(offered)) or 'no zone of the region'}"
    )


def check_quota(aws: Aws, wanted: Machine, spot: bool, count: int) -> str:
    """Whether the account may start so many more such instances.

    Returns:
      What was found, for a person.

    Raises:
      LaunchError: if not.
    """
    if wanted.instance_type[0] not in _STANDARD_FAMILIES:
        return "not checked (not one of the standard families)"
    kind = "spot" if spot else "on-demand"
    try:
        answer = aws.client("service-quotas").get_service_quota(
            ServiceCode="ec2", QuotaCode=_QUOTA[spot]
        )
    except botocore.exceptions.ClientError as error:  # who may not ask for it may still deploy
        return f"not checked ({error.response['Error']['Code']})"
    quota = int(answer["Quota"]["Value"])
    used = _running_vcpus(aws, spot)
    more = count * wanted.vcpus
    if used + more > quota:
        has = (
            f"{count} x {wanted.instance_type} have" if count > 1 else f"{wanted.instance_type} has"
        )
        raise LaunchError(
            f"{has} {more} vCPUs; of the account's {quota} for {kind} "
            f"instances in {aws.region}, {used} are in use. Ask for more (Service Quotas, EC2, "
            f"{_QUOTA[spot]}), or choose a smaller --instance_type."
        )
    return f"{used} of {quota} {kind} vCPUs in use, {more} more wanted"


def _running_vcpus(aws: Aws, spot: bool) -> int:
    types = [
        instance["InstanceType"]
        for page in aws.ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        )
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
        if (instance.get("InstanceLifecycle") == "spot") == spot
        and instance["InstanceType"][0] in _STANDARD_FAMILIES
    ]
    vcpus: dict[str, int] = {}
    if types:
        for page in aws.ec2.get_paginator("describe_instance_types").paginate(
            InstanceTypes=sorted(set(types))
        ):
            for found in page["InstanceTypes"]:
                vcpus[found["InstanceType"]] = found["VCpuInfo"]["DefaultVCpus"]
    return sum(vcpus[name] for name in types)
