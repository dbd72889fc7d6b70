"""TF_CONFIG: what it says, and what is wrong with it."""

from __future__ import annotations

import json

import pytest

from emotion_tfdata.training.cluster import Cluster, ClusterError, read_cluster

A, B, C = "10.0.0.1:2222", "10.0.0.2:2222", "[fd00::3]:2222"


def config(cluster, task):
    return json.dumps({"cluster": cluster, "task": task})


def task(kind="worker", index=0):
    return {"type": kind, "index": index}


def test_the_workers_stand_in_their_order():
    cluster = read_cluster(config({"worker": [A, B, C]}, task(index=2)))
    assert cluster == Cluster((A, B, C), 2)
    assert cluster.count == 3
    assert cluster.host_and_port(1) == ("10.0.0.2", 2222)
    assert cluster.host_and_port(2) == ("fd00::3", 2222)
    assert cluster.name(1) == f"worker 1 ({B})"


def test_a_job_named_chief_comes_first():
    jobs = {"worker": [B, C], "chief": [A]}
    assert read_cluster(config(jobs, task("chief"))) == Cluster((A, B, C), 0)
    assert read_cluster(config(jobs, task("worker", 1))) == Cluster((A, B, C), 2)


@pytest.mark.parametrize("text", [None, "", " \n", "{}", config({"worker": [A]}, task())])
def test_without_others_this_process_is_alone(text):
    assert read_cluster(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it needs 'cluster' and 'task'"),
        (json.dumps({"cluster": {"worker": [A, B]}}), "it needs 'cluster' and 'task'"),
        (config({"worker": [A, B], "ps": [C]}, task()), "it names jobs of ps"),
        (config({"worker": A}, task()), "worker must be a list of 'host:port'"),
        (config({"worker": [A, "10.0.0.2"]}, task()), "worker must be a list of 'host:port'"),
        (config({"worker": [A, "b:0"]}, task()), "worker must be a list of 'host:port'"),
        (config({"worker": [A, 7]}, task()), "worker must be a list of 'host:port'"),
        (config({"chief": [A, B], "worker": [C]}, task()), "there is one chief at most"),
        (config({"worker": [A, A]}, task()), "an address stands there twice"),
        (config({"worker": [A, B]}, task("evaluator")), "the task's type is 'evaluator'"),
        (config({"worker": [A, B]}, task(index=2)), "the task is worker 2, of 2 counted from 0"),
        (config({"worker": [A, B]}, task(index=-1)), "the task is worker -1"),
        (config({"worker": [A, B]}, task(index="0")), "the task is worker '0'"),
        (config({"worker": [A, B]}, task("chief")), "the task is chief 0, of 0"),
    ],
)
def test_what_is_wrong_is_said_beside_an_example(text, words):
    with pytest.raises(ClusterError) as caught:
        read_cluster(text)
    assert str(caught.value).startswith(f"TF_CONFIG: {words}")
    example = str(caught.value).partition("It looks like ")[2].partition("; unset it")[0]
    assert read_cluster(example) is not None
