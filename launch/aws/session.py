"""Who is calling, where, and the clients to call with."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import boto3

from launch.s3 import RETRIES

TAG = "emotion_tfdata:run"


class LaunchError(RuntimeError):
    """Something the caller must know or decide; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Aws:
    """An account in a region.

    Attributes:
      account: its number.
      partition: `aws`, or `aws-cn` and the like; part of every ARN.
      region: where everything is made.
      session: where clients come from.
    """

    account: str
    partition: str
    region: str
    session: Any
    _clients: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def client(self, service: str) -> Any:
        """The service's client, made once."""
        if service not in self._clients:
            self._clients[service] = self.session.client(service, config=RETRIES)
        return self._clients[service]

    @property
    def ec2(self) -> Any:
        """EC2's client."""
        return self.client("ec2")

    @property
    def iam(self) -> Any:
        """IAM's client."""
        return self.client("iam")

    @property
    def s3(self) -> Any:
        """S3's client."""
        return self.client("s3")


def connect() -> Aws:
    """Finds region and credentials in AWS's usual places and asks AWS who they belong to.

    Raises:
      LaunchError: if no region is set.
      botocore.exceptions.NoCredentialsError: if there are no credentials.
      botocore.exceptions.ClientError: if AWS does not accept them.
    """
    # AWS's own command line goes by AWS_REGION first; boto3 does not read it.
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
    if not session.region_name:
        raise LaunchError(
            "no AWS region is set: export AWS_REGION=us-east-1, or aws configure set region ..."
        )
    identity = session.client("sts", config=RETRIES).get_caller_identity()
    partition = identity["Arn"].split(":")[1]
    return Aws(identity["Account"], partition, session.region_name, session)
