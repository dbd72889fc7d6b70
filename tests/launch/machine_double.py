"""What a test needs of an EC2 machine: recorders for its commands, and the services it starts."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_aws import INSTANCE_KEY, Server

# The machine's own, within its network.
ADDRESS = "10.1.2.3"
_RECORDED = ("shutdown", "systemctl", "apt-get", "dnf")
# What installs packages there, and the Python that is among them.
SYSTEMS = {"ubuntu": ("apt-get", "python3.10"), "amazon": ("dnf", "python3.11")}


class Metadata:
    """A machine's metadata service: version 2 alone, so nothing without a token."""

    def __init__(self) -> None:
        self.pages = {
            "meta-data/instance-id": "i-0123456789abcdef0",
            "meta-data/local-ipv4": ADDRESS,
        }
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
        # Asked to shut down, it notices at its next look.
        looks = {"poll_interval": 0.02}
        threading.Thread(target=self._server.serve_forever, kwargs=looks, daemon=True).start()

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

    def __init__(self, path: Path, names: Sequence[str] = _RECORDED) -> None:
        self.path, self.calls_path = path, path / "calls"
        path.mkdir()
        self.calls_path.touch()
        for name in names:
            _write_command(path / name, f'echo "{name} $*" >>"{self.calls_path}"')

    @property
    def calls(self) -> list[str]:
        return self.calls_path.read_text().splitlines()


class Machine:
    """Runs a user data script and the service that it sets up, in folders of its own.

    What it leaves out of a real machine: systemd itself, the packages of apt-get or dnf, and
    downloads from a package index: both environments see this project's own packages, so that pip
    resolves, checks and installs as it would, and finds everything satisfied.

    Of this machine's commands it has neither the package managers nor any Python but the system's
    own, which sees no package: its own package manager is a recorder that brings one, this
    project's under the name that it has there.
    """

    def __init__(
        self, path: Path, services: Mapping[str, str], system: str = "ubuntu", port: int = 0
    ) -> None:
        """Makes its folders.

        Args:
          path: where they are.
          services: variables that say where it finds AWS and its metadata.
          system: `ubuntu` or `amazon`.
          port: where it listens to others that train with it; 0 as on a real one.
        """
        self.root, self.units, self._console = path / "opt", path / "units", path / "console"
        self.units.mkdir(parents=True)
        manager, self.python = SYSTEMS[system]
        self.recorders = Recorders(path / "bin", ("shutdown", "systemctl", manager))
        self._packages, self._failures = path / "packages", path / "failures"
        self._packages.mkdir()
        base = getattr(sys, "_base_executable", sys.executable)
        _write_command(self._packages / self.python, f'exec "{base}" "$@"')
        self.system_python = self.recorders.path / "python3"
        _write_command(self.system_python, f'exec "{base}" -S -E "$@"')
        _write_command(
            self.recorders.path / manager,
            f'echo "{manager} $*" >>"{self.recorders.calls_path}"\n'
            f'[ ! -s "{self._failures}" ] || {{ sed -i 1d "{self._failures}"; exit 1; }}\n'
            f'case "$*" in *install*) cp "{self._packages}"/* "{self.recorders.path}" ;; esac',
        )
        _link_commands(path / "commands")
        self._environment = {
            "PATH": f"{self.recorders.path}:{path / 'commands'}",
            "HOME": str(path),
            "EMOTION_TFDATA_ROOT": str(self.root),
            "EMOTION_TFDATA_UNITS": str(self.units),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as --no-build-isolation
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHON_OF_TEST": sys.executable,
            **({"EMOTION_TFDATA_PORT": str(port)} if port else {}),
            **services,
        }
        for environment in (self.root / "boot", self.root / "source" / ".venv"):
            lib = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
            packages = lib / "site-packages"
            packages.mkdir(parents=True)
            before = f"{sysconfig.get_paths()['purelib']}\n"
            (packages / "installed_before.pth").write_text(before)
        for name in _RECORDED:
            found = shutil.which(name, path=self._environment["PATH"])
            assert found in (None, str(self.recorders.path / name)), "must never reach the real one"

    def fail_packages(self, times: int) -> None:
        """Has the package manager fail so often, before it does what it is asked."""
        self._failures.write_text("\n" * times)

    @property
    def log(self) -> str:
        return (self.root / "run.log").read_text()

    @property
    def console(self) -> str:
        """What the script left for who looks at the machine from outside."""
        return self._console.read_text()

    def boot(self, script: str) -> int:
        """Runs a first script as cloud-init does; returns its status."""
        path = self.root.parent / "user-data"
        path.write_text(script)
        path.chmod(0o755)
        with open(self._console, "wb") as console:
            return subprocess.run(
                [str(path)],
                env=self._environment,
                cwd="/",
                stdout=console,
                stderr=console,
                check=False,
                timeout=300,
            ).returncode

    def unit(self, name: str) -> dict[str, list[str]]:
        """What a unit says, each key as often as it stands there."""
        said: dict[str, list[str]] = {}
        for line in (self.units / name).read_text().splitlines():
            key, separator, value = line.partition("=")
            if separator and not line.startswith("#"):
                said.setdefault(key, []).append(value)
        return said

    def start_service(self) -> subprocess.Popen[bytes]:
        """Starts the training's service as systemd does."""
        unit = self.unit("emotion-tfdata.service")
        assert "systemctl enable --now --no-block emotion-tfdata.service" in self.recorders.calls
        (command,) = unit["ExecStart"]
        return self._start(unit, command)

    def fail_service(self) -> None:
        """Starts what the training's service starts when it fails, and waits for its end."""
        (name,) = self.unit("emotion-tfdata.service")["OnFailure"]
        unit = self.unit(name)
        for command in unit["ExecStart"]:
            status = self._start(unit, command.removeprefix("-")).wait(timeout=60)
            assert status == 0 or command.startswith("-")

    def _start(self, unit: dict[str, list[str]], command: str) -> subprocess.Popen[bytes]:
        (folder,) = unit.get("WorkingDirectory", ["/"])
        (output,) = unit.get("StandardOutput", [os.devnull])
        more = dict(part.split("=", 1) for part in shlex.split(" ".join(unit["Environment"])))
        environment = {**self._environment, **more}
        program, *arguments = shlex.split(command)
        found = shutil.which(program, path=environment["PATH"])
        assert found
        with open(output.removeprefix("append:"), "ab") as log:
            return subprocess.Popen(
                [found, *arguments], cwd=folder, env=environment, stdout=log, stderr=log
            )


def _link_commands(folder: Path) -> None:
    """This machine's commands, but those that a machine has of its own or must not reach."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for command in Path(place).glob("*"):
            link, hidden = folder / command.name, command.name.startswith("python")
            if command.name not in _RECORDED and not hidden and not link.is_symlink():
                link.symlink_to(command.absolute())


def _write_command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    service = Metadata()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    yield service
    service.close()


@pytest.fixture
def recorders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorders:
    found = Recorders(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.path}:{os.environ['PATH']}")
    return found
