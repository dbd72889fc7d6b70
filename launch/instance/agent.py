"""Installs, trains, saves to S3, and ends the instance. The instance's one service.

    python -m launch.instance.agent BUCKET RUN ROOT [PREFIX]

Runs in the folder of the project's source. Standard library and boto3 alone. Of several instances
that train one model, WORKER in the environment says which this is; worker 0 keeps the run's status
and files, and when it has ended, the others do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from launch import run as runs
from launch.instance import peers, progress, watch
from launch.instance.metadata import Metadata
from launch.instance.mirror import Mirror
from launch.instance.status import Status
from launch.s3 import RETRIES, Folder, S3Error

_TICK_S = 0.5
# train.py has 20 seconds to save its state.
_STOP_CHILD_S = 30
# How long the last save is tried while S3 does not take it.
_SAVE_FOR_S = {watch.SPOT: 90, watch.SIGNAL: 40}
_SAVE_FOR_LONG_S = 600
# The others are started within minutes of each other; who cannot be set up may never speak.
_PEERS_S = 1800
# How long another worker than 0, its train.py done, waits for worker 0 to say that all is.
_LAST_WORD_S = 30
# A machine that was to be taken away and is not trains on after this.
_REPRIEVE_S = 180

_TROUBLE = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, S3Error, OSError)
# Between two looks at the training: a save that fails is tried again at the next.
_QUICK = RETRIES.merge(
    Config(
        retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=5, read_timeout=10
    )
)


class PhaseError(Exception):
    """Something that the training needs did not come about; says what, and with which status."""

    def __init__(self, what: str, status: int) -> None:
        super().__init__(what)
        self.status = status


class Agent:
    """One attempt of a run, on this instance."""

    def __init__(self, bucket: str, name: str, root: Path, prefix: str) -> None:
        self._place = [bucket, name, str(root), prefix]
        top = Folder(boto3.client("s3", config=RETRIES), bucket, prefix)
        run = runs.load(top, name)
        if run is None:
            raise SystemExit(f"{runs.folder(top, name)}/{runs.RUN} is not there")
        self._run = run
        self._worker = int(os.environ.get("WORKER", "0"))
        self._folder = runs.folder(top, name)
        quick = Folder(boto3.client("s3", config=_QUICK), bucket, self._folder.prefix)
        self._quick = quick
        self._data, self._model, self._log = root / "data", root / "model", root / "run.log"
        self._model.mkdir(parents=True, exist_ok=True)
        self._mirror = Mirror(self._model, quick.folder("model"))
        metadata = Metadata()
        self._watch = watch.Watch(
            run.deadline, metadata, self._is_stop_asked, min(10.0, runs.SYNC_EVERY_S)
        )
        self._status = Status(run, self._read(runs.status_of(self._worker)), metadata.instance_id())
        self._peers = peers.Peers(run, self._worker, quick, metadata)
        self._next_sync_s = 0.0

    def run(self) -> int:
        """Works until the run ends or the machine is taken away; returns the exit status."""
        if self._status.is_ended:
            self._note(f"this attempt has ended: {self._status.state}")
            if kept := self._end_spot_request():
                self._note(kept)
            self._end_instance()
            return 0
        while True:
            reason = self._try_to_finish()
            if reason not in (watch.SPOT, watch.SIGNAL):
                break
            self._status.set(runs.INTERRUPTED, message=f"the instance is taken away ({reason})")
            self._save(_SAVE_FOR_S[reason])
            until_s = self._watch.interruption_s + _REPRIEVE_S
            if reason == watch.SIGNAL or self._watch.wait_for_signal(until_s):
                return 0
            self._note("the instance was not taken away after all")
        if reason == watch.ASKED and (ending := self._chief_ending()):
            self._status.set(ending, message="with worker 0")
        elif reason:
            ending = runs.STOPPED if reason == watch.ASKED else runs.OUT_OF_TIME
            why = self._why_asked() if reason == watch.ASKED else ""
            self._status.set(ending, message=f"{why}saved; `resume` goes on from here")
        elif self._worker and self._status.state == runs.FAILED:
            self._stop_all()
        self._note(f"{self._status.state} {self._status.message}".strip())
        self._save(_SAVE_FOR_LONG_S)
        if kept := self._end_spot_request():
            self._note(kept)
            self._status.message = "; ".join(filter(None, [self._status.message, kept]))
            self._save(_SAVE_FOR_S[watch.SIGNAL])
        self._end_instance()
        return 0

    def _try_to_finish(self) -> str:
        """Works until the run is finished or has failed, or returns why it stopped before."""
        try:
            reason = self._work()
            if not reason:
                self._status.set(runs.FINISHED, exit_status=0)
            return reason
        except PhaseError as error:
            self._status.set(runs.FAILED, message=str(error), exit_status=error.status)
        except Exception as error:  # whatever it is, the log must get up and the instance end
            self._note(traceback.format_exc())
            self._status.set(runs.FAILED, message=f"{error!r}", exit_status=1)
        return ""

    def _work(self) -> str:
        python = sys.executable
        make = 'set -euo pipefail; . launch/venv.sh; make_venv "$1" train'
        places = [f"--data_dir={self._data}", f"--model_dir={self._model}"]
        train = [".venv/bin/python", "train.py", *self._run.train_args, *places]
        reason = (
            self._phase(runs.INSTALLING, ["bash", "-c", make, "install", ".venv"])
            or self._phase(runs.FETCHING, [python, "-m", "launch.instance.fetch", *self._place])
            or self._train(train)
        )
        if progress.is_finished(self._model):
            return ""  # also where it was done before it could be stopped
        if not reason:
            raise PhaseError("train.py wrote no report", 1)
        return reason

    def _train(self, command: list[str]) -> str:
        """Trains, with the other instances if there are any."""
        if self._run.num_instances == 1:
            return self._phase(runs.TRAINING, command)
        self._status.set(runs.WAITING)
        if reason := self._wait(self._are_peers_there, _PEERS_S):
            return reason
        if missing := self._peers.missing:
            which = ", ".join(f"worker {one}" for one in missing)
            raise PhaseError(f"{which} did not come within {_PEERS_S / 60:g} minutes", 1)
        together = {"TF_CONFIG": self._peers.tf_config()}
        self._note(f"all are there: {together['TF_CONFIG']}")
        while True:
            reason = self._phase(runs.TRAINING, command, together)
            if reason or progress.is_finished(self._model):
                return reason
            # Where all is done, worker 0 says so, and that is a reason to stop. Else another one is
            # taken away and had all save and stop; train.py waits until it is back.
            if self._worker and (reason := self._wait(lambda: False, _LAST_WORD_S)):
                return reason
            self._note("train.py stopped with the others; it goes on when all are there again")

    def _wait(self, until: Callable[[], bool], for_s: float) -> str:
        """Waits, saving as it goes; returns why it stopped before, if it did."""
        give_up_s = time.monotonic() + for_s
        while not until() and time.monotonic() < give_up_s:
            if reason := self._watch.reason():
                return reason
            self._sync_if_due()
            time.sleep(_TICK_S)
        return ""

    def _are_peers_there(self) -> bool:
        try:
            return self._peers.are_there()
        except _TROUBLE as error:
            self._note(f"the other instances were not found, looked again soon: {error}")
            return False

    def _phase(
        self, state: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> str:
        """Runs a command to its end, saving as it goes.

        Returns:
          Empty, or why it was stopped.

        Raises:
          PhaseError: if it fails.
        """
        self._status.set(state)
        self._note(f"{state}: {' '.join(command[-6:])}")
        with open(self._log, "ab") as log:
            child = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while child.poll() is None:
                reason = self._watch.reason()
                if reason:
                    self._note(f"asked to stop ({reason})")
                    return reason
                self._sync_if_due()
                time.sleep(_TICK_S)
        finally:
            self._end_child(child)
        what = "train.py" if state == runs.TRAINING else state
        if child.returncode < 0:  # for want of memory it is SIGKILL; a shell says 128 and more
            by = signal.Signals(-child.returncode).name
            raise PhaseError(f"{what} was ended by {by}", 128 - child.returncode)
        if child.returncode:
            raise PhaseError(f"{what} ended with status {child.returncode}", child.returncode)
        return ""

    def _end_child(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(_STOP_CHILD_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self._note("it did not stop and was killed; the last checkpoint holds")

    def _sync_if_due(self) -> None:
        if time.monotonic() < self._next_sync_s:
            return
        try:
            self._sync()
        except _TROUBLE as error:
            self._note(f"S3 did not take it, tried again soon: {error}")
        self._next_sync_s = time.monotonic() + runs.SYNC_EVERY_S

    def _sync(self) -> None:
        self._mirror.push()
        if self._log.is_file():
            content = self._log.read_bytes()
            self._quick.send(self._run.log_of(self._worker), content)
            self._status.log_bytes = len(content)
        status = self._status.to_json(progress.progress(self._model), progress.last_line(self._log))
        self._quick.send(runs.status_of(self._worker), status)

    def _save(self, for_s: float) -> None:
        """Brings everything up, trying for so long."""
        give_up = time.monotonic() + for_s
        while True:
            try:
                self._sync()
                return
            except _TROUBLE as error:
                if time.monotonic() > give_up:
                    self._note(f"S3 took no more; something is lost: {error}")
                    return
            time.sleep(2)

    def _end_instance(self) -> None:
        subprocess.run(["shutdown", "-h", "now"], check=True)

    def _end_spot_request(self) -> str:
        """Or it would start another instance in this one's place; says where it was not ended."""
        if not self._run.spot:
            return ""
        try:
            launch = self._read(runs.LAUNCH)
            started = launch["instances"] if launch.get("attempt") == self._run.attempt else []
            if self._worker < len(started):
                if request := started[self._worker]["spot_request_id"]:
                    boto3.client("ec2", config=RETRIES).cancel_spot_instance_requests(
                        SpotInstanceRequestIds=[request]
                    )
                return ""
            why = f"{runs.LAUNCH} does not name it"
        except _TROUBLE as error:
            why = str(error)
        return f"its spot request was not ended, the time limit will, `stop` now ({why})"

    def _is_stop_asked(self) -> bool:
        try:
            return self._is_there(runs.STOP) or bool(self._chief_ending())
        except _TROUBLE:
            return False  # asked again soon; saving notes in the log that S3 does not answer

    def _why_asked(self) -> str:
        try:
            why = self._quick.read(runs.STOP) if self._is_there(runs.STOP) else None
        except _TROUBLE as error:
            self._note(f"why all were asked to stop could not be read: {error}")
            return ""
        return f"{why.decode()}; " if why else ""

    def _stop_all(self) -> None:
        """Or the others would wait for this one."""
        log = self._run.log_of(self._worker)
        why = f"worker {self._worker}: {self._status.message}; {log} says why"
        try:
            self._quick.send(runs.STOP, why.encode())
        except _TROUBLE as error:
            self._note(f"the other instances could not be told: {error}")

    def _chief_ending(self) -> str:
        """How worker 0 ended; empty if it has not, and for worker 0 itself."""
        try:
            status = self._read(runs.STATUS) if self._worker else {}
        except _TROUBLE:
            return ""  # asked again soon
        ended = status.get("attempt") == self._run.attempt and status["state"] in runs.ENDED
        return status["state"] if ended else ""

    def _read(self, name: str) -> dict[str, Any]:
        return runs.read_json(self._folder, name) if self._is_there(name) else {}

    def _is_there(self, name: str) -> bool:
        # The role may list its own folder and so see what is missing; asked for a missing object
        # itself, S3 would answer 'forbidden'.
        return any(found.name == name for found in self._quick.objects(name))

    def _note(self, text: str) -> None:
        with open(self._log, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {text}\n")


def main(bucket: str, name: str, root: str, prefix: str = "") -> int:
    """Runs the agent."""
    return Agent(bucket, name, Path(root), prefix).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
