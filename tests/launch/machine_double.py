"""What a test needs of an EC2 machine: recorders for its commands, and the services it starts."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_aws import INSTANCE_KEY, Cloud, Server

# Commands that only note what they are called with, or do less than the real ones.
_REPLACED = (
    *("apt-get", "dnf", "systemctl", "useradd", "chown", "runuser", "sleep", "shutdown"),
    "python3.12",
)


class Metadata:
    """A machine's metadata service: version 2 alone, so nothing without a token."""

    def __init__(self) -> None:
        self.pages = {"meta-data/instance-id": "i-0123456789abcdef0"}
        self.refused = 0
        self.busy = 0  # how often it knows of no credentials yet
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
                if "credentials" in self.path and service.busy:
                    service.busy -= 1
                    page = None
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

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Machine:
    """Runs a user data script and the service that it sets up, in folders of its own.

    What it leaves out of a real machine: systemd itself, another user, the packages of apt-get or
    dnf, and downloads from a package index: the environment that the script makes runs this
    project's own Python, and its pip only notes what it is asked.
    """

    def __init__(
        self, path: Path, commands: Path, services: Mapping[str, str], manager: str = "apt-get"
    ) -> None:
        """Makes its folders.

        Args:
          path: where they are.
          commands: the folder of its other commands.
          services: variables that say where it finds AWS and its metadata.
          manager: of the system's packages, `apt-get` or `dnf`.
        """
        self.top, self._units, self._bin = path / "opt", path / "units", path / "bin"
        self.calls_path, self._failures = path / "calls", path / "failures"
        for folder in (self._units, self._bin):
            folder.mkdir(parents=True)
        self.calls_path.touch()
        self._failures.touch()
        # A line of failures is how a command begins that is to fail, once.
        note = (
            'called="$(basename "$0") $*"\n'
            f'echo "$called" >>"{self.calls_path}"\n'
            f'read -r first <"{self._failures}" && case "$called" in "$first"*)\n'
            f'  sed -i 1d "{self._failures}"; exit 1 ;; esac\n'
        )
        for name in ("systemctl", "useradd", "chown", manager):
            _write_command(self._bin / name, f"{note}exit 0")
        _write_command(self._bin / "runuser", 'shift 3\nexec "$@"')
        _write_command(self._bin / "sleep", "exec /bin/sleep 0.1")
        python = path / "python"
        _write_command(python, f'{note}[ "$2" = pip ] || exec "{sys.executable}" "$@"')
        _write_command(
            self._bin / "python3.12", f'{note}mkdir -p "$3/bin"\nln -sf "{python}" "$3/bin/python"'
        )
        (path / ".curlrc").write_text("retry-max-time = 1\n")
        self._environment = {
            "PATH": f"{self._bin}:{commands}",
            "HOME": str(path),
            "EMOTION_TFDATA_TOP": str(self.top),
            "EMOTION_TFDATA_UNITS": str(self._units),
            **services,
        }

    @property
    def calls(self) -> list[str]:
        """What was called of the commands that a test must not really run."""
        return self.calls_path.read_text().splitlines()

    @property
    def log(self) -> str:
        return (self.top / "log").read_text()

    def fail(self, command: str) -> None:
        """Has a command fail that begins so, once."""
        self._failures.write_text(f"{command}\n")

    def interrupt_at(self, command: str) -> None:
        """Has the machine shut down at a command, which tells all that runs to end."""
        _write_command(self._bin / command, 'kill -TERM "$PPID"; exit 143')

    def boot(self, script: str) -> int:
        """Runs a script as cloud-init does; returns its status."""
        path = self.top.parent / "user-data"
        path.write_text(script)
        path.chmod(0o755)
        done = subprocess.run(
            [str(path)],
            env=self._environment,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
        )
        self.console = done.stdout.decode()
        return done.returncode

    def start_service(self) -> subprocess.Popen[bytes]:
        """Starts the run's service as systemd does."""
        assert "systemctl enable --now --no-block emotion-tfdata.service" in self.calls
        return self._start(self._unit["ExecStart"], {})

    def end_service(self, service: subprocess.Popen[bytes]) -> int:
        """Waits for the service and does what systemd does after it; returns its status."""
        status = service.wait(timeout=120)
        after = self._unit["ExecStopPost"].removeprefix("+")
        result = {"SERVICE_RESULT": "exit-code", "EXIT_STATUS": str(status)}
        assert self._start(after, result).wait(timeout=60) == 0, self.log
        return status

    @property
    def _unit(self) -> dict[str, str]:
        lines = (self._units / "emotion-tfdata.service").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def _start(self, command: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        unit = self._unit
        lines = Path(unit["EnvironmentFile"]).read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines)
        settings["SIGNAL"] = settings["SIGNAL"].strip("'")
        with open(unit["StandardOutput"].removeprefix("append:"), "ab") as log:
            return subprocess.Popen(
                shlex.split(command),
                cwd=unit["WorkingDirectory"],
                env={**self._environment, **settings, **more},
                stdout=log,
                stderr=log,
            )


def _write_command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    service = Metadata()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    yield service
    service.close()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's commands, but for those that a test must not really run."""
    folder = tmp_path_factory.mktemp("commands")
    for place in os.environ["PATH"].split(os.pathsep):
        for command in Path(place).glob("*"):
            link = folder / command.name
            if command.name not in _REPLACED and not link.is_symlink():
                link.symlink_to(command.absolute())
    return folder


@pytest.fixture
def machine(
    tmp_path: Path, commands: Path, cloud: Cloud, metadata: Metadata
) -> Callable[..., Machine]:
    """Makes machines, each with the credentials of its role alone."""
    metadata.give_role("the-role-of-the-run")

    def make(name: str = "machine", **about: Any) -> Machine:
        services = {
            "AWS_ENDPOINT_URL": cloud.proxy.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
        }
        return Machine(tmp_path / name, commands, services, **about)

    return make
