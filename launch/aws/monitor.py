"""How runs are doing."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import botocore.exceptions

from launch import run as runs
from launch.aws import bucket, instances, resources
from launch.aws.session import TAG, Aws, LaunchError
from launch.s3 import Folder

# Exit statuses of `monitor --follow`, besides the training's own.
NOT_FINISHED = 3
# An instance that started says something in this time; one that runs, every half minute.
_SILENT_S = 300
_NOT_REACHED = (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)
LOST, NOT_STARTED = "lost", "not started"
WAITING_FOR_SPOT = "waiting for a spot instance"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A run at a moment.

    Attributes:
      run: what was asked for.
      state: of `launch.run`, or `not started`, `starting`, `waiting for a spot instance`,
        `lost`.
      status: what was last said of this attempt, by worker 0; empty before.
      live: the instances it has, by worker.
      cost_usd: of the run until now.
      lost_id: the instance that is gone without a last word; empty if none is.
    """

    run: runs.Run
    state: str
    status: dict[str, Any]
    live: tuple[instances.Instance, ...]
    cost_usd: float
    lost_id: str = ""

    @property
    def instance(self) -> instances.Instance | None:
        """The one that speaks for the run, worker 0; None if it has none."""
        return next((one for one in self.live if one.worker == 0), None)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in (*runs.ENDED, LOST, NOT_STARTED)

    @property
    def exit_status(self) -> int:
        """Of `monitor --follow`: the training's own, or 3 where it is not finished."""
        if self.state == runs.FINISHED:
            return 0
        if self.state == runs.FAILED:
            return int(self.status.get("exit_status") or 1)
        return NOT_FINISHED


def look(aws: Aws, root: Folder, name: str) -> Seen:
    """Looks at a run.

    Raises:
      LaunchError: if there is none of that name.
    """
    run = runs.load(root, name)
    if run is None:
        raise LaunchError(f"there is no run {name} in {root}; `list` shows what there is")
    folder = runs.folder(root, name)
    status = runs.read_json(folder, runs.STATUS)
    live = tuple(instances.find(aws, name))
    instance = next((one for one in live if one.worker == 0), None)
    cost = float(status.get("cost_usd", 0.0))
    current, lost_id = status.get("attempt") == run.attempt, ""
    state = status["state"] if current else "starting"
    if state not in runs.ENDED:
        if instance is None:
            waits = run.spot and "open" in instances.open_requests(aws, name).values()
            launched = runs.read_json(folder, runs.LAUNCH)
            if waits:
                state = WAITING_FOR_SPOT
            elif folder.find(runs.STOP):
                state = runs.STOPPED
            elif current or launched.get("attempt") == run.attempt:
                state = LOST
                started = launched.get("instances", [])
                lost_id = started[0]["instance_id"] if started else ""
            else:
                state = NOT_STARTED
        elif any(one.state in ("stopping", "stopped") for one in live):
            state = WAITING_FOR_SPOT
    if instance and state != WAITING_FOR_SPOT:  # also where it should have ended and has not
        since = status["updated_at"] if current else run.started_at
        cost += max(0.0, time.time() - since) / 3600 * run.usd_per_hour
    return Seen(run, state, status if current else {}, live, cost, lost_id)


def describe(seen: Seen) -> str:
    """A run in a few lines."""
    run, status = seen.run, seen.status
    where = ", ".join(f"{one.id} {one.state}" for one in seen.live) or "no instance"
    times = f"{run.num_instances} x " if run.num_instances > 1 else ""
    market = "spot" if run.spot else "on demand"
    lines = [
        f"{run.name}  {seen.state}",
        f"  instance   {times}{run.instance_type} {market}, attempt {run.attempt}, {where}",
    ]
    if status.get("message"):
        lines.append(f"  because    {status['message']}")
    if "epoch" in status or "epochs" in status:
        fold = f", fold {status['fold']}" if "fold" in status else ""
        lines.append(f"  epoch      {status.get('epoch', 0)} of {status.get('epochs')}{fold}")
    if "metrics" in status:
        lines.append(f"  last       {_metrics(status['metrics'])}")
    lines.append(
        f"  cost       ${seen.cost_usd:.2f} so far, computed (${run.usd_per_hour:.3f} an hour, "
        f"{run.price_source}); an attempt costs {run.most}"
    )
    now = time.time()
    if status:
        ago = now - status["updated_at"]
        lines.append(f"  last word  {ago:.0f} s ago: {status.get('last_line', '')}")
    if not seen.is_over:
        lines.append(f"  time limit in {(run.deadline - now) / 3600:.1f} h")
    if warning := _warning(seen, now):
        lines.append(f"  WARNING    {warning}; end it: stop {run.name}")
    if seen.state == NOT_STARTED:
        again = f"`resume {run.name}`" if run.attempt > 1 else "the same deploy command"
        lines.append(f"  it is being deployed, or that was broken off: then {again} goes on, and")
        lines.append(f"  stop {run.name} --delete removes what was made")
    if seen.state == LOST:
        first = f"stop {run.name}, then " if seen.live else ""
        which = "worker 0" if run.num_instances > 1 else "its instance"
        lines.append(f"  {which} is gone without a last word; {first}`resume {run.name}` goes on")
        if seen.lost_id:
            ask = f"aws ec2 get-console-output --output text --instance-id {seen.lost_id}"
            lines.append(f"  for an hour AWS knows what it wrote last: {ask}")
    return "\n".join(lines)


def _warning(seen: Seen, now: float) -> str:
    """What costs money and should not; empty if nothing does."""
    since = now - seen.status.get("updated_at", seen.run.started_at)
    running = [one for one in seen.live if one.state == "running"]
    if not seen.is_over and now > seen.run.deadline:
        return "past its time limit"
    if since <= _SILENT_S or not running:
        return ""
    if seen.is_over:
        which = ", ".join(one.id for one in running)
        return f"{seen.state} for {since:.0f} s, and {which} runs and costs still"
    return f"silent for {since:.0f} s" if seen.instance in running else ""


def follow(
    aws: Aws,
    root: Folder,
    name: str,
    *,
    every_s: float,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Copies the log to `out` as it comes, until the run is over.

    Args:
      aws: where.
      root: where all runs are.
      name: the run's.
      every_s: seconds between two looks.
      out: where to; standard output by default.
      sleep: waits that long.

    Returns:
      How it ended.
    """
    stream, folder = out or sys.stdout, runs.folder(root, name)
    attempt, offset, state = 0, 0, ""
    while True:
        try:
            seen = look(aws, root, name)
            if seen.run.attempt != attempt:
                attempt, offset = seen.run.attempt, 0
            # Looked up before the log is read: when it is over, the log is whole.
            content = folder.read_from(seen.run.log, offset)
        except _NOT_REACHED as error:  # a network that is away for an hour ends no training
            print(f"--- {name}: AWS is not reached ({error}); again soon", file=stream, flush=True)
            sleep(every_s)
            continue
        if seen.state != state:
            state = seen.state
            print(f"--- {name}: {state}", file=stream, flush=True)
        offset += len(content)
        stream.write(content.decode("utf-8", "replace"))
        stream.flush()
        if seen.is_over:
            return seen
        sleep(every_s)


def overview(aws: Aws, root: Folder) -> list[str]:
    """A line a run, and what lies about without one."""
    names = set()
    lines = []
    if bucket.is_there(aws, root.bucket):
        names = set(root.folder("runs").folders())
    for name in sorted(names):
        try:
            seen = look(aws, root, name)
        except LaunchError:
            lines.append(f"{name:32}  deleted in part; the rest goes with: stop {name} --delete")
            continue
        epoch = f"epoch {seen.status.get('epoch', 0)}/{seen.status.get('epochs', '?')}"
        made = ", ".join(made_for(aws, name)) or "nothing but files"
        lines.append(
            f"{name:32}  {seen.state:14}  {epoch:14}  ${seen.cost_usd:8.2f}  in AWS: {made}"
        )
    for name in sorted(_named_by_resources(aws) - names):
        made = ", ".join(made_for(aws, name))
        lines.append(
            f"{name:32}  not in {root}    in AWS: {made}; look under another --prefix, or "
            f"remove: stop {name} --delete"
        )
    return lines


def _metrics(entry: dict[str, Any]) -> str:
    parts = []
    for part in ("train", "selection"):
        figures = entry.get(part) or {}
        shown = [f"{k} {v:.3f}" for k, v in figures.items() if isinstance(v, float)]
        if shown:
            parts.append(f"{part} {' '.join(shown)}")
    if isinstance(entry.get("clips_per_s"), float):
        parts.append(f"{entry['clips_per_s']:.0f} clips/s")
    return ", ".join(parts)


def live_of(aws: Aws, name: str) -> list[str]:
    """What of a run costs by the hour or may begin to, for a person."""
    live = [f"{one.id} ({one.state})" for one in instances.find(aws, name)]
    return live + [f"spot request {one}" for one in instances.open_requests(aws, name)]


def made_for(aws: Aws, name: str) -> list[str]:
    """What a run has in AWS besides files, for a person."""
    made = live_of(aws, name)
    made += [group["GroupId"] for group in resources.find_security_groups(aws, name)]
    return made + (["role"] if resources.has_role(aws, name) else [])


def _named_by_resources(aws: Aws) -> set[str]:
    """Names of runs that something in this region is tagged with."""
    tagged = [{"Name": "tag-key", "Values": [TAG]}]
    found = [*aws.ec2.describe_security_groups(Filters=tagged)["SecurityGroups"]]
    live = [
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    ]
    for page in aws.ec2.get_paginator("describe_instances").paginate(Filters=tagged + live):
        found += [entry for r in page["Reservations"] for entry in r["Instances"]]
    names = {tag["Value"] for entry in found for tag in entry["Tags"] if tag["Key"] == TAG}
    return names | resources.runs_with_roles(aws)
