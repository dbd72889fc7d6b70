"""How runs are doing, by their stack, its Auto Scaling group, and what the machine keeps in S3."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import botocore.exceptions

from launch import aws as aws_lib
from launch.aws import Aws, LaunchError, Stack

# Exit status of `monitor --follow` besides the command's own.
NOT_FINISHED = 3
FINISHED, FAILED, STOPPED, WAITING = "finished", "failed", "stopped", "waiting for a machine"
# A machine that is set up says something every 20 seconds; until then the log tells.
_SILENT_S = 300
_NOT_REACHED = (botocore.exceptions.ConnectionError, botocore.exceptions.HTTPClientError)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A run at a moment.

    Attributes:
      name: of the run.
      stack: its stack; None where it is gone.
      status: what the machine said last; empty before.
      machine: the machine it has now; empty for none.
      state: in a word or two.
    """

    name: str
    stack: Stack | None
    status: dict[str, Any]
    machine: str
    state: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in (FINISHED, FAILED, STOPPED)

    @property
    def exit_status(self) -> int:
        """Of `monitor --follow`: the command's own, or 3 where it is not finished."""
        if self.state == FAILED:
            return int(self.status.get("exit_status") or 1)
        return 0 if self.state == FINISHED else NOT_FINISHED

    @property
    def usd_per_hour(self) -> float | None:
        """What its machine costs, as it was known when it was deployed."""
        text = self.stack.tags.get("emotion-tfdata:usd-per-hour", "") if self.stack else ""
        return float(text) if text else None


def look(aws: Aws, name: str, stack: Stack | None = None) -> Seen:
    """Looks at a run.

    Raises:
      LaunchError: if there is none of that name.
    """
    stack = stack or aws_lib.find_stack(aws, name)
    status = aws.run_folder(name).read_json("status.json")
    if stack is None and not status:
        raise LaunchError(f"there is no run {name} in {aws.root}; `list` shows what there is")
    group = aws_lib.group(aws, stack.name) if stack else {}
    alive = [one for one in group.get("Instances", []) if one["LifecycleState"] != "Terminated"]
    machine = alive[0]["InstanceId"] if alive else ""
    if status.get("state") in (FINISHED, FAILED):
        state = status["state"]
    elif group.get("DesiredCapacity") and not machine:
        state = WAITING
    elif machine:
        state = status["state"] if status.get("instance_id") == machine else "setting up"
    elif stack and stack.is_changing:
        state = "starting"
    else:
        state = STOPPED
    return Seen(name, stack, status, machine, state)


def describe(aws: Aws, seen: Seen) -> str:
    """A run in a few lines."""
    status, now, stack = seen.status, time.time(), seen.stack
    lines = [f"{seen.name}  {seen.state}"]
    if stack:
        kind = "spot" if stack.parameters.get("Spot") == "true" else "on demand"
        what = f"{stack.parameters['InstanceType']} {kind}, {seen.machine or 'none now'}"
        lines.append(f"  machine    {what}; stack {stack.name}: {stack.status}")
        lines.append(f"  runs       {stack.parameters['Command']}")
    if status.get("message"):
        lines.append(f"  because    {status['message']}")
    if "epochs" in status:
        which = f", {status['training']}" if "training" in status else ""
        lines.append(f"  epoch      {status.get('epoch', 0)} of {status['epochs']}{which}")
    if "metrics" in status:
        lines.append(f"  last       {_metrics(status['metrics'])}")
    since = now - status.get("updated_at", now)
    if seen.usd_per_hour is not None:
        hours = (status.get("machine_s", 0) + (since if seen.machine else 0)) / 3600
        usd = hours * seen.usd_per_hour
        lines.append(
            f"  cost       ${usd:.2f} so far, computed at ${seen.usd_per_hour:.3f} an hour"
        )
    if "last_line" in status:
        lines.append(f"  last word  {since:.0f} s ago: {status['last_line']}")
    if stack and not seen.is_over:
        lines.append(f"  deadline   {stack.parameters['Deadline']}")
    if seen.state == WAITING and stack:
        whys = aws_lib.failures(aws_lib.activities(aws, stack.name))
        lines += [f"  because    {why}" for why in whys[:1]]
    if seen.machine:
        ssm = f"aws ssm start-session --region {aws.region} --target {seen.machine}"
        lines.append(f"  shell      {ssm}")
    if seen.machine and since > _SILENT_S and status.get("instance_id") == seen.machine:
        what = "is over, and its machine runs and costs still" if seen.is_over else "is silent"
        lines.append(f"  WARNING    it {what} for {since:.0f} s; end it: stop {seen.name}")
    if seen.state == STOPPED:
        lines.append(f"  `resume {seen.name}` resumes from what is saved")
    return "\n".join(lines)


def console(aws: Aws, seen: Seen) -> str:
    """What the last machine wrote to its console, which AWS keeps for an hour; empty if unknown."""
    told = aws_lib.activities(aws, seen.stack.name) if seen.stack else []
    ids = re.findall(r"\bi-[0-9a-f]+", " ".join(one.get("Description", "") for one in told))
    for instance_id in [seen.machine, *ids]:
        if instance_id:
            try:
                answer = aws.client("ec2").get_console_output(InstanceId=instance_id)
            except botocore.exceptions.ClientError:
                return ""
            return str(answer.get("Output", ""))
    return ""


def follow(
    aws: Aws,
    name: str,
    *,
    every_s: float,
    out: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Copies the machines' logs to `out` as they come, until the run is over.

    Args:
      aws: where.
      name: the run's.
      every_s: seconds between two looks.
      out: where to; standard output by default.
      sleep: waits that long.

    Returns:
      How it ended.
    """
    stream, folder = out or sys.stdout, aws.run_folder(name)
    state, at, offset = "", "", 0
    while True:
        try:
            seen = look(aws, name)
            # Looked up before the logs are read: when it is over, they are whole.
            logs = [one.name for one in folder.objects("log/") if one.name >= at]
            parts = [(one, folder.read(one, offset if one == at else 0) or b"") for one in logs]
        except _NOT_REACHED as error:  # a network that is away for an hour ends no run
            print(f"--- {name}: AWS is not reachable ({error}); retrying", file=stream, flush=True)
            sleep(every_s)
            continue
        if seen.state != state:
            state = seen.state
            print(f"--- {name}: {state}", file=stream, flush=True)
        for one, content in parts:
            if one != at:
                at, offset = one, 0
                print(f"--- {one}", file=stream)
            offset += len(content)
            stream.write(content.decode("utf-8", "replace"))
        stream.flush()
        if seen.is_over:
            if seen.state != FINISHED and not at:  # as where the machine never reached S3
                stream.write(console(aws, seen))
            return seen
        sleep(every_s)


def overview(aws: Aws) -> list[str]:
    """A line a run: those with a stack, and those of which only files are left."""
    lines, names = [], set()
    for stack in aws_lib.stacks(aws):
        names.add(stack.run)
        try:
            seen = look(aws, stack.run, stack)
        except (botocore.exceptions.ClientError, ValueError) as error:
            lines.append(f"{stack.run:32}  {stack.status}; its files cannot be read: {error}")
            continue
        epochs = seen.status.get("epochs")
        done = f"epoch {seen.status.get('epoch', 0)}/{epochs}" if epochs else ""
        lines.append(f"{stack.run:32}  {seen.state:22}  {done:14}  {seen.machine}".rstrip())
    try:
        left = {one.name.partition("/")[0] for one in aws.root.folder("runs").objects()} - names
    except botocore.exceptions.ClientError as error:
        lines.append(f"{aws.root} cannot be read: {error}")
        left = set()
    return lines + [f"{name:32}  files only, in {aws.run_folder(name)}" for name in sorted(left)]


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
