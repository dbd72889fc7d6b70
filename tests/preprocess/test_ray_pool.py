"""Work spread over two nodes of a Ray cluster, each a `ray start` of its own on this machine.

Slow, since a node takes seconds to start, and so do the processes that it starts.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest

from preprocess.builder.pool import Lost, WorkerError

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")

import ray_cluster  # noqa: E402

from preprocess.builder.ray_pool import RayPool  # noqa: E402

HERE = Path(__file__)
PATIENCE_S = 120.0
# A user's extractor, whose module the nodes find too; slow, so that a node is met at work.
OWN = "--audio_features=tests.preprocess.own_extractors:Slow"


def behave(task, marks):
    """Works, dies, hangs or takes memory, as it is told, leaving a mark each time it is tried."""
    kind, value = task
    with tempfile.NamedTemporaryFile(dir=marks, prefix=f"{kind}-{value}-", delete=False):
        pass
    if kind == "die":
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hang":
        signal.pause()
    if kind == "take":
        try:
            return len(bytearray(value * 10**6))
        except MemoryError:
            return "refused"
    if kind == "where":
        return os.environ.get("OMP_NUM_THREADS"), "tensorflow" in sys.modules
    return value


@pytest.fixture(scope="module")
def env():
    """Of processes that use Ray, whose token, logs and sockets lie in a folder of these tests."""
    with ray_cluster.environment(*HERE.parents[:3]) as own:
        yield own


@pytest.fixture(scope="module")
def cluster(env):
    with ray_cluster.Cluster(env) as started:
        yield started


def build(project_dir, corpus, out_dir, env, *flags):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "preprocess.build_tfrecords", f"--crema_d_dir={corpus}"),
            *(f"--out_dir={out_dir}", "--num_folds=2", "--max_shard_size_mb=1", *flags),
        ],
        cwd=project_dir,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(out_dir):
    return {path.name: path.read_bytes() for path in out_dir.iterdir()}


def test_two_nodes_one_killed_on_the_way(encode, project_dir, tmp_path, env, cluster):
    corpus = tmp_path / "corpus"
    clip = encode(corpus / "1001_DFA_ANG_XX.flv").path
    for actor in range(1002, 1017):
        shutil.copy(clip, corpus / f"{actor}_DFA_ANG_XX.flv")
    (corpus / "1030_DFA_ANG_XX.flv").write_bytes(clip.read_bytes()[:3000])
    local = build(project_dir, corpus, tmp_path / "local", os.environ, OWN)
    with local:
        nodes = cluster.start_nodes(2)
        output, errors = local.communicate()
        assert local.returncode == 0, errors
        assert "clips written  16 in " in output

        out_dir = tmp_path / "over nodes"
        flags = (OWN, "--runner=ray", f"--ray_address={cluster.address}")
        over_nodes = build(project_dir, corpus, out_dir, env, *flags)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(list(out_dir.glob(".work/clips/*/*.npz"))) < 3 or not cluster.works(nodes[1]):
            assert over_nodes.poll() is None, over_nodes.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        cluster.kill(nodes[1])
        output, errors = over_nodes.communicate(timeout=PATIENCE_S)
    assert over_nodes.returncode == 0, errors
    assert re.search(r" was lost; its clips go to other nodes\n", errors), errors
    assert contents(out_dir) == contents(tmp_path / "local")
    # Nodes remove their workers' logs, but for the one that was killed.
    assert len(list(Path(env["TMPDIR"]).glob("emotion_tfdata-*"))) == 1


TASKS = [("work", value) for value in range(30)]
TASKS += [("die", 0), ("hang", 0), ("take", 800), ("take", 1), ("where", 0)]


def run_tasks(marks):
    """Prints what comes of all tasks. Ray reads its token once a process: this needs its own."""
    function = functools.partial(behave, marks=marks)
    with RayPool(function, 2, Path(), 2.0, 400 * 10**6, address="local") as pool:
        results = dict(pool.run(TASKS))
        results |= dict(pool.run([("work", "again")]))
    print(repr(results))


def run_what_nodes_do_not_have(address):
    sys.modules["here_alone"] = module = types.ModuleType("here_alone")
    exec("def function(task): return task", vars(module))
    with RayPool(module.function, 1, Path(), 2.0, address=address) as pool:
        dict(pool.run([1]))


def call(code, env):
    return subprocess.run(
        [sys.executable, "-c", f"import {HERE.stem} as t; t.{code}"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


def test_a_task_can_cost_only_itself(tmp_path, env):
    marks = tmp_path / "marks"
    marks.mkdir()
    done = call(f"run_tasks({str(marks)!r})", env)
    assert done.returncode == 0, done.stderr
    results = eval(done.stdout, {"Lost": Lost})
    assert results.pop(("die", 0)) == Lost("its worker died (SIGSEGV: about to die)")
    assert results.pop(("hang", 0)) == Lost("took longer than 2 s and was stopped")
    assert results.pop(("take", 800)) == "refused"
    assert results.pop(("take", 1)) == 10**6
    assert results.pop(("where", 0)) == ("1", False)
    assert results.pop(("work", "again")) == "again"
    assert results == {("work", value): value for value in range(30)}
    for kind in ("die", "hang"):
        assert len(list(marks.glob(f"{kind}-*"))) == 2


def test_a_node_without_the_project_is_named(env, cluster):
    cluster.start_nodes(1)
    done = call(f"run_what_nodes_do_not_have({cluster.address!r})", env)
    assert re.search(
        r"WorkerError: \S+ \(\w+\) cannot work \(ModuleNotFoundError: No module named "
        r"'here_alone'\)\. Install the project there as here: pip install -c ",
        done.stderr,
    ), done.stderr


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    # Another test's may be there at this very moment, and Ray looks for any on the machine.
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda flag: set())
    with (
        pytest.raises(WorkerError, match=r"no Ray cluster .* at --ray_address=auto \(.*ray start"),
        RayPool(len, 1, tmp_path, 1.0),
    ):
        pass
    with (
        pytest.raises(WorkerError, match=r"at --ray_address=127\.0\.0\.1:9 \(.*refused\)"),
        RayPool(len, 1, tmp_path, 1.0, address="127.0.0.1:9"),
    ):
        pass
