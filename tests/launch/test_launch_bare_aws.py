"""S3 and EC2 without a package: signed as botocore signs, asked again where botocore would."""

from __future__ import annotations

import ast
import datetime
import hashlib
import sys
import urllib.parse
from unittest import mock

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials as BotoCredentials
from fake_aws import ACCOUNT, DROP, HALF, INSTANCE_KEY, LOSE, REGION, Answer

from launch.aws import userdata
from launch.instance import bare_aws
from launch.instance.bare_aws import BareAws, RefusedError
from launch.instance.sigv4 import Credentials, signed

BUCKET = f"emotion-tfdata-{ACCOUNT}-{REGION}"
KEY = "runs/a b/log+'(1)~ü.log"
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
SIGNERS = {"s3": botocore.auth.S3SigV4Auth, "ec2": botocore.auth.SigV4Auth}
BOTO_KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
BUSY = Answer(503, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")


@pytest.mark.parametrize("token", ["", "Fwo/GZ+iv=="])
@pytest.mark.parametrize(
    ("service", "method", "url", "body"),
    [
        ("s3", "GET", "https://bucket.s3.eu-west-1.amazonaws.com/runs/a/status.json", b""),
        ("s3", "PUT", f"http://127.0.0.1:9000/bucket/{urllib.parse.quote(KEY)}", b"a log"),
        ("s3", "GET", "https://bucket/?prefix=runs%2Fa%20b&a=2&a-b=1&a=1&list-type=2&acl", b""),
        ("s3", "DELETE", "https://bucket//two//slashes/./and/../dots%2F", b""),
        ("ec2", "POST", "https://ec2.eu-west-1.amazonaws.com/", b"Action=Cancel&Id.1=sir-1"),
        ("ec2", "GET", "https://ec2.eu-west-1.amazonaws.com/?Version=2016-11-15&Action=A", b""),
    ],
)
def test_a_request_is_signed_as_botocore_signs_it(service, method, url, body, token):
    headers = {"Content-Type": "text/plain;  charset=utf-8", "x-amz-checksum-sha256": "x+/="}
    digest = hashlib.sha256(body).hexdigest()
    reference = AWSRequest(method, url, {**headers, "X-Amz-Content-SHA256": digest}, body)
    reference.context["payload_signing_enabled"] = True
    who = BotoCredentials("AKIA", "sec/ret+", token or None)
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SIGNERS[service](who, service, "eu-west-1").add_auth(reference)

    found = signed(
        *(method, url, headers, body),
        service=service,
        region="eu-west-1",
        credentials=Credentials("AKIA", "sec/ret+", token),
        at=NOW,
    )
    host = {"Host": urllib.parse.urlsplit(url).netloc}
    assert found == {**host, **dict(reference.headers)}


@pytest.mark.parametrize("bucket", ["mine", "with.dots", "Old_Style"])
@pytest.mark.parametrize("region", ["eu-west-1", "cn-north-1", "us-gov-west-1"])
def test_objects_are_where_boto3_finds_them(monkeypatch, region, bucket):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    client, sent = boto3.client("s3", region, **BOTO_KEYS), []

    def keep(request, **about):
        sent.append(request.url)
        return AWSResponse(request.url, 200, {}, None)  # and so it is not sent

    client.meta.events.register("before-send.s3.GetObject", keep)
    client.get_object(Bucket=bucket, Key=KEY)
    assert [bare_aws.object_url(region, bucket, KEY)] == sent
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    quoted = urllib.parse.quote(KEY)
    assert bare_aws.object_url(region, bucket, KEY) == f"http://127.0.0.1:1/{bucket}/{quoted}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    assert bare_aws.object_url(region, bucket, KEY) == f"http://127.0.0.1:2/{bucket}/{quoted}"
    assert bare_aws.endpoint(region, "ec2") == "http://127.0.0.1:1"


def test_ec2_is_where_boto3_finds_it(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for region in ("us-east-1", "cn-north-1", "us-gov-west-1"):
        expected = boto3.client("ec2", region, **BOTO_KEYS).meta.endpoint_url
        assert bare_aws.endpoint(region, "ec2") == expected


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, not waited."""
    found: list[float] = []
    monkeypatch.setattr(bare_aws.time, "sleep", found.append)
    return found


@pytest.fixture
def aws(cloud, waits):
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    cloud.proxy.requests.clear()
    return BareAws(REGION)


def _fail(cloud, *outcomes):
    """The next requests, in turn."""
    left = list(outcomes)
    cloud.proxy.rules.insert(0, lambda request: left.pop(0) if left else None)
    return left


def test_what_is_put_is_what_boto3_gets_and_the_other_way_round(cloud, aws):
    content = bytes(range(256)) * 1000
    aws.put(BUCKET, KEY, content)
    found = cloud.client("s3").get_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")
    assert found["Body"].read() == content
    checksum = cloud.proxy.of("s3", "PUT")[0].headers["X-Amz-Checksum-Sha256"]
    assert found["ChecksumSHA256"] == checksum, "S3 has verified it"
    cloud.client("s3").put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert aws.get(BUCKET, "empty") == b""
    assert aws.get(BUCKET, KEY) == content


@pytest.mark.parametrize("outcome", [BUSY, DROP, LOSE, HALF], ids=["503", "drop", "lose", "half"])
def test_what_fails_is_asked_again_after_growing_waits(cloud, aws, waits, outcome, capsys):
    cloud.client("s3").put_object(Bucket=BUCKET, Key="whole", Body=b"0123456789")
    left = _fail(cloud, *4 * [outcome])
    assert aws.get(BUCKET, "whole") == b"0123456789"
    if outcome != HALF:  # which breaks the answer to a GET alone
        left += 4 * [outcome]
        aws.put(BUCKET, "new", b"abc")
        assert cloud.client("s3").get_object(Bucket=BUCKET, Key="new")["Body"].read() == b"abc"
    assert left == []
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[4:] == waits[: len(waits) - 4]
    assert "whole: " in capsys.readouterr().out, "the log tells of it"


def test_an_upload_that_was_damaged_on_the_way_is_sent_again(cloud, aws, waits):
    _fail(cloud, Answer(400, b"<Error><Code>BadDigest</Code></Error>"))
    aws.put(BUCKET, "new", b"abc")
    assert len(waits) == 1


def test_what_stays_unreachable_or_is_refused_is_said(cloud, aws, waits):
    _fail(cloud, *9 * [BUSY])
    with pytest.raises(RefusedError, match=f"GET http.*/{BUCKET}/x: 503 SlowDown later"):
        aws.get(BUCKET, "x")
    assert sum(waits) > 60
    assert len(cloud.proxy.of("s3", "GET")) == 9
    waits.clear()
    with pytest.raises(RefusedError, match=f"/{BUCKET}/x: 404 NoSuchKey") as caught:
        aws.get(BUCKET, "x")
    assert (caught.value.status, waits) == (404, [])


def test_the_instances_role_signs_where_no_other_credentials_are(
    cloud, metadata, aws, waits, monkeypatch
):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-session")
    aws.put(BUCKET, "new", b"abc")
    (request,) = cloud.proxy.of("s3", "PUT")
    assert "Credential=AKIACALLER/" in request.headers["Authorization"]
    assert request.headers["X-Amz-Security-Token"] == "of-a-session"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(OSError, match="knows no role of this instance"):
        aws.get(BUCKET, "new")
    assert sum(waits) > 60, "soon after the start it may come yet"
    metadata.give_role("its-role")
    keys = "meta-data/iam/security-credentials/its-role"
    given, metadata.pages[keys] = metadata.pages[keys], '{"Code": "AssumeRoleUnauthorizedAccess"}'
    with pytest.raises(OSError, match="no keys of its-role: AssumeRoleUnauthorizedAccess"):
        aws.get(BUCKET, "new")
    metadata.pages[keys] = given
    assert aws.get(BUCKET, "new") == b"abc"
    (request,) = cloud.proxy.of("s3", "GET")
    assert f"Credential={INSTANCE_KEY}/" in request.headers["Authorization"]
    assert request.headers["X-Amz-Security-Token"] == "session"


def test_the_first_script_needs_no_package_and_no_newer_python(project_dir):
    """Amazon Linux 2023 has Python 3.9, and neither system boto3."""
    own = {f"launch.{name.removesuffix('.py').replace('/', '.')}" for name in userdata._MODULES}
    for name in userdata._MODULES:
        tree = ast.parse((project_dir / "launch" / name).read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            found = [node.module] if isinstance(node, ast.ImportFrom) else []
            found += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for module in found:
                known = module in own or module.partition(".")[0] in sys.stdlib_module_names
                assert known, (name, module)
