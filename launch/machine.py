"""Run the command of a run on its machine, and save its files to S3 as it goes.

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
import stat
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import boto3
import botocore.exceptions

from launch.files import Folder, check_data, s3_client

INTERRUPTED = 75
# With train.py's checkpoint every 30 seconds, S3 is never more than 60 behind.
SAVE_EVERY_S = 20.0
_TICK_S = 0.5
_STOP_COMMAND_S = 30.0
# How long to try at the end; AWS gives a machine that is interrupted about two minutes.
_LAST_SAVE_S = {"failed": 600.0, "finished": 600.0, "interrupted": 60.0}


class Machine:
    """The machine's part of a run: its command, and its files to and from S3."""

    def __init__(self, settings: dict[str, str]) -> None:
        top = Path(settings["TOP"])
        self._work, self._log = top / "work", top / "log"
        self._data, self._out = self._work / "data", self._work / "out"
        self._command = (top / "command").read_text().strip()
        self._log_name = f"{settings['started']}-{settings['id']}.txt"
        client = s3_client(boto3, settings["BUCKET"], settings["OWNER"])
        self._folder = Folder(client, settings["BUCKET"], settings["FOLDER"])
        self._data_folder = Folder(client, settings["DATA_BUCKET"], settings["DATA_FOLDER"])
        self._saved: set[tuple[int, int, int, str]] = set()
        self._status: dict[str, Any] = {"state": "fetching data", "instance_id": settings["id"]}
        self._seconds_before = 0.0
        self._is_interrupted = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)

    def run(self) -> int:
        """Run until the command ends or the machine is interrupted; return the exit status."""
        try:
            self._fetch()
            state, message, status = self._work_to_the_end()
        except Exception as error:  # whatever it is, the log must get up and the machine end
            traceback.print_exc()
            state, message, status = "failed", str(error) or repr(error), 1
        self._status |= {"state": state, "message": message, "exit_status": status}
        print(f"{state} {message}".rstrip(), flush=True)
        give_up = time.monotonic() + _LAST_SAVE_S[state]
        while not self._save() and time.monotonic() < give_up:
            time.sleep(2)
        return INTERRUPTED if state == "interrupted" else 0

    def _fetch(self) -> None:
        """Download what earlier machines saved, and the data."""
        self._seconds_before = float(self._folder.read_json("status.json").get("machine_s", 0.0))
        self._put_status()
        for path, _ in self._folder.folder("out").download_all(self._out):
            print(f"resumes from {path.name}", flush=True)
        self._saved = set(self._written())
        fetched = [path.stat().st_size for path, _ in self._data_folder.download_all(self._data)]
        checked = check_data(self._data)
        print(f"data: {sum(fetched) / 1e6:.1f} MB from {self._data_folder}; {checked}", flush=True)

    def _work_to_the_end(self) -> tuple[str, str, int | None]:
        """Run the command, saving as it goes; return state, message and its exit status."""
        command = self._command.replace("{data}", str(self._data)).replace("{out}", str(self._out))
        print(f"runs: {command}", flush=True)
        self._status["state"] = "running"
        environment = os.environ | {"PATH": f"{self._work}/venv/bin:{os.environ['PATH']}"}
        child = subprocess.Popen(shlex.split(command), env=environment, start_new_session=True)
        next_save_s = 0.0
        while child.poll() is None and not self._is_interrupted:
            if time.monotonic() >= next_save_s:
                self._save()
                next_save_s = time.monotonic() + SAVE_EVERY_S
            time.sleep(_TICK_S)
        if self._is_interrupted:
            _stop(child)
            return "interrupted", "the machine was interrupted; the next one resumes", None
        if child.returncode < 0:  # SIGKILL when memory runs out
            name = signal.Signals(-child.returncode).name
            return "failed", f"the command was ended by {name}", 128 - child.returncode
        if child.returncode:
            return "failed", f"the command ended with status {child.returncode}", child.returncode
        return "finished", "", 0

    def _save(self) -> bool:
        """Upload what has changed, the status last; return whether S3 took all of it."""
        try:
            # Oldest first, so that a report never comes before what it reports on.
            for file in sorted(set(self._written()) - self._saved):
                with open(self._out / file[-1], "rb") as content:
                    self._folder.put(f"out/{file[-1]}", content)
                self._saved.add(file)
            with open(self._log, "rb") as log:
                self._folder.put(f"log/{self._log_name}", log)
            self._put_status()
            return True
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, OSError) as e:
            print(f"upload to S3 failed, retrying: {e}", flush=True)
            return False

    def _written(self) -> list[tuple[int, int, int, str]]:
        """List the files of the command's folder: time written, size, inode and name."""
        found = []
        for path in self._out.rglob("*"):
            name = path.relative_to(self._out).as_posix()
            if any(part.startswith(".") or part.endswith(".tmp") for part in name.split("/")):
                continue  # being written, or in a folder that is
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, status.st_size, status.st_ino, name))
        return found

    def _put_status(self) -> None:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        status = self._status | {
            "updated_at": round(time.time()),
            "machine_s": round(self._seconds_before + uptime_s),
            "last_line": said[-1].strip()[:300] if said else "",
        }
        content = json.dumps(status, indent=1).encode()
        (self._work / "status.json").write_bytes(content)
        self._folder.put("status.json", content)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Terminate the command, with time to save its state, and kill it if it does not end."""
    child.terminate()
    try:
        child.wait(_STOP_COMMAND_S)
    except subprocess.TimeoutExpired:
        print("the command did not stop and was killed; its last checkpoint holds", flush=True)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(Machine(dict(os.environ)).run())
