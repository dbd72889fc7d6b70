"""Runs a run's command on its machine and keeps what it makes in S3: the machine's one service.

    python -m launch.machine

Started by the script in launch/stack.yaml, with its settings in the environment. Exits with 0 when
the run is over, and with 75 when the machine is interrupted, so that the next one resumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import Any

import boto3
import botocore.exceptions

from launch.files import RETRIES, FileError, Folder, check_data

INTERRUPTED = 75
# With train.py's checkpoint every 30 seconds, S3 is never more than 60 behind.
SYNC_EVERY_S = 20.0
_TICK_S = 0.5
_NOTICE_EVERY_S = 5.0
_STOP_COMMAND_S = 30.0
_RETRY_S = 2.0
_PATIENCE_S = 300.0
# Two minutes pass from a spot notice to the end, and a few from a shutdown.
_LAST_SAVE_S = {"failed": 600.0, "finished": 600.0, "interrupted": 60.0}
_TROUBLE = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError)


class Machine:
    """One machine of a run."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings
        self._data_sha256 = settings["DATA_SHA256"]
        self._id, self._log_name = settings["id"], f"{settings['started']}-{settings['id']}.txt"
        self._imds = settings.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")
        top = Path(settings["TOP"])
        self._work, self._log = top / "work", top / "log"
        self._command = (top / "command").read_text().strip()
        self._data, self._out = self._work / "data", self._work / "out"
        self._sent: dict[str, tuple[int, ...]] = {}
        self._state, self._message = "fetching data", ""
        self._exit_status: int | None = None
        self._seconds_before = 0.0
        self._next_sync_s = self._next_notice_s = 0.0
        self._is_signalled = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)

    def run(self) -> int:
        """Works until the run is over or the machine is interrupted; returns the exit status."""
        try:
            self._fetch_patiently()
            self._state = "running"
            is_over = self._work_to_the_end()
        except (FileError, *_TROUBLE) as error:
            is_over = True
            self._end("failed", str(error), 1)
        except Exception as error:  # whatever it is, the log must get up and the machine end
            traceback.print_exc()
            is_over = True
            self._end("failed", repr(error), 1)
        if not is_over:
            self._end("interrupted", "the machine was interrupted; the next one resumes", None)
        print(f"{self._state} {self._message}".rstrip(), flush=True)
        give_up = time.monotonic() + _LAST_SAVE_S[self._state]
        while not self._sync() and time.monotonic() < give_up:
            time.sleep(_RETRY_S)
            with contextlib.suppress(*_TROUBLE):
                self._connect()
        return 0 if is_over else INTERRUPTED

    def _connect(self) -> None:
        """Anew after trouble: a client that found no credentials never gets any."""
        settings, client = self._settings, boto3.client("s3", config=RETRIES)
        self.folder = Folder(client, settings["BUCKET"], settings["FOLDER"], settings["OWNER"])
        # A data set may be in somebody else's bucket.
        is_own = settings["DATA_BUCKET"] == settings["BUCKET"]
        self.data_folder = Folder(
            *(client, settings["DATA_BUCKET"], settings["DATA_FOLDER"]),
            settings["OWNER"] if is_own else "",
        )

    def _fetch_patiently(self) -> None:
        """Credentials, a role or S3 may take a while, as just after a start."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._fetch()
                return
            except _TROUBLE as error:
                if self._is_signalled or time.monotonic() > give_up:
                    raise
                print(f"not reached, retrying: {error}", flush=True)
                time.sleep(_RETRY_S)

    def _fetch(self) -> None:
        self._connect()
        before = self.folder.read_json("status.json")
        self._seconds_before = float(before.get("machine_s", 0.0))
        self._push_status()
        for path, found, is_new in self.folder.folder("out").download_all(self._out):
            if is_new:
                print(f"resumes from {path.name} ({found.bytes / 1e6:.1f} MB)", flush=True)
            self._sent[found.name] = _version(path)
        if not self.data_folder.bucket:
            return
        megabytes = 0.0
        for _, found, _ in self.data_folder.download_all(self._data):
            megabytes += found.bytes / 1e6
        checked = check_data(self._data, self._data_sha256)
        print(f"data: {megabytes:.1f} MB from {self.data_folder}; {checked}", flush=True)

    def _work_to_the_end(self) -> bool:
        """Whether the run is over; else the machine is interrupted."""
        places = {"{data}": str(self._data), "{out}": str(self._out)}
        command = self._command
        for name, place in places.items():
            command = command.replace(name, place)
        print(f"runs: {command}", flush=True)
        path = f"{self._work / 'venv' / 'bin'}:{os.environ['PATH']}"
        child = subprocess.Popen(
            shlex.split(command), env={**os.environ, "PATH": path}, start_new_session=True
        )
        try:
            while child.poll() is None:
                if self._is_interrupted():
                    return False
                if time.monotonic() >= self._next_sync_s:
                    self._sync()
                time.sleep(_TICK_S)
        finally:
            _stop(child)
        if child.returncode == 0:
            self._end("finished", "", 0)
        elif child.returncode < 0:  # SIGKILL when memory runs out
            name = signal.Signals(-child.returncode).name
            self._end("failed", f"the command was ended by {name}", 128 - child.returncode)
        else:
            status = child.returncode
            self._end("failed", f"the command ended with status {status}", status)
        return True

    def _is_interrupted(self) -> bool:
        if self._is_signalled or time.monotonic() < self._next_notice_s:
            return self._is_signalled
        self._next_notice_s = time.monotonic() + _NOTICE_EVERY_S
        try:
            token = self._ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
            header = {"X-aws-ec2-metadata-token": token}
            return bool(self._ask("meta-data/spot/instance-action", "GET", header))
        except OSError:
            return False  # no notice, or no answer; asked again at the next look

    def _ask(self, page: str, method: str, headers: dict[str, str]) -> str:
        url = f"{self._imds}/latest/{page}"
        request = urllib.request.Request(url, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.read().decode())

    def _end(self, state: str, message: str, exit_status: int | None) -> None:
        self._state, self._message, self._exit_status = state, message, exit_status

    def _sync(self) -> bool:
        """Brings up what has changed, the status last; whether S3 took all of it."""
        self._next_sync_s = time.monotonic() + SYNC_EVERY_S
        try:
            self._push_out()
            with open(self._log, "rb") as log:
                self.folder.put(f"log/{self._log_name}", log)
            self._push_status()
            return True
        except _TROUBLE as error:
            print(f"upload to S3 failed, retrying: {error}", flush=True)
            return False

    def _push_out(self) -> None:
        """Sends new files oldest first, so that a report never comes before what it reports on."""
        paths = [path for path in self._out.rglob("*") if not _is_temporary(path, self._out)]
        for path in sorted(paths, key=_written_at):
            name = path.relative_to(self._out).as_posix()
            try:
                with open(path, "rb") as file:  # stays the same file where another replaces it
                    version = _version(file.fileno())
                    if self._sent.get(name) != version:
                        self.folder.put(f"out/{name}", file)
                        self._sent[name] = version
            except (FileNotFoundError, IsADirectoryError):
                continue  # a folder, or replaced meanwhile: the next call sees what it is now

    def _push_status(self) -> None:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        status = {
            "state": self._state,
            "message": self._message,
            "exit_status": self._exit_status,
            "instance_id": self._id,
            "updated_at": round(time.time()),
            "machine_s": round(self._seconds_before + uptime),
            "last_line": _last_line(self._log),
            **progress(self._out),
        }
        content = json.dumps(status, indent=1).encode()
        (self._work / "status.json").write_bytes(content)
        self.folder.put("status.json", content)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_signalled = True


def progress(model_dir: Path) -> dict[str, Any]:
    """The newest epoch of a training: `epoch`, `epochs`, `metrics`, `training`; else empty.

    train.py keeps `history.json`, an entry an epoch, and `settings.json`; of several trainings each
    has a folder, such as `seed-0/fold-1`.
    """
    try:
        newest = max(model_dir.rglob("history.json"), key=lambda path: path.stat().st_mtime_ns)
        history = json.loads(newest.read_text())
        found = {"epochs": json.loads((newest.parent / "settings.json").read_text())["epochs"]}
    except (OSError, ValueError, KeyError):
        return {}  # no training, or being written
    if history:
        found |= {"epoch": history[-1].get("epoch"), "metrics": history[-1]}
    if newest.parent != model_dir:
        found["training"] = newest.parent.relative_to(model_dir).as_posix()
    return found


def _last_line(log: Path) -> str:
    """The log's last line that says something; empty for none."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ends the command and what it started; it has the time to save its state."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_STOP_COMMAND_S)
        except subprocess.TimeoutExpired:
            print("the command did not stop and was killed; its last checkpoint holds", flush=True)
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _version(file: int | Path) -> tuple[int, ...]:
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_temporary(path: Path, top: Path) -> bool:
    """Whether it is being written, or lies in a folder that is."""
    parts = path.relative_to(top).parts
    return any(part.startswith(".") or part.endswith(".tmp") for part in parts)


if __name__ == "__main__":
    sys.exit(Machine(dict(os.environ)).run())
