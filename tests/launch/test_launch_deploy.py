"""From the command line to a stack: what is made, and what happens where AWS fails or refuses."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import threading

import pytest
from fake_aws import ACCOUNT, LOSE, REGION, Answer, error, git, write_data

from launch import aws, deploy, offers, source
from launch.aws import LaunchError


def test_a_run_is_one_stack_with_its_machine_and_its_files(cloud, project, data_dir):
    (project / "tcn.flags").write_text("--epochs=4\n")
    told = cloud.run(
        *("deploy", "--yes", "--name=one", f"--data_dir={data_dir}", "--spot", "--max_hours=2"),
        *("--", "--fold=3"),
    )
    assert (told.status, told.out) == (0, "one\n"), told.err
    asked = [r for r in cloud.proxy.requests if r.service == "s3"]
    assert len(asked) > 8
    for request in asked:
        owner = {k.lower(): v for k, v in request.headers.items()}.get(
            "x-amz-expected-bucket-owner"
        )
        is_making = (request.method, request.path) == ("PUT", f"/{cloud.root.bucket}")
        assert owner == ACCOUNT or is_making, (request.method, request.path)
    group = cloud.group("one")
    assert (group["DesiredCapacity"], len(group["Instances"])) == (1, 1)
    policy = group["MixedInstancesPolicy"]
    assert policy["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == 0
    types = [one["InstanceType"] for one in policy["LaunchTemplate"]["Overrides"]]
    assert types == ["c7i.xlarge", "c6i.xlarge", "m6i.xlarge"]
    assert len(group["VPCZoneIdentifier"].split(",")) == 6, "every zone"
    scheduled = cloud.client("autoscaling").describe_scheduled_actions()
    (deadline,) = scheduled["ScheduledUpdateGroupActions"]
    assert deadline["DesiredCapacity"] == 0
    left_s = deadline["StartTime"].timestamp() - group["CreatedTime"].timestamp()
    assert 7100 < left_s < 7300
    groups = cloud.client("ec2").describe_security_groups()["SecurityGroups"]
    (firewall,) = (one for one in groups if one["GroupName"] != "default")
    assert firewall["IpPermissions"] == [], "nothing gets in"
    command = cloud.parameters("one")["Command"]
    assert command == (
        "python train.py --flagfile=tcn.flags --fold=3 --data_dir={data} --model_dir={out}"
    )
    packed = cloud.root.folder("runs/one").read("source.tar")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.extractfile("tcn.flags").read() == b"--epochs=4\n", "as in the work tree"
        assert "secret.env" not in archive.getnames(), "untracked files stay here"
    assert source.pack(project, "true")[0] == packed, "the same files give the same bytes"


def test_the_same_call_starts_nothing_twice_and_another_run_keeps_its_name(
    cloud, deployed, project
):
    first = deployed()
    (machine,) = cloud.instances()
    assert deployed() == first
    assert [one["InstanceId"] for one in cloud.instances()] == [machine["InstanceId"]]
    assert deployed("--", "--epochs=7") != first, "named by what it runs"
    refused = cloud.run("deploy", "--yes", "--name=" + first, "--command=python -m launch.ec2")
    assert refused.status == 1
    assert f"there is another run {first} (its Command differs)" in refused.err


def test_the_same_call_resumes_where_one_was_interrupted(cloud, project, data_dir):
    arguments = ("deploy", "--yes", "--name=one", f"--data_dir={data_dir}")

    def interrupt(request):
        if request.path.endswith("00001-of-00003"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    cloud.proxy.rules.insert(0, interrupt)
    told = cloud.run(*arguments)
    cloud.proxy.rules.pop(0)
    assert told.status == 130
    assert "AWS continues with what was asked" in told.err
    assert cloud.instances() == []
    assert "one                               stopped" in cloud.run("list").out
    assert cloud.run(*arguments, "--spot", "--instance_type=m6i.large").status == 0
    assert len(cloud.proxy.of("cloudformation", "CreateStack")) == 1
    (machine,) = cloud.instances()
    assert machine["InstanceType"] == "m6i.large", "the type of the second call"
    assert cloud.parameters("one")["Spot"] == "true"


def test_data_is_uploaded_once_and_shared(cloud, deployed, data_dir):
    deployed("--name=one")
    puts = [r.path for r in cloud.proxy.of("s3", "PUT") if "/data/" in r.path]
    assert len(puts) == 4, "three shards and the manifest"
    assert puts[-1].endswith("manifest.json"), "what vouches for the others comes last"
    cloud.proxy.requests.clear()
    deployed("--name=two")
    assert not [r for r in cloud.proxy.of("s3", "PUT") if "/data/" in r.path]
    assert cloud.run("stop", "one", "--delete", "--yes").status == 0
    assert len(cloud.root.folder("data").objects()) == 4, "two has it still"

    def interrupt(request):
        if request.action == "POST" and "delete" in request.path:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    cloud.proxy.rules.insert(0, interrupt)
    assert cloud.run("stop", "two", "--delete", "--yes").status == 130
    cloud.proxy.rules.pop(0)
    assert cloud.run("stop", "two", "--delete", "--yes").status == 0, "the same call again"
    assert cloud.left_over() == [cloud.root.bucket], "nothing but the bucket"
    assert cloud.root.objects() == []


def test_data_in_s3_is_used_where_it_is_and_stays(cloud, project, data_dir):
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="theirs")
    for path in data_dir.iterdir():
        s3.upload_file(str(path), "theirs", f"sets/{path.name}")
    arguments = ("deploy", "--yes", "--name=one", "--data_dir=s3://theirs/sets/")
    assert cloud.run(*arguments).status == 0
    assert cloud.parameters("one")["DataBucket"] == "theirs"
    assert cloud.root.folder("data").objects() == []
    assert cloud.run("stop", "one", "--delete", "--yes").status == 0
    assert len(s3.list_objects_v2(Bucket="theirs")["Contents"]) == 4
    s3.delete_object(Bucket="theirs", Key="sets/fold-0-of-1.tfrecord-00001-of-00003")
    raw = cloud.run(*arguments[:3], "--data_dir=s3://theirs/raw", "--command=python -m launch.ec2")
    assert "no such folder, or no files in it" in raw.err
    missing = cloud.run(*arguments)
    assert missing.status == 1
    assert "00001-of-00003: missing; the manifest names it" in missing.err


def test_what_cannot_run_is_refused_before_anything_is_made(cloud, project, data_dir, tmp_path):
    def refused(*arguments, data=data_dir):
        told = cloud.run("deploy", "--yes", f"--data_dir={data}", *arguments)
        assert told.status == 1
        return told.err

    assert "Unknown command line flag" in refused("--", "--bad")
    assert "leave it out after --" in refused("--", "--model_dir=x")
    assert "other.flags" in refused("--flagfile=other.flags")
    assert "give its path from the project's top" in refused("--flagfile=/x/tcn.flags")
    assert "up to 32 of a-z" in cloud.run("deploy", "--name=Üp").err
    assert "holds no data set (no manifest.json)" in refused(data=project / "launch")
    assert "no such folder" in refused(data=tmp_path / "nowhere")
    assert "No closing quotation" in refused("--command=python 'x")
    assert "not in us-east-1" in refused("--instance_type=c9x.large")
    one = refused("--instance_type=c7i.xlarge,c9x.large")
    assert "c9x.large: not in this region" in one
    assert "no driver" in refused("--instance_type=g5.xlarge")
    assert "training needs 4" in refused("--instance_type=t3.small")
    assert "several architectures" in refused("--instance_type=c7g.xlarge,c7i.xlarge")
    build = "--command=python -m preprocess.build_tfrecords --out_dir={out}"
    assert "preprocess/build_tfrecords.py or " in refused(build)
    (project / "preprocess").mkdir()
    (project / "preprocess" / "build_tfrecords.py").touch()
    untracked = refused(build)
    assert "git does not track preprocess/build_tfrecords.py" in untracked
    assert "not tracked by git, so not on the machine: preprocess/build" in untracked
    git(project, "add", "preprocess")
    assert "no wheel for Graviton" in refused(build, "--instance_type=c7g.xlarge")
    assert "nobody is there to ask" in cloud.run("deploy", f"--data_dir={data_dir}").err
    shard = next(data_dir.glob("*00001-of*"))
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    assert "not the one that the manifest says" in refused()
    assert cloud.left_over() == []


def test_any_command_runs_named_by_what_it_runs(cloud, project, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clip.mp4").write_bytes(b"clip")
    (project / "preprocess").mkdir()
    (project / "preprocess" / "build_tfrecords.py").touch()
    git(project, "add", "preprocess")
    build = "python -m preprocess.build_tfrecords --ravdess_dir={data} --out_dir={out}"
    told = cloud.run("deploy", "--yes", f"--command={build}", f"--data_dir={tmp_path / 'raw'}")
    assert told.status == 0, told.err
    run = told.out.strip()
    assert run.startswith("build-tfrecords-")
    assert cloud.parameters(run)["Command"] == build
    assert cloud.instances()[0]["InstanceType"] == "c7i.xlarge"


@pytest.mark.parametrize("several", ["--folds=all", "--folds=1,3", "--seeds=3", "ablation"])
def test_several_trainings_get_the_machine_for_them(cloud, project, data_dir, several):
    arguments = [f"--data_dir={data_dir}", "--", several]
    if several == "ablation":
        ablation = project / "emotion_tfdata" / "grid" / "ablation"
        ablation.mkdir(parents=True)
        (ablation / "__main__.py").touch()
        git(project, "add", "emotion_tfdata")
        arguments = ["--command=python -m emotion_tfdata.grid.ablation --model_dir={out}"]
    told = cloud.run("deploy", "--yes", "--name=one", *arguments)
    assert told.status == 0, told.err
    assert cloud.parameters("one")["InstanceType"] == "c5.24xlarge"
    assert cloud.instances()[0]["InstanceType"] == "c5.24xlarge"
    # Two trainings can use a third of it.
    assert ("advice: 32 of 96 vCPUs" in told.err) == (several == "--folds=1,3"), told.err


def test_one_training_gets_a_small_machine_and_advice_on_a_large_one(cloud, project, data_dir):
    small = cloud.run("deploy", "--dry_run", f"--data_dir={data_dir}", "--", "--folds=2")
    assert "InstanceType=c7i.xlarge" in small.err
    assert "advice" not in small.err
    large = cloud.run(
        "deploy", "--dry_run", f"--data_dir={data_dir}", "--instance_type=c5.24xlarge"
    )
    assert "advice: 16 of 96 vCPUs are busy at most, and 4 keep the rate" in large.err


def test_a_dry_run_compares_types_and_makes_nothing(cloud, project, tmp_path):
    data = write_data(tmp_path / "d", seed=1, records=8690)
    (project / "tcn.flags").write_text("--epochs=60\n")

    def line_of(kind, *arguments):
        told = cloud.run("deploy", "--dry_run", f"--data_dir={data}", *arguments)
        assert told.status == 0, told.err
        assert "Command=python train.py" in told.err, "for AWS's console"
        return re.findall(rf"^{kind} .*", told.err, re.M)[0].split()

    # 8,690 clips, three fifths of them twice, 60 times, at 150 a second, and 10 minutes.
    one = 8690 * 1.2 * 60 / 150 / 3600
    usd = 0.145 + deploy.offers.extras_usd(30)
    kind, vcpus, gib, hours, price, total, most, *_ = line_of("c7g.xlarge")
    assert (kind, vcpus, gib, hours) == ("c7g.xlarge", "4", "8", f"{one + 1 / 6:.1f}")
    assert (price, total) == (f"${usd:.3f}", f"${usd * (one + 1 / 6):.2f}")
    assert most == f"${usd * 12:.2f}"
    several = ("--", "--folds=all", "--seeds=3")
    assert line_of("c7g.xlarge", *several)[3] == f"{15 * one + 1 / 6:.1f}", "one after the other"
    assert line_of("c7i.4xlarge", *several)[3] == f"{4 * one + 1 / 6:.1f}", "four at a time"
    assert line_of("c5.24xlarge", *several)[3] == f"{one + 1 / 6:.1f}", "all at once"
    assert cloud.left_over() == []


@pytest.mark.parametrize("lost", ["credentials", "region"])
def test_a_dry_run_needs_no_account(cloud, project, data_dir, monkeypatch, lost):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if lost == "region":
        monkeypatch.delenv("AWS_DEFAULT_REGION")
    told = cloud.run("deploy", "--dry_run", f"--data_dir={data_dir}")
    assert told.status == 0, told.err
    assert "account and network are not checked" in told.err
    assert "c7i.xlarge        4     8 " in told.err
    assert re.search("Prices: table of 20..-.., us-east-1, us-east-2, us-west-2", told.err)
    unknown = cloud.run(
        "deploy", "--dry_run", f"--data_dir={data_dir}", "--instance_type=c9g.large"
    )
    assert unknown.status == 0
    assert "arm64/" in unknown.err, "Graviton's image"
    refused = cloud.run("deploy", "--yes", f"--data_dir={data_dir}")
    assert refused.status == 1
    assert f"no AWS {lost}" in refused.err


def test_help_needs_no_boto3(project_dir):
    code = (
        "import runpy, sys; sys.modules['boto3'] = sys.modules['botocore'] = None; "
        "runpy.run_module('launch.ec2', run_name='__main__', alter_sys=True)"
    )

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=project_dir,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "--instance_type" in call("deploy", "--help").stdout
    assert "needs botocore: pip install -c launch/constraints.txt" in call("list").stderr


def test_prices_are_aws_s_own_where_they_are_to_be_had(cloud, project, data_dir):
    product = {
        "terms": {"OnDemand": {"a": {"priceDimensions": {"b": {"pricePerUnit": {"USD": "0.5"}}}}}}
    }
    content = json.dumps({"PriceList": [json.dumps(product)]}).encode()

    def rule(request):
        if request.service == "pricing":
            filters = {f["Field"]: f["Value"] for f in json.loads(request.body)["Filters"]}
            assert filters["regionCode"] == REGION
            return dataclasses.replace(error(200, "", "", "pricing"), body=content)
        return None

    cloud.proxy.rules.insert(0, rule)
    told = cloud.run("deploy", "--dry_run", f"--data_dir={data_dir}")
    assert " $0.508 " in told.err, "with disk and address"
    assert re.search(r"Prices: AWS's price list of 20\d\d-.*, us-east-1", told.err)


# Of every request that changes something or must succeed; the others may be refused.
OPTIONAL = {"GetProducts", "DescribeSpotPriceHistory"}


def test_whatever_fails_once_or_loses_its_answer_a_run_is_deployed_and_removed(
    cloud, project, data_dir
):
    """Each kind of request fails by a 503, by throttling, and loses its answer."""
    for fault in ("unavailable", "throttled", "lost"):
        seen = set()

        def rule(request, seen=seen, fault=fault):
            kind = (request.service, request.action)
            if kind in seen or request.action in OPTIONAL:
                return None
            seen.add(kind)
            if fault == "lost":
                return LOSE
            if fault == "throttled" and request.service != "s3":
                return error(400, "Throttling", "Rate exceeded", request.service)
            return error(503, "SlowDown", "", request.service)

        cloud.proxy.rules.append(rule)
        for arguments in (
            ("deploy", "--yes", "--name=one", f"--data_dir={data_dir}"),
            ("monitor", "one"),
            ("stop", "one"),
            ("resume", "one", "--yes", "--instance_type=c7i.2xlarge"),
            ("list",),
            ("stop", "one", "--delete", "--yes"),
        ):
            told = cloud.run(*arguments)
            assert told.status == 0, (fault, arguments, told.err)
            if arguments[0] in ("deploy", "resume"):
                assert len(cloud.instances()) == 1
        cloud.proxy.rules.remove(rule)
        assert len(seen) > 15
        assert cloud.left_over() == [cloud.root.bucket]


def test_whatever_is_refused_no_machine_is_left_and_the_same_call_resumes_after(
    cloud, project, data_dir
):
    """For want of permission, of each kind of request; before the upload where it can be."""
    deployment = ("deploy", "--yes", "--name=one", f"--data_dir={data_dir}")
    assert cloud.run(*deployment).status == 0
    kinds = {(r.service, r.action) for r in cloud.proxy.requests}
    # Of those that come before anything is made, two.
    first = {("ec2", "DescribeSubnets"), ("pricing", "GetProducts")}
    kinds = first | {kind for kind in kinds if kind[0] in ("autoscaling", "cloudformation", "s3")}
    assert cloud.run("stop", "one", "--delete", "--yes").status == 0
    assert ("cloudformation", "UpdateStack") in kinds
    for kind in sorted(kinds):
        refusal = error(403, "AccessDenied", f"not authorized: {kind[1]}", kind[0])
        rule = lambda r, kind=kind, no=refusal: no if (r.service, r.action) == kind else None  # noqa: E731
        cloud.proxy.rules.insert(0, rule)
        told = cloud.run(*deployment)
        cloud.proxy.rules.remove(rule)
        optional = kind[1] in OPTIONAL
        assert told.status == (0 if optional else 1), (kind, told.err)
        if not optional:
            assert "launch.ec2: " in told.err.splitlines()[-1], "one line, no traceback"
            assert cloud.instances() == [], kind
        if aws.find_stack(aws.connect(), "one"):
            assert cloud.run("stop", "one", "--delete", "--yes").status == 0
    assert cloud.run(*deployment).status == 0
    assert len(cloud.instances()) == 1


def test_a_bucket_is_never_changed(cloud, project, data_dir):
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="mine")
    arguments = ("deploy", "--yes", "--prefix=s3://mine/of", "--name=one", f"--data_dir={data_dir}")
    cloud.proxy.requests.clear()
    assert cloud.run(*arguments).status == 0
    on_bucket = {r.path for r in cloud.proxy.of("s3", "PUT") if not r.path.startswith("/mine/of/")}
    assert on_bucket == set()
    gone = cloud.run(*(a.replace("mine", "nowhere") for a in arguments))
    assert "bucket nowhere does not exist, or is not this account's" in gone.err
    cloud.proxy.rules.insert(0, lambda r: error(403, "") if r.method == "HEAD" else None)
    assert "bucket mine does not exist, or is not this account's" in cloud.run(*arguments).err
    cloud.proxy.rules.pop(0)
    elsewhere = {"x-amz-bucket-region": "eu-west-1"}
    there = Answer(200, b"", headers=elsewhere)
    cloud.proxy.rules.insert(0, lambda r: there if r.method == "HEAD" else None)
    assert "is in another region: export AWS_REGION=eu-west-1" in cloud.run(*arguments).err


def test_a_subnet_without_a_way_out_is_refused(cloud, project, data_dir):
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    (table,) = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    arguments = ("deploy", "--yes", "--name=one", f"--subnet_id={subnet}", f"--data_dir={data_dir}")
    route = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0"}

    def is_refused():
        told = cloud.run(*arguments)
        return told.status == 1 and f"{subnet}: no route to the internet, or no public" in told.err

    assert is_refused()
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    ec2.create_route(**route, GatewayId=gateway)
    assert is_refused(), "machines get no public address in it"
    assert cloud.left_over() == []
    ec2.delete_route(**route)
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]
    ec2.create_route(**route, NatGatewayId=nat["NatGatewayId"])
    assert cloud.run(*arguments).status == 0


def test_an_instance_profile_that_there_is_needs_no_permission_to_make_roles(cloud, deployed):
    deployed("--name=one", "--instance_profile=ours")
    assert cloud.client("iam").list_roles()["Roles"] == []
    (template,) = cloud.client("ec2").describe_launch_templates()["LaunchTemplates"]
    versions = cloud.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=template["LaunchTemplateId"]
    )["LaunchTemplateVersions"]
    assert versions[0]["LaunchTemplateData"]["IamInstanceProfile"] == {"Name": "ours"}


def test_by_default_only_types_that_the_region_has_are_asked_for(cloud, deployed, monkeypatch):
    monkeypatch.setattr(offers, "SMALL", ("c9x.xlarge", "m6i.xlarge"))
    deployed("--name=one")
    parameters = cloud.parameters("one")
    assert [parameters[key] for key in ("InstanceType", "LikeType1")] == ["m6i.xlarge", ""]


def test_git_is_asked_and_not_guessed(project, tmp_path, monkeypatch):
    with pytest.raises(LaunchError, match="not a git repository"):
        source.pack(tmp_path, "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="git is needed"):
        source.pack(project, "true")
