"""What `stop --delete` removes, what it leaves to its owner, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
from fake_aws import ACCOUNT, REGION, write_data

from launch import run as runs

BUCKET = f"emotion-tfdata-{ACCOUNT}-{REGION}"


@pytest.fixture
def mine(cloud, data_dir):
    """A bucket of the caller's, with a data set and more where this tool has its folders."""
    client = cloud.client("s3")
    client.create_bucket(Bucket="mine")
    for path in data_dir.iterdir():
        client.put_object(Bucket="mine", Key=f"data/both/{path.name}", Body=path.read_bytes())
    others = [f"data/{'0' * 64}/notes.txt", "data/thesis.docx", "source/photo.jpg", "readme"]
    for key in others:
        client.put_object(Bucket="mine", Key=key, Body=b"dear")
    return _keys(cloud)


def _keys(cloud, bucket="mine"):
    pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def test_what_the_caller_has_beside_stays(cloud, deployed, mine):
    given = ("--prefix=s3://mine", "--data_dir=s3://mine/data/both")
    name = deployed(*given, "--name=r1")
    assert _keys(cloud) > mine
    assert cloud.run("stop", name, "--delete", "--prefix=s3://mine", "--yes").status == 0
    assert _keys(cloud) == mine
    assert cloud.left_over() == ["mine"]


def test_data_that_was_given_where_it_is_trained_on_stays(cloud, deployed, mine, data_dir):
    name = deployed("--prefix=s3://mine", "--name=r1")
    run = runs.load(type(cloud.root)(cloud.client("s3"), "mine", ""), name)
    place = runs.data_key(run)
    second = deployed("--prefix=s3://mine", f"--data_dir=s3://mine/{place}", "--name=r2")
    for one in (name, second):
        assert cloud.run("stop", one, "--delete", "--prefix=s3://mine", "--yes").status == 0
    assert _keys(cloud) == mine | {f"{place}/{path.name}" for path in data_dir.iterdir()}


def test_a_run_that_is_not_there_is_refused_and_nothing_removed(cloud, deployed, mine):
    deployed("--prefix=s3://mine", "--name=r1")
    before, asked = _keys(cloud), len(cloud.proxy.requests)
    for arguments in (["--delete", "--yes"], []):
        result = cloud.run("stop", "typo", "--prefix=s3://mine", *arguments)
        assert result.status == 1
        assert "there is no run typo in s3://mine, and nothing of that name in" in result.err
    assert _keys(cloud) == before
    assert not [r for r in cloud.proxy.requests[asked:] if r.action.startswith(("Del", "DEL"))]


def test_what_is_going_down_is_waited_for(cloud, deployed):
    """A security group cannot be removed while an instance has it."""
    name = deployed()
    (instance,) = cloud.instances()
    assert cloud.run("stop", name).status == 0
    asked = len(cloud.proxy.requests)

    def is_going_down(request):
        """What EC2 says for a minute, and moto at no time."""
        if request.action != "DescribeInstances" or b"shutting-down" not in request.body:
            return None
        body = request.body.replace(b"shutting-down", b"terminated")
        length = {**request.headers, "Content-Length": str(len(body))}
        answer = cloud.proxy.forward(dataclasses.replace(request, body=body, headers=length))
        state = answer.body.replace(b"<name>terminated<", b"<name>shutting-down<")
        return dataclasses.replace(answer, body=state)

    cloud.proxy.rules.append(is_going_down)
    assert cloud.run("stop", name, "--delete", "--yes").status == 0
    requests = cloud.proxy.requests[asked:]
    waited = [
        number
        for number, request in enumerate(requests)
        if request.action == "DescribeInstances"
        and request.form.get("InstanceId.1") == instance["InstanceId"]
    ]
    removed = [request.action for request in requests].index("DeleteSecurityGroup")
    assert waited, "its end was looked for"
    assert max(waited) < removed
    assert cloud.left_over() == []


def test_an_empty_bucket_left_by_a_broken_off_deployment_is_removed(cloud, project):
    cloud.client("s3").create_bucket(Bucket=BUCKET)
    result = cloud.run("stop", "broken", "--delete", "--yes")
    assert result.status == 0
    assert f"  bucket {BUCKET}, which holds nothing else\n" in result.err
    assert cloud.left_over() == []


def test_what_is_going_to_be_removed_is_named(cloud, deployed, tmp_path):
    first = deployed("--name=first")
    other = deployed("--name=other", f"--data_dir={write_data(tmp_path / 'other', seed=1)}")
    shown = cloud.run("stop", other, "--delete", "--dry_run").err.splitlines()
    run, (instance,) = (
        cloud.load(other),
        [
            one
            for one in cloud.instances()
            if {"Key": "emotion_tfdata:run", "Value": other} in one["Tags"]
        ],
    )
    assert shown[0] == "removes, for good (first: fetch other):"
    assert f"  {instance['InstanceId']} (running)" in shown
    assert "  role" in shown
    assert f"  s3://{BUCKET}/runs/other: 2 files, checkpoints and report too" in shown
    assert f"  s3://{BUCKET}/data/{run.data}: 4 files" in shown
    assert not any("/source/" in line for line in shown), f"{first} needs it"
    assert not any("  bucket" in line for line in shown)
    cloud.run("stop", first, "--delete", "--yes")
    shown = cloud.run("stop", other, "--delete", "--dry_run").err
    assert f"  s3://{BUCKET}/source/{run.source}.tar: 1 file\n" in shown
    assert f"  bucket {BUCKET}, which holds nothing else\n" in shown
    assert cloud.run("stop", other, "--delete", "--yes").status == 0
    assert cloud.left_over() == []
