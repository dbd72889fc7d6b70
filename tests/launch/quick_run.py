"""A run whose training takes moments, and the agent of one of its instances in this process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import pytest
from fake_aws import INSTANCE_KEY, REGION, Cloud, role_policy
from machine_double import Metadata, Recorders

from launch import run as runs
from launch.aws import stop, userdata
from launch.instance import agent, peers, watch
from launch.s3 import Folder

TRAINER = '''
"""Stands in for train.py: the same files, the same answer to SIGTERM."""
import json, os, pathlib, signal, sys, time

flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
if "only_check_args" in flags:
    sys.exit()
model, epochs = pathlib.Path(flags["model_dir"]), int(flags.get("epochs", 3))
# With --until, epochs beyond those go on until the test makes that file.
until = pathlib.Path(flags["until"]) if "until" in flags else None
assert (pathlib.Path(flags["data_dir"]) / "manifest.json").is_file()
stop = []
signal.signal(signal.SIGTERM, lambda *a: stop.append(1))
together = os.environ.get("TF_CONFIG")
print("TF_CONFIG", together, flush=True)
if together and json.loads(together)["task"]["index"]:
    # Another worker than the chief writes nothing, and ends when the chief does.
    if "fail_at" in flags:
        sys.exit("train.py: worker 1: the loss is nan")
    print("a worker's training", flush=True)
    time.sleep(0.05)  # as long as an epoch
    sys.exit(0)
if together and not (model / "checkpoint.npz").exists() and "others_stop" in flags:
    (model / "checkpoint.npz").write_text("1")
    print("stopped by another", flush=True)
    sys.exit(0)

def write(name, text):
    (model / (name + ".tmp")).write_text(text)
    os.replace(model / (name + ".tmp"), model / name)

write("settings.json", json.dumps({"epochs": epochs}))
checkpoint = model / "checkpoint.npz"
at = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
print("from epoch", at, flush=True)
while at < epochs or (until and not until.exists()):
    if stop:
        print("stopped at", at, flush=True)
        sys.exit(0)
    if "fail_at" in flags and at == int(flags["fail_at"]):
        sys.exit("train.py: the loss is nan")
    time.sleep(0.05)  # an epoch, that may be interrupted
    at += 1
    history = [{"epoch": e + 1, "train": {"loss": 1.5}} for e in range(at)]
    write("checkpoint.npz", json.dumps(at))
    write("history.json", json.dumps(history))
    print("epoch", at, flush=True)
(model / "tensorboard").mkdir(exist_ok=True)
(model / "tensorboard" / "events").write_text("events")
write("report.json", json.dumps({"epochs": at}))
'''

# In place of launch/venv.sh: an environment that is there at once.
VENV = """
make_venv() {
  mkdir -p "$1/bin"
  printf '#!/bin/sh\\nexec %s "$@"\\n' "$PYTHON_OF_TEST" >"$1/bin/python"
  chmod +x "$1/bin/python"
}
"""


class Instance:
    """A deployed run and its instance's folders; the agent runs in this process."""

    def __init__(
        self,
        cloud: Cloud,
        project: Path,
        data_dir: Path,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.cloud, self.root, self.name = cloud, root, ""
        self._project, self._data_dir, self._monkeypatch = project, data_dir, monkeypatch

    def deploy(self, *train_args: str, flags: Sequence[str] = ()) -> None:
        result = self.cloud.run(
            "deploy", f"--data_dir={self._data_dir}", "--yes", *flags, "--", *train_args
        )
        assert result.status == 0, result.err
        self.name = result.out.strip()
        role = f"emotion-tfdata-{self.name}-{REGION}"
        policy = self.cloud.client("iam").get_role_policy(RoleName=role, PolicyName="this-run")
        self.cloud.proxy.rules.append(role_policy(policy["PolicyDocument"]))

    @property
    def folder(self) -> Folder:
        return runs.folder(self.cloud.root, self.name)

    @property
    def status(self) -> dict[str, Any]:
        return runs.read_json(self.folder, runs.STATUS)

    @property
    def log(self) -> str:
        return (self.root / "run.log").read_text()

    def run(self, meanwhile: Callable[[], object] | None = None) -> int:
        """Runs the agent to its end, with only the role's credentials; `meanwhile` beside it."""
        self._monkeypatch.chdir(self._project)
        failures: list[BaseException] = []
        running = threading.Event()

        def guarded(act: Callable[[], object]) -> None:
            try:
                act()
            except BaseException as error:
                failures.append(error)
                if running.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        helper = threading.Thread(target=guarded, args=[meanwhile]) if meanwhile else None
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        with self._monkeypatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", INSTANCE_KEY)
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            running.set()
            try:
                bucket = self.cloud.root.bucket
                if helper:
                    helper.start()
                status = agent.main(bucket, self.name, str(self.root))
            finally:
                running.clear()
                for number, handler in before.items():
                    signal.signal(number, handler)
                if helper:
                    helper.join()
        if failures:
            raise failures[0]
        return status


@pytest.fixture
def quick_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a trainer and an environment that take no time."""
    (project / "train.py").write_text(TRAINER)
    (project / "launch" / "venv.sh").write_text(VENV)
    lock = project / "launch" / "constraints.txt"
    lock.write_text("".join(f"{name}=={version(name)}\n" for name in userdata._BOTO))
    monkeypatch.setenv("PYTHON_OF_TEST", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(project))
    return project


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half minutes become moments."""
    monkeypatch.setattr("launch.run.SYNC_EVERY_S", 0.3)
    monkeypatch.setattr(watch, "_SPOT_EVERY_S", 0.1)
    monkeypatch.setattr(agent, "_TICK_S", 0.05)
    monkeypatch.setattr(agent, "_LAST_WORD_S", 0.5)
    monkeypatch.setattr(peers, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(stop, "_POLL_S", 0.1)


@pytest.fixture
def instance(
    cloud: Cloud,
    quick_project: Path,
    quick_looks: None,
    recorders: Recorders,
    metadata: Metadata,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Instance:
    root = tmp_path / "root"
    root.mkdir()
    (root / "run.log").touch()
    return Instance(cloud, quick_project, data_dir, root, monkeypatch)
