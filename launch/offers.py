"""Look up what AWS offers: instance types with their prices, and a network."""

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

# vCPUs, GiB, architecture and USD of an hour, Linux on demand, where AWS's price list is not to be
# had. The regions share them.
AS_OF = "2026-09"
REGIONS = ("us-east-1", "us-east-2", "us-west-2")
_Row = tuple[int, int, str, float | None]
_TABLE: dict[str, _Row] = {
    "c5.24xlarge": (96, 192, "x86_64", 4.08),
    "c6i.xlarge": (4, 8, "x86_64", 0.17),
    "c7g.xlarge": (4, 8, "arm64", 0.145),
    "c7i.xlarge": (4, 8, "x86_64", 0.1785),
    "c7i.4xlarge": (16, 32, "x86_64", 0.714),
    "m6i.xlarge": (4, 16, "x86_64", 0.192),
}
# Of the same regions and date: a gp3 volume for a month, and a public address.
_GP3_USD_PER_GB_HOUR = 0.08 / 730
_PUBLIC_IPV4_USD_PER_HOUR = 0.005

# For one training, as its rate was measured on two cores; the first that has room is taken.
SMALL = ("c7i.xlarge", "c6i.xlarge", "m6i.xlarge")
# Where many trainings run side by side.
LARGE = ("c5.24xlarge",)
# `--dry_run` shows these beside the ones asked for.
COMPARED = ("c7g.xlarge", "c7i.xlarge", "c7i.4xlarge", "c5.24xlarge")
# What has no driver on the machine, and is of no use to training, is in none of these families.
_FAMILIES = ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "x", "z")


@dataclasses.dataclass(frozen=True)
class Machine:
    """An instance type and its price per hour."""

    instance_type: str
    vcpus: int  # 0 where it is not known, as the memory
    memory_gib: int
    architecture: str  # x86_64 or arm64 (Graviton)
    usd: float | None  # on demand; None where it is not known
    spot_usd: float | None  # now, in the cheapest zone
    source: str  # where the price is from, and of which region it is


def machines(aws: Aws | None, names: Sequence[str]) -> list[Machine]:
    """Look up those instance types that the region has; without AWS, in the table below.

    Raises:
      LaunchError: if the region has none of them, or one cannot run this.
    """
    if not aws:
        source = f"table of {AS_OF}, {', '.join(REGIONS)}"
        return [Machine(name, *_row(name), None, source) for name in names]
    which = [{"Name": "instance-type", "Values": list(names)}]
    answer = aws.client("ec2").describe_instance_types(Filters=which)
    found = {one["InstanceType"]: one for one in answer["InstanceTypes"]}
    if not found:
        raise LaunchError(f"--instance_type={','.join(names)}: not in {aws.region}")
    names = [name for name in names if name in found]
    listed, spot = _listed_usd(aws, names), _spot_usd(aws, names)
    source = f"AWS's price list of {datetime.date.today()}, {aws.region}"
    if not listed:
        source = f"table of {AS_OF}, {aws.region}"
        listed = {name: _row(name)[3] for name in names if aws.region in REGIONS}
    return [
        Machine(name, *_size(found[name]), listed.get(name), spot.get(name), source)
        for name in names
    ]


def _row(name: str) -> _Row:
    architecture = "arm64" if re.match("[a-z]+[0-9]g", name) else "x86_64"
    return _TABLE.get(name, (0, 0, architecture, None))


def _size(entry: dict[str, Any]) -> tuple[int, int, str]:
    """Return a type's vCPUs, GiB and architecture as EC2 describes it."""
    name, gib = entry["InstanceType"], entry["MemoryInfo"]["SizeInMiB"] // 1024
    if re.split(r"\d", name)[0] not in _FAMILIES:
        raise LaunchError(
            f"--instance_type={name}: training runs on processors, and the machine gets no driver "
            "for anything else; choose one of the families c, m or r"
        )
    if gib < 4:
        raise LaunchError(f"--instance_type={name}: {gib} GiB of memory; training needs 4")
    is_intel = "x86_64" in entry["ProcessorInfo"]["SupportedArchitectures"]
    return entry["VCpuInfo"]["DefaultVCpus"], gib, "x86_64" if is_intel else "arm64"


def _listed_usd(aws: Aws, names: Sequence[str]) -> dict[str, float | None]:
    """Return on-demand prices of AWS's price list; none if it may not be read."""
    few = Config(retries={"total_max_attempts": 2}, connect_timeout=5)  # there is the table
    pricing = aws.session.client("pricing", "us-east-1", config=few)
    found: dict[str, float | None] = {}
    fixed = {
        **{"regionCode": aws.region, "operatingSystem": "Linux", "tenancy": "Shared"},
        **{"preInstalledSw": "NA", "capacitystatus": "Used"},
    }
    for name in names:
        wanted = (fixed | {"instanceType": name}).items()
        filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted]
        try:
            answer = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            break
        for product in map(json.loads, answer["PriceList"]):
            for term in product["terms"].get("OnDemand", {}).values():
                for dimension in term["priceDimensions"].values():
                    found[name] = float(dimension["pricePerUnit"]["USD"])
    return found


def _spot_usd(aws: Aws, names: Sequence[str]) -> dict[str, float]:
    """Return the spot prices of now, each in its cheapest zone."""
    try:
        answer = aws.client("ec2").describe_spot_price_history(
            InstanceTypes=names,
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.datetime.now(datetime.timezone.utc),
        )
    except botocore.exceptions.ClientError:
        return {}
    found: dict[str, float] = {}
    for one in answer["SpotPriceHistory"]:  # since now: the current price of each type and zone
        name, usd = one["InstanceType"], float(one["SpotPrice"])
        found[name] = min(usd, found.get(name, usd))
    return found


def price(machine: Machine, is_spot: bool, disk_gb: int) -> dict[str, Any]:
    """Return what an hour costs in USD, disk and address included, and where that is from."""
    usd, source = machine.usd, machine.source
    if is_spot and machine.spot_usd is not None:
        usd, source = machine.spot_usd, f"the spot market on {datetime.date.today()}"
    return {"usd_per_hour": None if usd is None else usd + extras_usd(disk_gb), "source": source}


def extras_usd(disk_gb: int) -> float:
    """Return what an hour of disk and address costs in USD."""
    return _GP3_USD_PER_GB_HOUR * disk_gb + _PUBLIC_IPV4_USD_PER_HOUR


def network(aws: Aws, subnet_ids: Sequence[str]) -> tuple[str, list[str]]:
    """Return a network and its subnets: those given, or the default ones.

    Raises:
      LaunchError: if there is none, or one has no way to the internet.
    """
    ec2 = aws.client("ec2")
    default = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    found = ec2.describe_subnets(**({"SubnetIds": subnet_ids} if subnet_ids else default))
    subnets = {one["SubnetId"]: one for one in found["Subnets"]}
    networks = {one["VpcId"] for one in subnets.values()}
    if len(networks) != 1:
        what = "subnets of several networks" if networks else "no default network"
        raise LaunchError(f"{what} in {aws.region}; name subnets of one: --subnet_id=A,B")
    (vpc,) = networks
    routes: dict[str, list[dict[str, str]]] = {}
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    for table in ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]:
        for one in table["Associations"]:
            routes["main" if one["Main"] else one.get("SubnetId", "")] = table["Routes"]
    for name, subnet in subnets.items():
        if not _leads_out(routes.get(name, routes.get("main", [])), subnet):
            raise LaunchError(
                f"{name}: no route to the internet, or no public addresses to use it, so the "
                "machine could neither install packages nor reach S3; name others: --subnet_id"
            )
    return vpc, sorted(subnets)


def _leads_out(routes: Sequence[dict[str, str]], subnet: dict[str, Any]) -> bool:
    """Return whether a subnet has an internet gateway and public addresses, or a NAT."""
    for route in routes:
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State") == "active":
            is_public = route.get("GatewayId", "").startswith("igw-")
            return not is_public or bool(subnet["MapPublicIpOnLaunch"])
    return False


def table(
    found: Sequence[Machine], hours: Sequence[float | None], max_hours: float, disk_gb: int
) -> list[str]:
    """Format time and cost of several types as a table."""
    lines = [
        "type          vCPUs   GiB   hours  on demand/h     total   at most    spot/h     total"
    ]

    def cost(usd: float | None, for_h: float | None, digits: int = 2) -> str:
        if usd is None or not for_h:
            return "?"
        return f"${(usd + extras_usd(disk_gb)) * for_h:.{digits}f}"

    for one, time_h in zip(found, hours, strict=True):
        lines.append(
            f"{one.instance_type:12} {one.vcpus or '?':>6} {one.memory_gib or '?':>5} "
            f"{f'{time_h:.1f}' if time_h else '?':>7} {cost(one.usd, 1, 3):>12} "
            f"{cost(one.usd, time_h):>9} {cost(one.usd, max_hours):>9} "
            f"{cost(one.spot_usd, 1, 3):>9} {cost(one.spot_usd, time_h):>9}"
        )
    return lines
