"""What AWS offers: instance types, their prices, how many the account may have, and a network."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Sequence
from typing import Any

import botocore.exceptions
from botocore.config import Config

from launch.aws import Aws, LaunchError
from launch.files import RETRIES

# Where AWS's price list is not available: on-demand Linux prices in USD for each vCPU and hour, of
# the regions below, which share them.
AS_OF = "2026-09"
REGIONS = ("us-east-1", "us-east-2", "us-west-2")
USD_PER_VCPU_HOUR = {
    **{"c5": 0.0425, "c6i": 0.0425, "c7i": 0.044625, "c6g": 0.034, "c7g": 0.03625},
    **{"m6i": 0.048, "m7i": 0.0504},
}
# Of the same regions and date: a gp3 volume and a public address.
GP3_USD_PER_GB_MONTH = 0.08
PUBLIC_IPV4_USD_PER_HOUR = 0.005
_HOURS_PER_MONTH = 730

# What the default machine is, and others like it, taken where the first has no room: two cores, as
# the training's rate was measured on.
SMALL = "c7i.xlarge,c6i.xlarge,m6i.xlarge"
# Where many trainings run side by side.
LARGE = "c5.24xlarge"
# `--dry_run` shows these beside the ones asked for.
COMPARED = ("c7g.xlarge", "c7i.xlarge", "c7i.4xlarge", "c5.24xlarge")
# Clips through the model in a second: 226 measured on two cores, less for input and saving.
CLIPS_PER_S = 150
SETUP_H = 10 / 60
# More vCPUs than one training was ever seen to use.
IDLE_ABOVE_VCPUS = 16

# The quota of the standard families counts vCPUs, apart for spot.
_STANDARD = ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z")
_QUOTA = {False: "L-1216C47A", True: "L-34B43A08"}


@dataclasses.dataclass(frozen=True)
class Machine:
    """An instance type and its price.

    Attributes:
      instance_type, vcpus, memory_gib: its name and size; 0 where it is not known.
      architecture: `x86_64` or `arm64` (Graviton).
      usd: of an hour on demand, None where it is not known.
      spot_usd: of an hour on the spot market now, in the cheapest zone.
      source: where the price is from, and of which region it is.
    """

    instance_type: str
    vcpus: int
    memory_gib: float
    architecture: str
    usd: float | None
    spot_usd: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Network:
    """Where the machine can be: a network, its subnets, and whether they take public addresses."""

    vpc: str
    subnets: tuple[str, ...]
    is_public: bool


def machines(aws: Aws | None, names: Sequence[str]) -> list[Machine]:
    """Looks instance types up; without AWS what their names and the table say.

    Raises:
      LaunchError: if the region does not have one, or it cannot run this.
    """
    return [_found(aws, name) if aws else _from_table(name) for name in names]


def offered(aws: Aws, names: Sequence[str]) -> list[str]:
    """Those of the types that the region has, in that order; all, where it has none."""
    answer = aws.client("ec2").describe_instance_type_offerings(
        LocationType="region", Filters=[{"Name": "instance-type", "Values": list(names)}]
    )
    has = {one["InstanceType"] for one in answer["InstanceTypeOfferings"]}
    return [name for name in names if name in has] or list(names)


def _found(aws: Aws, name: str) -> Machine:
    try:
        answer = aws.client("ec2").describe_instance_types(InstanceTypes=[name])
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in ("InvalidInstanceType", "InvalidParameterValue"):
            raise LaunchError(f"--instance_type={name}: not in {aws.region}") from error
        raise
    entry = answer["InstanceTypes"][0]
    accelerators = [
        key for key in ("GpuInfo", "InferenceAcceleratorInfo", "NeuronInfo") if entry.get(key)
    ]
    if accelerators or re.match("[a-z]*", name)[0] not in _STANDARD:  # type: ignore[index]
        raise LaunchError(
            f"--instance_type={name}: training runs on processors, and the machine gets no driver "
            "for anything else; choose one of the families c, m or r"
        )
    gib, vcpus = entry["MemoryInfo"]["SizeInMiB"] / 1024, entry["VCpuInfo"]["DefaultVCpus"]
    if gib < 3.5:
        raise LaunchError(f"--instance_type={name}: {gib:g} GiB of memory; training needs 4")
    architectures = entry["ProcessorInfo"]["SupportedArchitectures"]
    architecture = next((one for one in ("x86_64", "arm64") if one in architectures), "")
    if not architecture:
        raise LaunchError(f"--instance_type={name}: neither x86-64 nor Graviton")
    usd, source = _listed_usd(aws, name), f"AWS's price list of {datetime.date.today()}"
    if usd is None:
        source = f"table of {AS_OF}"
        usd = _table_usd(name, vcpus) if aws.region in REGIONS else None
    spot_usd = _spot(aws, name)
    return Machine(name, vcpus, gib, architecture, usd, spot_usd, f"{source}, {aws.region}")


def _listed_usd(aws: Aws, name: str) -> float | None:
    """From AWS's price list; None where it is not available, such as without permission."""
    wanted = {
        **{"instanceType": name, "regionCode": aws.region, "operatingSystem": "Linux"},
        **{"tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"},
    }
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
    try:
        # Where it is not available, minutes of retries are no use.
        few = RETRIES.merge(Config(retries={"mode": "standard", "total_max_attempts": 2}))
        pricing = aws.session.client("pricing", "us-east-1", config=few)
        answer = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
        return None
    for product in map(json.loads, answer["PriceList"]):
        for term in product.get("terms", {}).get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                return float(dimension["pricePerUnit"]["USD"])
    return None


def _spot(aws: Aws, name: str) -> float | None:
    try:
        answer = aws.client("ec2").describe_spot_price_history(
            InstanceTypes=[name],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.datetime.now(datetime.timezone.utc),
        )
    except botocore.exceptions.ClientError:
        return None
    history = sorted(answer["SpotPriceHistory"], key=lambda entry: entry["Timestamp"])
    newest = {entry.get("AvailabilityZone"): float(entry["SpotPrice"]) for entry in history}
    return min(newest.values(), default=None)


def _from_table(name: str) -> Machine:
    family, _, size = name.partition(".")
    times = re.fullmatch("([0-9]*)xlarge", size)
    vcpus = 4 * int(times[1] or 1) if times else 2 if size == "large" else 0
    architecture = "arm64" if re.fullmatch("[a-z]+[0-9]g[a-z]*", family) else "x86_64"
    source = f"table of {AS_OF}, {', '.join(REGIONS)}"
    return Machine(name, vcpus, 0, architecture, _table_usd(name, vcpus), None, source)


def _table_usd(name: str, vcpus: int) -> float | None:
    price = USD_PER_VCPU_HOUR.get(name.partition(".")[0])
    return None if price is None or not vcpus else price * vcpus


def check_quota(aws: Aws, wanted: Machine, spot: bool) -> str:
    """Checks that the account may have the machine at all; returns what was found.

    What runs already, AWS says when it starts one.

    Raises:
      LaunchError: if it may not.
    """
    try:
        answer = aws.client("service-quotas").get_service_quota(
            ServiceCode="ec2", QuotaCode=_QUOTA[spot]
        )
    except botocore.exceptions.ClientError as error:  # who may not ask for it may still deploy
        return f"not checked ({error.response['Error']['Code']})"
    quota, kind = int(answer["Quota"]["Value"]), "spot" if spot else "on-demand"
    if wanted.vcpus > quota:
        raise LaunchError(
            f"{wanted.instance_type} has {wanted.vcpus} vCPUs, the account may have {quota} of "
            f"{kind} machines in {aws.region}. Ask for more (Service Quotas, EC2, {_QUOTA[spot]}), "
            "or choose a smaller --instance_type."
        )
    return f"{wanted.vcpus} of the account's {quota} {kind} vCPUs"


def network(aws: Aws, subnet_ids: Sequence[str] = ()) -> Network:
    """The given subnets, or the default network's, all with a route to the internet.

    Raises:
      LaunchError: if there is none, or one has no such route.
    """
    ec2 = aws.client("ec2")
    default = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    found = ec2.describe_subnets(**({"SubnetIds": list(subnet_ids)} if subnet_ids else default))
    vpcs = {one["VpcId"] for one in found["Subnets"]}
    if not vpcs:
        raise LaunchError(
            f"{aws.region} has no default network; name subnets with a route to the internet: "
            "--subnet_id=subnet-A,subnet-B"
        )
    if len(vpcs) > 1:
        raise LaunchError("--subnet_id: the subnets are of several networks; name those of one")
    (vpc,) = vpcs
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    by_kind: dict[str, list[str]] = {"public": [], "private": [], "": []}
    for name in sorted(subnet["SubnetId"] for subnet in found["Subnets"]):
        by_kind[_way_out(name, tables)].append(name)
    if subnet_ids and by_kind[""]:
        raise LaunchError(
            f"{', '.join(by_kind[''])}: no route to the internet, so the machine could neither "
            "install packages nor reach S3; name another --subnet_id"
        )
    if subnet_ids and by_kind["public"] and by_kind["private"]:
        raise LaunchError("--subnet_id: name either public subnets or private ones, not both")
    usable = by_kind["public"] or by_kind["private"]
    if not usable:
        raise LaunchError(f"no subnet of {vpc} has a route to the internet; name others")
    return Network(vpc, tuple(usable), bool(by_kind["public"]))


def _way_out(subnet: str, tables: Sequence[dict[str, Any]]) -> str:
    """`public` by an internet gateway, `private` by a NAT or the like, empty for no route."""
    routes: dict[str, list[dict[str, str]]] = {}
    for table in tables:
        for one in table.get("Associations", []):
            routes["main" if one.get("Main") else one.get("SubnetId", "")] = table["Routes"]
    for route in routes.get(subnet, routes.get("main", [])):
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State") == "active":
            return "public" if route.get("GatewayId", "").startswith("igw-") else "private"
    return ""


def extras_usd(disk_gb: int) -> float:
    """Of an hour of disk and address."""
    return GP3_USD_PER_GB_MONTH * disk_gb / _HOURS_PER_MONTH + PUBLIC_IPV4_USD_PER_HOUR


def table(
    found: Sequence[Machine], hours: float | None, max_hours: float, disk_gb: int
) -> list[str]:
    """Time and cost of several types side by side, for a person.

    Args:
      found: the types.
      hours: that the work takes; None where it is not known.
      max_hours: the time limit.
      disk_gb: of the machine's disk.
    """
    lines = ["type          vCPUs    GiB   on demand          spot               at most"]
    extras = extras_usd(disk_gb)
    for one in found:
        cells = [
            "?" if usd is None
            else f"${usd + extras:.3f}/h" + (f" = ${(usd + extras) * hours:.2f}" if hours else "")
            for usd in (one.usd, one.spot_usd)
        ]  # fmt: skip
        memory = f"{one.memory_gib:g}" if one.memory_gib else "?"
        most = "?" if one.usd is None else f"${(one.usd + extras) * max_hours:.2f}"
        lines.append(
            f"{one.instance_type:12} {one.vcpus or '?':>6} {memory:>6}   "
            f"{cells[0]:18} {cells[1]:18} {most}"
        )
    return lines
