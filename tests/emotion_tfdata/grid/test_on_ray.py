"""Trainings on two nodes of a Ray cluster, each a `ray start` of its own on this machine.

Slow, since every process that trains imports TensorFlow; the nodes are started once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from emotion_tfdata.grid import run, worker
from emotion_tfdata.grid.job import LOG, GridError, Job
from emotion_tfdata.grid.local import Local
from emotion_tfdata.grid.progress import Progress
from emotion_tfdata.training import run_dir

pytest.importorskip("ray", reason="the extra [ray] is not installed")

import ray_cluster

from emotion_tfdata.grid.on_ray import OnRay

PATIENCE_S = 400.0
# One thread each, as a node of one CPU gives; enough steps to be killed in.
SMALL = [
    *("--modalities=landmarks", "--landmarks=all", "--batch_size=12", "--epochs=12"),
    *("--model=tcn_filters=4", "--model=tcn_dilations=1", "--model=joined_units=8,8"),
    *("--early_stopping=0", "--checkpoint_every_s=0.05", "--inter_op_threads=1"),
]


# In float64, since in float32 rounding alone leads two trainings apart: one process with another
# number of threads, too. `tests/benchmarks/workers.py` does it with the whole combined model. 36
# clips an epoch, so that the last batch has 4: all of them are the first worker's.
TOGETHER = [
    *("--precision=float64", "--batch_size=16", "--epochs=15", "--early_stopping=0"),
    *("--modalities=landmarks", "--landmarks=all", "--model=tcn_filters=4"),
    *("--model=tcn_dilations=1", "--model=joined_units=8,8", "--model=bn_momentum=0.9"),
    *("--class_weights=balanced", "--clip_norm=1", "--label_smoothing=0.1"),
    *("--input_threads=1", "--checkpoint_every_s=0.1"),
]


@pytest.fixture(scope="module")
def cluster(project_dir):
    with ray_cluster.environment(project_dir) as env, ray_cluster.Cluster(env) as cluster:
        yield cluster


class Training:
    """A train.py that hands its work to the cluster."""

    def __init__(self, project_dir, cluster, data_dir, folder, *flags):
        self.folder, self._cluster = folder, cluster
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(project_dir / "train.py"), f"--data_dir={data_dir}"),
                *(f"--model_dir={folder}", "--runner=ray", f"--ray_address={cluster.address}"),
                *flags,
            ],
            env=cluster.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, is_so):
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def output(self):
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, errors
        return output


def history(folder):
    try:
        return json.loads((folder / run_dir.HISTORY).read_text())
    except FileNotFoundError:
        return []


def arrays(folder):
    with np.load(folder / run_dir.CHECKPOINT) as content:
        return {name: content[name] for name in content.files if name != "state.json"}


def what_it_came_to(folder):
    """The report but for its times, and the predictions."""
    report = json.loads((folder / "report.json").read_text())
    del report["seconds"]
    for entry in report["history"]:
        for name in ("seconds", "clips_per_s", "input_wait_share"):
            del entry[name]
    return report, (folder / "predictions.csv").read_bytes()


def free_ports(count):
    with contextlib.ExitStack() as taken:
        servers = [
            taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


def work_beside(job, addresses, index):
    """One of several workers of a training, as Ray Train starts them."""
    own = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(own)
    return worker.train(job, str(job.folder / "never"), several=True)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "127.0.0.1:none"])
def test_a_cluster_that_is_not_there_is_a_line_at_once(address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address.format(taken.getsockname()[1])
    with (
        pytest.raises(GridError, match=f"no Ray cluster .* at --ray_address={address} .*ray up"),
        OnRay(address, 0, 1),
    ):
        pass


def test_a_node_of_other_versions_or_without_the_folders_is_named_in_a_line(
    project_dir, fake_data_dir, tmp_path, monkeypatch
):
    installed = tmp_path / "numpy-9.9.9.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    # A node's processes find that first; this one does not.
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{project_dir}:{pathlib.Path(__file__).parent}")
    with OnRay("local", 1, 1) as cluster:
        said = cluster.check([f"--data_dir={fake_data_dir}"])
        assert re.fullmatch(
            r"Ray node \S+ has numpy 9\.9\.9, and the machine that asks numpy [\d.]+: install .*",
            said,
        )
        installed.joinpath("METADATA").write_text(f"Name: numpy\nVersion: {np.__version__}\n")
        data_dir = tmp_path / "elsewhere"
        said = cluster.check([f"--data_dir={data_dir}"])
        assert re.fullmatch(rf"Ray node \S+: {data_dir} does not exist .*", said)
        job = Job("one", tmp_path / "unseen" / "one", (), 1)
        cluster.start(job, tmp_path / "unseen" / ".stop")
        ((ended, said),) = cluster.wait(PATIENCE_S)
        assert ended == job
        assert re.fullmatch(r"Ray node \S+ does not see .*/unseen: --model_dir must be .*", said)


def test_two_workers_do_what_one_process_does_and_the_same_to_the_bit_with_one_killed(
    project_dir, fake_data_dir, tmp_path, cluster, parsed
):
    cluster.start_nodes(2)

    def at(folder):
        return (*TOGETHER, f"--data_dir={fake_data_dir}", f"--model_dir={folder}")

    flags = ("--workers=2", *TOGETHER)
    broken = Training(project_dir, cluster, fake_data_dir, tmp_path / "broken", *flags)
    # Uninterrupted, and without Ray: meanwhile, since all of Ray's processes take long to start.
    whole = tmp_path / "whole"
    job = Job("whole", whole, worker.with_threads(at(whole), 1), 15)
    with Local(2, 2) as local:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        both = [local._pool.schedule(work_beside, args=(job, addresses, i)) for i in (0, 1)]
        broken.wait_until(lambda: len(history(broken.folder)) >= 2)
        workers = cluster.processes("ray::RayTrainWorker")
        assert len(workers) == 2
        workers[1].kill()
        assert [one.result() for one in both] == ["", ""]
    alone = tmp_path / "alone"
    assert parsed(*at(alone)).main(["train.py"]) == 0

    output = broken.output()
    assert "1 at a time on 2 Ray nodes, 1 CPUs each of 2 workers" in output
    assert "all figures" in output
    log = (broken.folder / LOG).read_text()
    assert len(re.findall("^resumes from .*: epoch ", log, re.M)) == 1, log
    assert len(re.findall("^epoch 15/15", log, re.M)) == 1, log  # one of the two speaks
    assert [e["train"] for e in history(broken.folder)] == [e["train"] for e in history(whole)]
    for name, value in arrays(whole).items():
        assert arrays(broken.folder)[name].tobytes() == value.tobytes(), name

    assert len(history(whole)) == len(history(alone)) == 15
    for ours, theirs in zip(history(whole), history(alone), strict=True):
        for part in ("train", "selection"):
            for figure in ("loss", "accuracy"):
                assert ours[part][figure] == pytest.approx(theirs[part][figure], abs=1e-9)
        assert ours["train"]["cross_entropy"] == pytest.approx(
            theirs["train"]["cross_entropy"], abs=1e-9
        )
        assert ours["learning_rate"] == theirs["learning_rate"]
    for name, value in arrays(alone).items():
        np.testing.assert_allclose(arrays(whole)[name], value, atol=1e-9, err_msg=name)
    said = [(of / run_dir.PREDICTIONS).read_text().splitlines() for of in (alone, whole)]
    assert [line.split(",")[0] for line in said[0]] == [line.split(",")[0] for line in said[1]]


def test_a_grid_ends_the_same_to_the_bit_with_a_node_killed(
    project_dir, fake_data_dir, tmp_path, cluster
):
    folds = os.environ.get("GRID_FOLDS", "0")  # 0,1,2,3 for a grid of eight
    cells = [(seed, int(fold)) for seed in (0, 1) for fold in folds.split(",")]
    threads = ("--intra_op_threads=1", "--input_threads=1")
    here = tmp_path / "here"
    jobs = []
    for seed, fold in cells:
        folder = here / f"seed-{seed}" / f"fold-{fold}"
        flags = [f"--data_dir={fake_data_dir}", f"--model_dir={folder}", *threads, *SMALL]
        jobs.append(Job("one", folder, (*flags, f"--fold={fold}", f"--seed={seed}"), 12))
    there = tmp_path / "there"
    nodes = cluster.start_nodes(2)
    flags = (f"--folds={folds}", "--seeds=2", *SMALL)
    grid = Training(project_dir, cluster, fake_data_dir, there, *flags)

    def trains_on_the_second():
        folders = [path.parent for path in cluster.open_files(nodes[1]) if path.name == ".lock"]
        return any((folder / run_dir.CHECKPOINT).exists() for folder in folders)

    grid.wait_until(trains_on_the_second)
    cluster.kill(nodes[1])
    # In one process of this machine, while the grid ends.
    here.mkdir()
    with Local(1, len(jobs)) as local:
        assert run.Grid(here, jobs).run(local, Progress(io.StringIO()))
    assert (
        f"{len(cells)} trainings, 0 of them finished; 2 at a time on 2 Ray nodes, 1 CPUs each"
        in grid.output()
    )
    for seed, fold in cells:
        name = f"seed-{seed}/fold-{fold}"
        ours, theirs = what_it_came_to(there / name), what_it_came_to(here / name)
        assert ours == theirs, name
    logs = [log.read_text() for log in there.glob("seed-*/fold-*/train.log")]
    assert any("resumes from" in log for log in logs)  # one was lost
    assert json.loads((there / "report.json").read_text())["seeds"] == [0, 1]
