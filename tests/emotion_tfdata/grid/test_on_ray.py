"""A grid of trainings over two nodes of a Ray cluster, each a `ray start` of its own here."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest

from emotion_tfdata.grid import run
from emotion_tfdata.grid.job import GridError, Job
from emotion_tfdata.grid.local import Local
from emotion_tfdata.grid.progress import Progress

pytest.importorskip("ray", reason="the extra [ray] is not installed")

from emotion_tfdata.grid.on_ray import OnRay

RAY = Path(sysconfig.get_path("scripts")) / "ray"
PATIENCE_S = 400.0
# One thread each, as a node of one CPU gives; enough steps to be killed in.
SMALL = [
    *("--modalities=landmarks", "--landmarks=all", "--batch_size=12", "--epochs=12"),
    *("--model=tcn_filters=4", "--model=tcn_dilations=1", "--model=joined_units=8,8"),
    *("--early_stopping=0", "--checkpoint_every_s=0.05", "--inter_op_threads=1"),
]


@pytest.fixture
def env(project_dir):
    """Of processes that use Ray, whose token, logs and sockets lie in a folder of the test."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets must be short
    own = {"HOME": folder, "TMPDIR": folder, "RAY_AUTH_MODE": "token"}
    yield {**os.environ, **own, "PYTHONPATH": str(project_dir)}
    shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Nodes in processes of their own, started as README says."""

    def __init__(self, env):
        self._env, self._nodes, self.address = env, [], None

    def start_node(self):
        """Starts one; the first is the head."""
        flags = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
        if self.address:
            flags.append(f"--address={self.address}")
        else:
            flags += ["--head", "--port=0", "--include-dashboard=false"]
        node = subprocess.Popen(
            [RAY, "start", *flags, "--block"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env,
            start_new_session=True,
        )
        self._nodes.append(node)
        lines = []
        for line in node.stdout:
            lines.append(line)
            found = re.search(r"ray start --address='(\S+)'", line)
            if found:
                self.address = found[1]
            if "will now block" in line:
                return node
        raise AssertionError("".join(lines))

    def kill(self, node):
        """Kills a node and all that runs on it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        node.stdout.close()

    def __enter__(self):
        subprocess.run(
            [RAY, "get-auth-token", "--generate"], check=True, capture_output=True, env=self._env
        )
        return self

    def __exit__(self, *_):
        for node in self._nodes[::-1]:
            if node.returncode is None:
                self.kill(node)


def what_it_came_to(folder):
    """The report but for its times, and the predictions."""
    report = json.loads((folder / "report.json").read_text())
    del report["seconds"]
    for entry in report["history"]:
        for name in ("seconds", "clips_per_s", "input_wait_share"):
            del entry[name]
    return report, (folder / "predictions.csv").read_bytes()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "127.0.0.1:none"])
def test_a_cluster_that_is_not_there_is_a_line_at_once(address):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address.format(taken.getsockname()[1])
    with (
        pytest.raises(GridError, match=f"no Ray cluster .* at --ray_address={address} .*ray up"),
        OnRay(address, 0, 1),
    ):
        pass


def test_a_grid_ends_the_same_to_the_bit_with_a_node_killed(
    project_dir, fake_data_dir, tmp_path, env
):
    folds = os.environ.get("GRID_FOLDS", "0,1")  # 0,1,2,3 for a grid of eight
    cells = [(seed, int(fold)) for seed in (0, 1) for fold in folds.split(",")]
    threads = ("--intra_op_threads=1", "--input_threads=1")
    here = tmp_path / "here"
    jobs = []
    for seed, fold in cells:
        folder = here / f"seed-{seed}" / f"fold-{fold}"
        flags = [f"--data_dir={fake_data_dir}", f"--model_dir={folder}", *threads, *SMALL]
        jobs.append(Job("one", folder, (*flags, f"--fold={fold}", f"--seed={seed}"), 12))
    here.mkdir()
    with Local(1, len(jobs)) as local:
        assert run.Grid(here, jobs).run(local, Progress(io.StringIO()))
    there = tmp_path / "there"
    with Cluster(env) as cluster:
        nodes = [cluster.start_node() for _ in range(2)]
        grid = subprocess.Popen(
            [
                *(sys.executable, str(project_dir / "train.py"), f"--data_dir={fake_data_dir}"),
                *(f"--model_dir={there}", f"--folds={folds}", "--seeds=2", *SMALL),
                *("--runner=ray", f"--ray_address={cluster.address}"),
            ],
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline_s = time.monotonic() + PATIENCE_S
        while len(list(there.glob("seed-*/fold-*/checkpoint.npz"))) < 2:
            assert grid.poll() is None, grid.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        cluster.kill(nodes[1])
        output, errors = grid.communicate(timeout=PATIENCE_S)
    assert grid.returncode == 0, errors
    assert (
        f"{len(cells)} trainings, 0 of them finished; 2 at a time on 2 Ray nodes, 1 CPUs each"
        in output
    )
    for seed, fold in cells:
        name = f"seed-{seed}/fold-{fold}"
        ours, theirs = what_it_came_to(there / name), what_it_came_to(here / name)
        assert ours == theirs, name
    logs = [log.read_text() for log in there.glob("seed-*/fold-*/train.log")]
    assert any("goes on from" in log for log in logs)  # one was lost and resumed
    assert json.loads((there / "report.json").read_text())["seeds"] == [0, 1]
