"""What an instance costs by the hour."""

from __future__ import annotations

import dataclasses
from typing import Any

from launch.aws.session import Aws, LaunchError

# On-demand Linux prices in USD for each vCPU and hour: within a family they are proportional to
# the vCPUs. Of the regions below, which share them. Written down in September 2026, part of it from
# memory: --price is for where AWS's page says otherwise.
AS_OF = "2026-09"
REGIONS = ("us-east-1", "us-east-2", "us-west-2")
USD_PER_VCPU_HOUR = {"c5": 0.0425, "c6i": 0.0425, "c7i": 0.044625, "c6g": 0.034, "c7g": 0.03625}

# Of the same regions and date.
GP3_USD_PER_GB_MONTH = 0.08
PUBLIC_IPV4_USD_PER_HOUR = 0.005
_HOURS_PER_MONTH = 730


@dataclasses.dataclass(frozen=True)
class Price:
    """Of one hour.

    Attributes:
      instance_usd: of the instance alone.
      extras_usd: of its volume and its public address.
      source: where the instance's price is from, for a person.
    """

    instance_usd: float
    extras_usd: float
    source: str

    @property
    def usd_per_hour(self) -> float:
        """Of all of it."""
        return self.instance_usd + self.extras_usd


def on_demand(region: str, instance_type: str, vcpus: int) -> float | None:
    """The table's price of an hour in USD, or None where it has none."""
    family = instance_type.partition(".")[0]
    if region not in REGIONS or family not in USD_PER_VCPU_HOUR or "metal" in instance_type:
        return None
    return USD_PER_VCPU_HOUR[family] * vcpus


def of(
    aws: Aws, instance_type: str, vcpus: int, *, spot: bool, volume_gb: int, override: float | None
) -> Price:
    """What an hour of an instance costs.

    Args:
      aws: where.
      instance_type: e.g. `c5.24xlarge`.
      vcpus: that it has.
      spot: take the spot market's price of now.
      volume_gb: size of its volume.
      override: the caller's own figure for the instance.

    Raises:
      LaunchError: if the price is not known.
    """
    extras = GP3_USD_PER_GB_MONTH * volume_gb / _HOURS_PER_MONTH + PUBLIC_IPV4_USD_PER_HOUR
    if override is not None:
        return Price(override, extras, "--price")
    if spot:
        newest = _spot(aws, instance_type)
        if newest is not None:
            return Price(newest, extras, "spot price now, highest zone; it changes")
    listed = on_demand(aws.region, instance_type, vcpus)
    if listed is None:
        raise LaunchError(
            f"the price of {instance_type} in {aws.region} is not in the table (families "
            f"{', '.join(USD_PER_VCPU_HOUR)} in {', '.join(REGIONS)}). Look it up at "
            "https://aws.amazon.com/ec2/pricing/on-demand and pass --price=USD_PER_HOUR"
        )
    limit = ", on-demand: the most a spot instance costs" if spot else ", on-demand"
    return Price(listed, extras, f"table of {AS_OF}{limit}")


def _spot(aws: Aws, instance_type: str) -> float | None:
    answer: dict[str, Any] = aws.ec2.describe_spot_price_history(
        InstanceTypes=[instance_type], ProductDescriptions=["Linux/UNIX"], MaxResults=100
    )
    newest: dict[str, tuple[Any, float]] = {}
    for entry in answer["SpotPriceHistory"]:
        zone, at = entry.get("AvailabilityZone", ""), entry.get("Timestamp")
        if zone not in newest or at > newest[zone][0]:
            newest[zone] = (at, float(entry["SpotPrice"]))
    return max((price for _, price in newest.values()), default=None)
