"""Two instances that really train one model: each booted, found by the other, its train.py real.

They are of Amazon Linux; one of Ubuntu is in test_launch_userdata.py.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
import socket

import pytest
from machine_double import Metadata
from quick_run import VENV
from whole_run import SMALL, deploy, role, user_data, without_waits

from launch import run as runs

# Both are on this machine, and what listens does so at all of its addresses.
ADDRESSES = ("127.0.0.1", "127.0.0.2")


@pytest.fixture
def pair(machines):
    """Two machines, each with a metadata service of its own; and how to boot them for a run."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("", 0))) for _ in ADDRESSES]
        ports = [one.getsockname()[1] for one in held]
    with contextlib.ExitStack() as stack:
        made = []
        for worker, (address, port) in enumerate(zip(ADDRESSES, ports, strict=True)):
            metadata = stack.enter_context(contextlib.closing(Metadata()))
            metadata.pages["meta-data/local-ipv4"] = address
            machine = machines(metadata, f"machine-{worker}", system="amazon", port=port)
            made.append((machine, metadata, f"{address}:{port}"))
        yield made


@pytest.fixture
def services():
    """The services that were started; ended whatever happens."""
    started = []
    yield started
    for service in started:
        if service.poll() is None:
            service.terminate()
    for service in started:
        service.wait(timeout=60)


def test_two_instances_train_one_model_and_end_themselves(
    cloud, pair, services, whole_project, fake_data_dir, tmp_path
):
    (whole_project / "launch" / "venv.sh").write_text(VENV)  # train.py is the real one
    flags = ["--os=amazon", "--num_instances=2", "--flagfile=quick.flags"]
    given = [f"--data_dir={fake_data_dir}", "--", "--batch_size=8", *SMALL]
    name = deploy(cloud, *flags, *given)
    # As when the first machine's own agent updates itself just then, without dnf's lock.
    pair[0][0].fail_packages(2)
    for (machine, metadata, _), script in zip(pair, user_data(cloud), strict=True):
        metadata.give_role(role(name))
        assert machine.boot(without_waits(script)) == 0, machine.log
    for tries, (machine, _, _) in zip((3, 1), pair, strict=True):
        calls = [c for c in machine.recorders.calls if not c.startswith(("systemctl", "shutdown"))]
        assert calls == tries * ["dnf install -y python3.11 python3.11-pip mesa-libGL glib2"]
        environment = " ".join(machine.unit("emotion-tfdata.service")["Environment"]).split()
        assert f"PYTHON={machine.recorders.path / 'python3.11'}" in environment
        assert f"TMPDIR={machine.root / 'tmp'}" in environment, "/tmp is in memory there"
        assert "PIP_NO_CACHE_DIR=1" in environment
    for machine, _, _ in pair:
        services.append(machine.start_service())
    logs = [machine.log for machine, _, _ in pair]
    assert [service.wait(timeout=300) for service in services] == [0, 0], logs

    logs = [machine.log for machine, _, _ in pair]
    for worker, (log, (machine, _, _)) in enumerate(zip(logs, pair, strict=True)):
        config = json.loads(re.search("all are there: (.*)$", log, re.M)[1])
        assert config["cluster"] == {"worker": [address for *_, address in pair]}
        assert config["task"] == {"type": "worker", "index": worker}
        assert machine.recorders.calls[-1] == "shutdown -h now"
        assert log.endswith(" finished\n" if worker == 0 else " finished with worker 0\n")
    # Alone, the second would have spoken, and written what the first one did.
    assert "epoch 1/1" in logs[0]
    assert "epoch 1/1" not in logs[1]
    assert logs[1].count("training: ") == 1, "where all is done it does not begin again"
    assert [any((machine.root / "model").iterdir()) for machine, _, _ in pair] == [True, False]

    seen = cloud.run("monitor", name).out
    assert f"{name}  finished" in seen
    assert "2 x c5.24xlarge" in seen
    assert "epoch      1 of 1" in seen
    out_dir = tmp_path / "fetched"
    assert cloud.run("fetch", name, f"--out_dir={out_dir}").status == 0
    run, model = cloud.load(name), pair[0][0].root / "model"
    for file in ("report.json", "checkpoint.npz", "predictions.csv"):
        assert (out_dir / file).read_bytes() == (model / file).read_bytes()
    for worker, log in enumerate(logs):
        assert (out_dir / run.log_of(worker)).read_text() == log
    # Each predicted its rows of every batch: the clips of both are in the report.
    with open(out_dir / "predictions.csv", newline="") as file:
        said = list(csv.DictReader(file))
    report = json.loads((out_dir / "report.json").read_text())
    assert len(said) == report["held_out"]["clips"] == 6
    assert runs.read_json(runs.folder(cloud.root, name), runs.STATUS)["exit_status"] == 0
