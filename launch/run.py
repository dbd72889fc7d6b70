"""A run as both sides know it: what was asked for, where its files are, how it is doing.

PREFIX/source/SHA256.tar        the project, by content
PREFIX/data/SHA256/             a data set, by its manifest's content
PREFIX/runs/NAME/run.json       what was asked for; written before anything else is made
PREFIX/runs/NAME/launch.json    the instances that were started; written by the caller
PREFIX/runs/NAME/status.json    how it is doing; written by the instance, of several by worker 0
PREFIX/runs/NAME/stop           asks all instances to save and end; may say why
PREFIX/runs/NAME/log/           one log an attempt and instance
PREFIX/runs/NAME/workers/       of several instances: addresses, and status of all but worker 0
PREFIX/runs/NAME/model/         the training's folder
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from launch.s3 import Folder, S3Error

RUN, LAUNCH, STATUS, STOP = "run.json", "launch.json", "status.json", "stop"
SYNC_EVERY_S = 30

# The states that end an attempt; `resume` goes on from all but the first.
FINISHED, FAILED, STOPPED, OUT_OF_TIME = "finished", "failed", "stopped", "out of time"
ENDED = (FINISHED, FAILED, STOPPED, OUT_OF_TIME)
INSTALLING, FETCHING, TRAINING = "installing", "fetching data", "training"
WAITING = "waiting for the other instances"
INTERRUPTED = "interrupted"

# Where instances that train one model reach each other.
WORKER_PORT = 2222

# A role's name has 64 characters, of which 32 are left.
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclasses.dataclass(frozen=True)
class Run:
    """What was asked for.

    Attributes:
      name: of the run.
      train_args: arguments of train.py, without --data_dir and --model_dir.
      source: SHA-256 of the packed source.
      data: SHA-256 of the data set's manifest.
      instance_type: e.g. `c5.24xlarge`.
      os: `ubuntu` or `amazon`.
      image_id: the machine image.
      spot: whether its instances may be interrupted, for a lower price.
      volume_gb: of each one's disk.
      max_hours: after which an attempt ends whatever happens.
      usd_per_hour: what it costs, all instances together, and where that is from.
      price_source: see there.
      subnet_id: empty for the default ones.
      ssh_cidr: addresses that port 22 is open to; empty for none.
      key_name: EC2 key pair for them.
      attempt: counted from 1; `resume` begins another, on new instances.
      started_at: when this attempt was asked for, in seconds since 1970. The time limit counts
        from there.
      num_instances: that train one model, each a worker; the first is worker 0.
      data_given: whether --data_dir was the very folder of S3 that the instances read: it is the
        caller's then, and never removed.
    """

    name: str
    train_args: tuple[str, ...]
    source: str
    data: str
    instance_type: str
    os: str
    image_id: str
    spot: bool
    volume_gb: int
    max_hours: float
    usd_per_hour: float
    price_source: str
    subnet_id: str
    ssh_cidr: str
    key_name: str
    attempt: int
    started_at: int
    num_instances: int = 1
    data_given: bool = False

    @property
    def deadline(self) -> int:
        """When the instances end whatever happens, in seconds since 1970."""
        return self.started_at + round(self.max_hours * 3600)

    @property
    def most(self) -> str:
        """What an attempt costs if it takes all its time, for a person."""
        usd = self.max_hours * self.usd_per_hour
        return f"${usd:.2f} {'at this price, which changes' if self.spot else 'at most'}"

    @property
    def log(self) -> str:
        """The attempt's log within the run's folder, of several instances worker 0's."""
        return self.log_of(0)

    def log_of(self, worker: int) -> str:
        """The attempt's log of one of several instances."""
        return f"log/attempt-{self.attempt}{f'-worker-{worker}' if worker else ''}.log"

    def address_of(self, worker: int) -> str:
        """Where an instance says how the others reach it, within the run's folder."""
        return f"workers/attempt-{self.attempt}/{worker}"

    def to_json(self) -> bytes:
        """As it is stored."""
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Run:
        """Reads what `to_json` wrote.

        Raises:
          S3Error: if it is not that.
        """
        try:
            fields = json.loads(content)
            return cls(**{**fields, "train_args": tuple(fields["train_args"])})
        except (ValueError, TypeError, KeyError) as error:
            raise S3Error(
                f"{RUN} is damaged or was written by another version of launch.ec2 ({error})"
            ) from error


def valid_name(name: str) -> bool:
    """Whether a run can have this name."""
    return _NAME.fullmatch(name) is not None


def folder(root: Folder, name: str) -> Folder:
    """A run's folder in S3."""
    return root.folder(f"runs/{name}")


def status_of(worker: int) -> str:
    """Name of an instance's status within the run's folder."""
    return f"workers/status-{worker}.json" if worker else STATUS


def source_key(run: Run) -> str:
    """The packed source's name, from the root."""
    return f"source/{run.source}.tar"


def data_key(run: Run) -> str:
    """The data set's folder, from the root."""
    return f"data/{run.data}"


def load(root: Folder, name: str) -> Run | None:
    """The run of that name, or None."""
    content = folder(root, name).read(RUN)
    return None if content is None else Run.from_json(content)


def read_json(where: Folder, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    content = where.read(name)
    return {} if content is None else json.loads(content)
