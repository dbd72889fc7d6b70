"""The bucket that runs are kept in: this tool's own, made where it is missing, or the caller's."""

from __future__ import annotations

from typing import Any

import botocore.exceptions

from launch.aws.session import TAG, Aws, LaunchError


def default_name(aws: Aws) -> str:
    """The bucket that is made and removed here."""
    return f"emotion-tfdata-{aws.account}-{aws.region}"


def is_there(aws: Aws, bucket: str) -> bool:
    """Whether the account has the bucket.

    Raises:
      LaunchError: if someone else has it.
    """
    return _look(aws, bucket) is not None


def is_to_be_made(aws: Aws, bucket: str) -> bool:
    """Whether it must be made before a run can be kept in it.

    Raises:
      LaunchError: if no run can: it is someone else's, in another region, or the caller's and
        missing.
    """
    found = _look(aws, bucket)
    if found is None:
        if bucket != default_name(aws):
            raise LaunchError(f"bucket {bucket} does not exist; make it, or leave --prefix out")
        return True
    region = found.get("BucketRegion") or aws.region
    if region != aws.region:
        raise LaunchError(
            f"bucket {bucket} is in {region}, the instance would be in {aws.region}, and every "
            f"file would be paid for: name a bucket there, or export AWS_REGION={region}"
        )
    return False


def ensure(aws: Aws, bucket: str) -> bool:
    """Makes the default bucket where it is missing: private, encrypted. Returns whether it was.

    Raises:
      LaunchError: if no run can be kept in the bucket.
    """
    made = is_to_be_made(aws, bucket)
    if made:
        where = {"LocationConstraint": aws.region}
        aws.s3.create_bucket(
            Bucket=bucket,
            **({} if aws.region == "us-east-1" else {"CreateBucketConfiguration": where}),
        )
    if bucket == default_name(aws):
        aws.s3.put_public_access_block(
            Bucket=bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        aws.s3.put_bucket_encryption(
            Bucket=bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        aws.s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": TAG, "Value": "all"}]})
    return made


def _look(aws: Aws, bucket: str) -> dict[str, Any] | None:
    try:
        return dict(aws.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=aws.account))
    except botocore.exceptions.ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return None
        if status == 403:
            raise LaunchError(
                f"bucket {bucket} is not this account's, or not open to it; name another: "
                "--prefix=s3://BUCKET/PREFIX"
            ) from error
        raise
