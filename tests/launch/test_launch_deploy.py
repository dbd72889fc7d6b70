"""From the command to the instance: what is checked, what is asked of AWS, what is left behind."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import ClassVar

import pytest
from fake_aws import ACCOUNT, REGION, Answer, git, quota, write_data
from whole_run import unpacked

from launch import ec2
from launch import run as runs
from launch.aws import prices, resources, source
from launch.aws.session import LaunchError

BUCKET = f"emotion-tfdata-{ACCOUNT}-{REGION}"


def _form(cloud, action):
    (request,) = cloud.proxy.of("ec2", action)
    return request.form


def _tags(form, number=1):
    start = f"TagSpecification.{number}.Tag."
    keys = [name for name in form if name.startswith(start) and name.endswith(".Key")]
    return {form[key]: form[key.removesuffix("Key") + "Value"] for key in keys}


# What is asked of AWS.


def test_the_instance_is_asked_for_safely(cloud, deployed):
    name = deployed("--max_hours=3", "--name=safe")
    form = _form(cloud, "RunInstances")
    assert form["MetadataOptions.HttpTokens"] == "required"
    assert form["MetadataOptions.HttpPutResponseHopLimit"] == "1"
    assert form["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert form["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert form["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert (form["MinCount"], form["MaxCount"]) == ("1", "1")
    assert form["InstanceType"] == "c5.24xlarge"
    assert form["IamInstanceProfile.Name"] == f"emotion-tfdata-{name}-{REGION}"
    assert len(form["ClientToken"]) == 64
    assert "KeyName" not in form
    assert not any(key.startswith("InstanceMarketOptions") for key in form)
    kinds = {form[f"TagSpecification.{n}.ResourceType"] for n in (1, 2, 3)}
    assert kinds == {"instance", "volume", "network-interface"}
    for number in (1, 2, 3):
        assert _tags(form, number)["emotion_tfdata:run"] == "safe"
    script = unpacked(form["UserData"])
    run = cloud.load(name)
    assert f"DEADLINE={run.started_at + 3 * 3600}\n" in script


def test_nothing_gets_in_and_only_web_gets_out(cloud, deployed):
    deployed()
    (group,) = [
        g
        for g in cloud.client("ec2").describe_security_groups()["SecurityGroups"]
        if g["GroupName"] != "default"
    ]
    assert group["IpPermissions"] == []
    assert sorted(rule["FromPort"] for rule in group["IpPermissionsEgress"]) == [80, 443]
    assert {rule["IpProtocol"] for rule in group["IpPermissionsEgress"]} == {"tcp"}
    assert not cloud.proxy.of("ec2", "AuthorizeSecurityGroupIngress")


def test_ssh_opens_one_range_and_never_the_world(cloud, deployed, data_dir):
    deployed("--ssh_cidr=203.0.113.7/32", "--key_name=mine")
    form = _form(cloud, "AuthorizeSecurityGroupIngress")
    assert form["IpPermissions.1.IpRanges.1.CidrIp"] == "203.0.113.7/32"
    assert (form["IpPermissions.1.FromPort"], form["IpPermissions.1.ToPort"]) == ("22", "22")
    assert _form(cloud, "RunInstances")["KeyName"] == "mine"
    for cidr in ("0.0.0.0/0", "0.0.0.0/1", "::/0", "10.0.0.0/8", "here"):
        with pytest.raises(LaunchError, match="ssh_cidr"):
            resources.check_ssh_cidr(cidr)
    alone = cloud.run("deploy", f"--data_dir={data_dir}", "--ssh_cidr=203.0.113.7/32", "--yes")
    assert alone.status == 1
    assert "go together" in alone.err


def test_the_role_reaches_this_run_alone(cloud, deployed):
    name = deployed()
    role = f"emotion-tfdata-{name}-{REGION}"
    iam = cloud.client("iam")
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == ["this-run"]
    policy = iam.get_role_policy(RoleName=role, PolicyName="this-run")["PolicyDocument"]
    run = cloud.load(name)
    statements = {s["Sid"]: s for s in policy["Statement"]}
    assert set(statements) == {"ReadSourceAndData", "ReadAndWriteThisRun", "ListThisRun"}
    assert statements["ReadSourceAndData"]["Action"] == "s3:GetObject"
    assert statements["ReadSourceAndData"]["Resource"] == [
        f"arn:aws:s3:::{BUCKET}/source/{run.source}.tar",
        f"arn:aws:s3:::{BUCKET}/data/{run.data}/*",
    ]
    mine = f"arn:aws:s3:::{BUCKET}/runs/{name}/*"
    assert statements["ReadAndWriteThisRun"]["Resource"] == mine
    assert statements["ReadAndWriteThisRun"]["Action"] == ["s3:GetObject", "s3:PutObject"]
    assert statements["ListThisRun"]["Condition"]["StringLike"] == {"s3:prefix": f"runs/{name}/*"}
    for statement in policy["Statement"]:
        assert statement["Condition"]["StringEquals"] == {"aws:ResourceAccount": ACCOUNT}
    trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert [s["Principal"] for s in trust] == [{"Service": "ec2.amazonaws.com"}]


def test_spot_is_asked_for_until_the_time_limit_and_stopped_when_interrupted(cloud, deployed):
    name = deployed("--spot", "--price=1.5")
    form = _form(cloud, "RunInstances")
    start = "InstanceMarketOptions.SpotOptions."
    assert form["InstanceMarketOptions.MarketType"] == "spot"
    assert form[f"{start}SpotInstanceType"] == "persistent"
    assert form[f"{start}InstanceInterruptionBehavior"] == "stop"
    assert form[f"{start}ValidUntil"]
    assert form["TagSpecification.4.ResourceType"] == "spot-instances-request"
    role = f"emotion-tfdata-{name}-{REGION}"
    policy = cloud.client("iam").get_role_policy(RoleName=role, PolicyName="this-run")
    (spot,) = [s for s in policy["PolicyDocument"]["Statement"] if "Spot" in s["Sid"]]
    assert spot["Action"] == "ec2:CancelSpotInstanceRequests"
    assert spot["Condition"]["StringEquals"] == {"aws:ResourceTag/emotion_tfdata:run": name}


def test_the_bucket_is_private_and_encrypted(cloud, deployed):
    deployed()
    client = cloud.client("s3")
    blocked = client.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert set(blocked.values()) == {True}
    rules = client.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]
    assert rules["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--os=amazon"], "Amazon Linux 2023"),
        (["--instance_type=c7g.4xlarge"], "arm64 (Graviton: trains; mediapipe has no wheel"),
        (["--instance_type=c6i.xlarge"], "$0.170 an hour (table of"),
    ],
)
def test_systems_and_processors(cloud, project, data_dir, arguments, expected):
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--dry_run", *arguments)
    assert result.status == 0, result.err
    assert expected in result.err


# What is uploaded.


def test_the_source_is_what_git_tracks_as_it_is(cloud, deployed, project):
    (project / "tcn.flags").write_text("--epochs=4\n")  # changed, not committed
    name = deployed()
    run = cloud.load(name)
    content = cloud.root.read(runs.source_key(run))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = set(archive.getnames())
        flags = archive.extractfile("tcn.flags")
        assert flags
        assert flags.read() == b"--epochs=4\n"
        assert archive.getmember("launch/deploy.sh").mode & 0o100
    assert "secret.env" not in names
    assert {"train.py", "launch/instance/agent.py", "launch/venv.sh"} <= names
    assert source.pack(project).sha256 == run.source, "the same files give the same bytes"


def test_shards_are_verified_and_skipped_where_they_are(cloud, deployed, data_dir):
    deployed("--name=one")
    uploaded = len([r for r in cloud.proxy.of("s3", "PUT") if "/data/" in r.path])
    assert uploaded == 4, "three shards and the manifest"
    for request in cloud.proxy.of("s3", "PUT"):
        if "/data/" in request.path or "/source/" in request.path:
            assert "x-amz-checksum-sha256" in {name.lower() for name in request.headers}
    cloud.proxy.requests.clear()
    deployed("--name=two")
    sent = [r.path for r in cloud.proxy.of("s3", "PUT")]
    assert not [path for path in sent if "/data/" in path or "/source/" in path]


def test_a_damaged_shard_is_not_uploaded_for_a_whole_one(cloud, project, data_dir):
    shard = next(data_dir.glob("*00001-of*"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes")
    assert result.status == 1
    assert f"{shard}: its SHA-256 is not the manifest's" in result.err
    assert not [o for o in cloud.root.objects() if o.name.endswith(shard.name)]
    assert cloud.left_over() == [BUCKET]


def test_data_in_s3_is_copied_there_and_verified(cloud, deployed, data_dir, project):
    client = cloud.client("s3")
    client.create_bucket(Bucket="elsewhere")
    for path in data_dir.iterdir():
        client.put_object(Bucket="elsewhere", Key=f"sets/a/{path.name}", Body=path.read_bytes())
    name = deployed("--data_dir=s3://elsewhere/sets/a")
    run = cloud.load(name)
    there = cloud.root.folder(runs.data_key(run))
    for path in data_dir.iterdir():
        assert there.read(path.name) == path.read_bytes()
    in_place = cloud.run("deploy", f"--data_dir={there}", "--name=second", "--yes")
    assert in_place.status == 0
    assert "data is in place" in in_place.err
    shard = next(data_dir.glob("*00002-of*")).name
    client.put_object(Bucket="elsewhere", Key=f"sets/a/{shard}", Body=b"x" * 50_000)
    cloud.root.delete([f"{runs.data_key(run)}/{shard}"])
    cloud.proxy.rules.insert(0, quota(1000))
    damaged = cloud.run("deploy", "--data_dir=s3://elsewhere/sets/a", "--name=third", "--yes")
    assert damaged.status == 1
    assert f"s3://elsewhere/sets/a/{shard}: SHA-256 is" in damaged.err


# What is refused, before anything is made.


class TestRefusals:
    CASES: ClassVar = [
        (["--data_dir=/nowhere"], "holds no data set"),
        (["--data_dir=s3://nobucket/x"], "holds no data set|NoSuchBucket"),
        (["--instance_type=c5.1xlarge"], "not in us-east-1"),
        (["--instance_type=t3.micro"], "1 GiB of memory"),
        (["--instance_type=x1.32xlarge"], "--price=USD_PER_HOUR"),
        (["--flagfile=nothing.flags"], "does not exist"),
        (["--flagfile=secret.env"], "git does not track it"),
        (["--num_instances=5", "--", "--batch_size=24"], "24 cannot be shared equally"),
        (["--name=No_Good"], "give up to 32"),
        (["--nonsense"], "Unknown command line flag"),
        (["--max_hours=nan"], "--max_hours=nan: give from 0.2 to 744 hours"),
        (["--max_hours=inf"], "--max_hours=inf: give from 0.2 to 744 hours"),
        (["--max_hours=1e6"], "--max_hours=1000000.0: give from 0.2 to 744 hours"),
        (["--max_hours=0.1"], "--max_hours=0.1: give from 0.2 to 744 hours"),
        (["--price=nan"], "--price=nan: give USD for an hour"),
        (["--price=inf"], "--price=inf: give USD for an hour"),
        (["--price=-1"], "--price=-1.0: give USD for an hour"),
        (["more"], "unexpected argument 'more'"),
        (["--", "--model_dir=x"], "leave it out after --"),
        (["--", "--no_such_flag=1"], "train.py does not take"),
        (["--prefix=s3://not-there/x"], "does not exist"),
        (["--prefix=s3://not-there/x", "--dry_run"], "does not exist"),
        (["--prefix=bucket"], "give s3://BUCKET/PREFIX"),
        (["--prefix=s3://mine/a b"], "of letters, digits and"),
        (["--prefix=s3://mine/a*"], "of letters, digits and"),
    ]

    @pytest.mark.parametrize(("arguments", "message"), CASES)
    def test_says_what_is_wrong_and_makes_nothing(
        self, cloud, project, data_dir, arguments, message
    ):
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", *arguments)
        assert result.status in (1, 2)
        assert any(part in result.err for part in message.split("|")), result.err
        assert cloud.left_over() == []

    def test_a_bucket_in_another_region(self, cloud, project, data_dir):
        where = {"LocationConstraint": "eu-west-1"}
        cloud.client("s3").create_bucket(Bucket="far", CreateBucketConfiguration=where)
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--prefix=s3://far/x", "--dry_run")
        assert result.status == 1
        assert "bucket far is in eu-west-1, the instance would be in us-east-1" in result.err
        assert "export AWS_REGION=eu-west-1" in result.err

    def test_quota(self, cloud, project, data_dir):
        cloud.proxy.rules.insert(0, quota(64))
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes")
        assert result.status == 1
        assert "has 96 vCPUs; of the account's 64 for on-demand instances" in result.err
        assert cloud.left_over() == []

    def test_quota_counts_what_runs(self, cloud, deployed, data_dir):
        cloud.proxy.rules.insert(0, quota(100))
        deployed("--name=first")
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", "--name=second")
        assert result.status == 1
        assert "96 are in use" in result.err

    def test_a_shard_that_is_missing_or_cut(self, cloud, project, data_dir):
        shards = sorted(data_dir.glob("fold*"))
        shards[0].write_bytes(b"cut")
        cut = cloud.run("deploy", f"--data_dir={data_dir}", "--yes")
        assert f"{shards[0].name}: 3 bytes, the manifest says 50000 bytes" in cut.err
        shards[0].unlink()
        assert "missing" in cloud.run("deploy", f"--data_dir={data_dir}", "--yes").err
        assert cloud.left_over() == []

    def test_nobody_to_ask(self, cloud, project, data_dir, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        result = cloud.run("deploy", f"--data_dir={data_dir}")
        assert result.status == 1
        assert "pass --yes" in result.err
        assert cloud.left_over() == []

    def test_no_credentials(self, cloud, project, data_dir, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        result = cloud.run("list")
        assert result.status == 1
        assert "no AWS credentials were found" in result.err

    def test_no_region(self, cloud, monkeypatch):
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        assert "no AWS region is set" in cloud.run("list").err
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert f"{ACCOUNT}-eu-west-1, and nothing made in eu-west-1" in cloud.run("list").out


def test_a_dry_run_shows_everything_and_makes_nothing(cloud, project, data_dir):
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--dry_run", "--max_hours=2")
    assert result.status == 0
    assert "3 shards, 0.1 MB (made up)" in result.err
    assert "96 vCPUs, 192 GiB" in result.err
    assert "$4.080 an hour (table of 2026-09, on-demand)" in result.err
    assert "2 h: $8.18 at most" in result.err
    assert f"  bucket   {BUCKET}: private, encrypted\n" in result.err
    assert "in: nothing; out: ports 80 and 443" in result.err
    assert cloud.left_over() == []
    changing = ("Create", "Run", "Put", "Delete", "Authorize", "Add", "PUT", "POST")
    for request in cloud.proxy.requests:
        assert not request.action.startswith(changing)


def test_an_answer_is_waited_for(cloud, project, data_dir, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = cloud.run("deploy", f"--data_dir={data_dir}")
    assert (refused.status, refused.out) == (1, "")
    assert cloud.left_over() == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cloud.run("deploy", f"--data_dir={data_dir}").status == 0
    assert len(cloud.instances()) == 1


def test_spot_costs_what_the_market_says(cloud, project, data_dir):
    entries = "".join(
        f"<item><availabilityZone>us-east-1{zone}</availabilityZone><spotPrice>{price}</spotPrice>"
        f"<timestamp>2026-09-0{day}T00:00:00Z</timestamp></item>"
        for zone, price, day in (("a", 1.5, 2), ("b", 1.7, 2), ("b", 3.3, 1))
    )
    answer = f"<Response><spotPriceHistorySet>{entries}</spotPriceHistorySet></Response>".encode()
    cloud.proxy.rules.append(
        lambda r: Answer(200, answer) if r.action == "DescribeSpotPriceHistory" else None
    )
    result = cloud.run("deploy", f"--data_dir={data_dir}", "--spot", "--dry_run")
    assert "$1.700 an hour (spot price now, highest zone" in result.err
    assert "12 h: $20.49 at this price, which changes, before" in result.err, "nobody promises it"


def test_prices_of_the_table():
    assert prices.on_demand("us-east-1", "c5.24xlarge", 96) == pytest.approx(4.08)
    assert prices.on_demand("us-west-2", "c7i.24xlarge", 96) == pytest.approx(4.284)
    assert prices.on_demand("us-east-1", "c7g.16xlarge", 64) == pytest.approx(2.32)
    assert prices.on_demand("eu-west-1", "c5.24xlarge", 96) is None
    assert prices.on_demand("us-east-1", "c7i.metal-24xl", 96) is None


def test_what_other_runs_use_stays(cloud, deployed, tmp_path):
    first, second = deployed("--name=first"), deployed("--name=second", "--spot", "--price=1")
    third = deployed("--name=third", f"--data_dir={write_data(tmp_path / 'other', seed=1)}")
    assert cloud.run("stop", third, "--delete", "--yes").status == 0
    run = cloud.load(first)
    assert {f.name.split("/")[0] for f in cloud.root.folder("data").objects()} == {run.data}
    assert cloud.run("stop", first, "--delete", "--yes").status == 0
    assert cloud.root.find(runs.source_key(run)) is not None
    assert cloud.run("stop", second, "--delete", "--yes").status == 0
    assert cloud.left_over() == []


def test_a_bucket_of_ones_own_is_used_and_kept(cloud, deployed):
    cloud.client("s3").create_bucket(Bucket="mine")
    name = deployed("--prefix=s3://mine/some/where")
    keys = [o["Key"] for o in cloud.client("s3").list_objects_v2(Bucket="mine")["Contents"]]
    assert all(key.startswith("some/where/") for key in keys)
    assert "mine" in json.dumps(
        cloud.client("iam").get_role_policy(
            RoleName=f"emotion-tfdata-{name}-{REGION}", PolicyName="this-run"
        )["PolicyDocument"]
    )
    assert cloud.run("stop", name, "--delete", "--yes", "--prefix=s3://mine/some/where").status == 0
    assert cloud.left_over() == ["mine"]


def test_the_flagfile_is_passed_on_and_not_read(cloud, deployed, project):
    (project / "other.flags").write_text("--epochs=7\n--video=bilstm\n")
    git(project, "add", "other.flags")
    name = deployed("--flagfile", "other.flags", "--", "--seed=3")
    assert cloud.load(name).train_args == ("--flagfile=other.flags", "--seed=3")
    assert name.startswith("other-")


def test_launch_does_not_import_the_trainer(project_dir):
    for path in (project_dir / "launch").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) train\b", path.read_text(), re.MULTILINE), path
    assert ec2.PROJECT_DIR.name == "project" or (ec2.PROJECT_DIR / "train.py").is_file()
