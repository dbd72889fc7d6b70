"""What a test needs of an EC2 machine: recorders for its commands, and the services it starts."""

from __future__ import annotations

import configparser
import datetime
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fake_aws import INSTANCE_KEY, Server

from launch.aws import userdata
from launch.instance import agent, watch

_RECORDED = ("shutdown", "systemctl", "apt-get", "dnf")


class Metadata:
    """A machine's metadata service: version 2 alone, so nothing without a token."""

    def __init__(self) -> None:
        self.pages = {"meta-data/instance-id": "i-0123456789abcdef0"}
        self.refused = 0
        self._tokens: set[str] = set()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_PUT(self) -> None:
                assert self.path == "/latest/api/token"
                assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
                token = uuid.uuid4().hex
                service._tokens.add(token)
                self._answer(200, token)

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in service._tokens:
                    service.refused += 1
                    self._answer(401, "")
                    return
                page = service.pages.get(self.path.removeprefix("/latest/"))
                self._answer(404 if page is None else 200, page or "")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def give_role(self, name: str) -> None:
        """Serves credentials, as for an instance with a role."""
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=6)
        credentials = {
            **{"Code": "Success", "Type": "AWS-HMAC", "Token": "session"},
            **{"AccessKeyId": INSTANCE_KEY, "SecretAccessKey": "of-the-instance"},
            "LastUpdated": "2020-01-01T00:00:00Z",
            "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        start = "meta-data/iam/security-credentials/"
        self.pages |= {start: name, start + name: json.dumps(credentials)}

    def take_away(self, after_s: float = 120.0) -> None:
        """Puts a spot notice up."""
        at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=after_s)
        notice = {"action": "stop", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self.pages["meta-data/spot/instance-action"] = json.dumps(notice)

    def forget_tokens(self) -> None:
        """As after a stop and start."""
        self._tokens.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Recorders:
    """Commands that only note what they were called with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._calls = path / "calls"
        path.mkdir()
        self._calls.touch()
        for name in _RECORDED:
            script = path / name
            script.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._calls}"\n')
            script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


class Machine:
    """Runs a user data script and the service that it sets up, in folders of its own.

    What it leaves out of a real machine: systemd itself, the packages of apt-get or dnf, and
    downloads from a package index: both environments see this project's own packages, so that pip
    resolves, checks and installs as it would, and finds everything satisfied.
    """

    def __init__(self, path: Path, python: str, site_packages: Path, aws: dict[str, str]) -> None:
        self.root, self.units = path / "opt", path / "units"
        self.units.mkdir(parents=True)
        self.recorders = Recorders(path / "bin")
        self._environment = {
            "PATH": f"{self.recorders.path}:{os.environ['PATH']}",
            "HOME": str(path),
            "PYTHON": python,
            "EMOTION_TFDATA_ROOT": str(self.root),
            "EMOTION_TFDATA_UNITS": str(self.units),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as --no-build-isolation
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHON_OF_TEST": sys.executable,
            **aws,
        }
        for environment in (self.root / "boot", self.root / "source" / ".venv"):
            lib = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
            packages = lib / "site-packages"
            packages.mkdir(parents=True)
            (packages / "installed_before.pth").write_text(f"{site_packages}\n")
        for name in _RECORDED:
            found = shutil.which(name, path=self._environment["PATH"])
            assert found == str(self.recorders.path / name), "must never reach the real one"

    @property
    def log(self) -> str:
        return (self.root / "run.log").read_text()

    def boot(self, user_data: str) -> int:
        """Runs the script as cloud-init does; returns its status."""
        script = self.root.parent / "user-data"
        script.write_text(user_data)
        script.chmod(0o755)
        return subprocess.run(
            [str(script)], env=self._environment, cwd="/", check=False, timeout=300
        ).returncode

    def unit(self, name: str) -> configparser.SectionProxy | dict[str, Any]:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        parser.read(self.units / name)
        return {
            key: value for section in parser.sections() for key, value in parser[section].items()
        }

    def start_service(self) -> subprocess.Popen[bytes]:
        """Starts the training's service as systemd does."""
        unit = self.unit("emotion-tfdata.service")
        assert "systemctl enable --now --no-block emotion-tfdata.service" in self.recorders.calls
        more = dict(part.split("=", 1) for part in shlex.split(unit["Environment"]))
        with open(unit["StandardOutput"].removeprefix("append:"), "ab") as log:
            return subprocess.Popen(
                shlex.split(unit["ExecStart"]),
                cwd=unit["WorkingDirectory"],
                env={**self._environment, **more},
                stdout=log,
                stderr=log,
            )


TRAINER = '''
"""Stands in for train.py: the same files, the same answer to SIGTERM."""
import json, os, pathlib, signal, sys, time

flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
if "only_check_args" in flags:
    sys.exit()
model, epochs = pathlib.Path(flags["model_dir"]), int(flags.get("epochs", 3))
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
    time.sleep(float(flags.get("worker_s", 0.05)))
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
while at < epochs:
    if stop:
        print("stopped at", at, flush=True)
        sys.exit(0)
    if "fail_at" in flags and at == int(flags["fail_at"]):
        sys.exit("train.py: the loss is nan")
    time.sleep(float(flags.get("epoch_s", 0.05)))
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


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    service = Metadata()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    yield service
    service.close()


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
def recorders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorders:
    found = Recorders(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.path}:{os.environ['PATH']}")
    return found


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half minutes become moments."""
    monkeypatch.setattr("launch.run.SYNC_EVERY_S", 0.3)
    monkeypatch.setattr(watch, "_SPOT_EVERY_S", 0.1)
    monkeypatch.setattr(agent, "_TICK_S", 0.05)
