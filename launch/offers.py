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

# Where AWS's price list is not to be had: on-demand Linux prices in USD for each vCPU and hour, of
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
_VCPUS = {"large": 2, "xlarge": 4, "metal": 96}

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
      instance_type: its name.
      vcpus: how many.
      memory_gib: its memory.
      architecture: `x86_64` or `arm64` (Graviton).
      usd: of an hour on demand, None where it is not known.
      spot_usd: of an hour on the spot market now, in the cheapest zone.
      source: where the price is from.
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
    """Looks instance types up.

    Args:
      aws: where; None for what is known without AWS, with no memory (0) and no spot price.
      names: of the types.

    Raises:
      LaunchError: if the region does not have one, or it cannot run this.
    """
    found = []
    for name in names:
        if aws is None:
            found.append(_from_table(name))
            continue
        try:
            answer = aws.client("ec2").describe_instance_types(InstanceTypes=[name])
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in (
                "InvalidInstanceType",
                "InvalidParameterValue",
            ):
                raise
            raise LaunchError(f"--instance_type={name}: not in {aws.region}") from error
        found.append(_machine(aws, answer["InstanceTypes"][0]))
    return found


def offered(aws: Aws, names: Sequence[str]) -> list[str]:
    """Those of the types that the region has, in that order; all, where it has none."""
    answer = aws.client("ec2").describe_instance_type_offerings(
        LocationType="region", Filters=[{"Name": "instance-type", "Values": list(names)}]
    )
    has = {one["InstanceType"] for one in answer["InstanceTypeOfferings"]}
    return [name for name in names if name in has] or list(names)


def _machine(aws: Aws, entry: dict[str, Any]) -> Machine:
    name, gib = entry["InstanceType"], entry["MemoryInfo"]["SizeInMiB"] / 1024
    accelerators = [
        key for key in ("GpuInfo", "InferenceAcceleratorInfo", "NeuronInfo") if entry.get(key)
    ]
    if accelerators or _family(name) not in _STANDARD:
        raise LaunchError(
            f"--instance_type={name}: training runs on processors, and the machine gets no driver "
            "for anything else; choose one of the families c, m or r"
        )
    if gib < 3.5:
        raise LaunchError(f"--instance_type={name}: {gib:g} GiB of memory; training needs 4")
    architectures = entry["ProcessorInfo"]["SupportedArchitectures"]
    architecture = next((one for one in ("x86_64", "arm64") if one in architectures), "")
    if not architecture:
        raise LaunchError(f"--instance_type={name}: neither x86-64 nor Graviton")
    vcpus = entry["VCpuInfo"]["DefaultVCpus"]
    usd, source = _listed(aws, name), f"AWS's price list of {datetime.date.today()}"
    if usd is None:
        usd, source = (
            _table_usd(name, vcpus) if aws.region in REGIONS else None,
            f"table of {AS_OF}",
        )
    return Machine(name, vcpus, gib, architecture, usd, _spot(aws, name), source)


def _listed(aws: Aws, name: str) -> float | None:
    """Of AWS's price list; None where it is not to be had, as for want of permission."""
    wanted = {
        **{"instanceType": name, "regionCode": aws.region, "operatingSystem": "Linux"},
        **{"tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"},
    }
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
    try:
        # Where it is not to be had, there is no reason to try for minutes.
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
    newest: dict[str, tuple[Any, float]] = {}
    for entry in answer["SpotPriceHistory"]:
        zone, at = entry.get("AvailabilityZone", ""), entry["Timestamp"]
        if zone not in newest or at > newest[zone][0]:
            newest[zone] = (at, float(entry["SpotPrice"]))
    return min((price for _, price in newest.values()), default=None)


def _from_table(name: str) -> Machine:
    size = name.partition(".")[2]
    times = re.fullmatch("([0-9]+)xlarge", size)
    vcpus = 4 * int(times[1]) if times else _VCPUS.get(size, 0)
    family = name.partition(".")[0]
    architecture = "arm64" if re.fullmatch("[a-z]+[0-9]g[a-z]*", family) else "x86_64"
    return Machine(name, vcpus, 0, architecture, _table_usd(name, vcpus), None, f"table of {AS_OF}")


def _table_usd(name: str, vcpus: int) -> float | None:
    price = USD_PER_VCPU_HOUR.get(name.partition(".")[0])
    return None if price is None or not vcpus else price * vcpus


def _family(name: str) -> str:
    return re.match("[a-z]*", name)[0]  # type: ignore[index]


def check_quota(aws: Aws, wanted: Machine, spot: bool) -> str:
    """Whether the account may have the machine at all; what runs already, AWS says when it starts.

    Returns:
      What was found, for a person.

    Raises:
      LaunchError: if not.
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
    if subnet_ids:
        found = ec2.describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
    else:
        default = [{"Name": "default-for-az", "Values": ["true"]}]
        found = ec2.describe_subnets(Filters=default)["Subnets"]
    if not found:
        raise LaunchError(
            f"{aws.region} has no default network; name subnets with a route to the internet: "
            "--subnet_id=subnet-A,subnet-B"
        )
    vpc = found[0]["VpcId"]
    if {one["VpcId"] for one in found} != {vpc}:
        raise LaunchError("--subnet_id: the subnets are of several networks; name those of one")
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    kinds = {}
    for subnet in found:
        kinds[subnet["SubnetId"]] = _way_out(subnet["SubnetId"], tables)
    lost = [name for name, kind in kinds.items() if not kind]
    if subnet_ids and lost:
        raise LaunchError(
            f"{', '.join(lost)}: no route to the internet, so the machine could neither install "
            "packages nor reach S3; name another --subnet_id"
        )
    public = [name for name, kind in kinds.items() if kind == "public"]
    private = [name for name, kind in kinds.items() if kind == "private"]
    if subnet_ids and public and private:
        raise LaunchError("--subnet_id: name either public subnets or private ones, not both")
    usable = public or private
    if not usable:
        raise LaunchError(f"no subnet of {vpc} has a route to the internet; name others")
    return Network(vpc, tuple(sorted(usable)), bool(public))


def _way_out(subnet: str, tables: Sequence[dict[str, Any]]) -> str:
    """`public` by an internet gateway, `private` by a NAT or the like, empty for no route."""

    def of(is_its: Any) -> dict[str, Any] | None:
        return next((t for t in tables if any(map(is_its, t.get("Associations", [])))), None)

    table = of(lambda one: one.get("SubnetId") == subnet) or of(lambda one: one.get("Main"))
    for route in (table or {}).get("Routes", []):
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
    for one in found:
        cells = []
        for usd in (one.usd, one.spot_usd):
            if usd is None:
                cells.append("?")
                continue
            usd += extras_usd(disk_gb)
            total = f" = ${usd * hours:.2f}" if hours else ""
            cells.append(f"${usd:.3f}/h{total}")
        most = "?" if one.usd is None else f"${(one.usd + extras_usd(disk_gb)) * max_hours:.2f}"
        memory = f"{one.memory_gib:g}" if one.memory_gib else "?"
        lines.append(
            f"{one.instance_type:12} {one.vcpus or '?':>6} {memory:>6}   "
            f"{cells[0]:18} {cells[1]:18} {most}"
        )
    return lines
