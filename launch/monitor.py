"""Show how runs are doing, by their stack, Auto Scaling group and files in S3."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

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
    """A run as it was found at one moment."""

    stack: Stack
    status: dict[str, Any]  # what the machine said last; empty before
    machine: str  # that it has now; empty for none
    state: str  # in a word or two

    @property
    def is_over(self) -> bool:
        """Return whether nothing more happens by itself."""
        return self.state in (FINISHED, FAILED, STOPPED)

    @property
    def exit_status(self) -> int:
        """Return the status of `monitor --follow`: the command's own, or 3 if it was stopped."""
        if self.state == FAILED:
            return int(self.status.get("exit_status") or 1)
        return 0 if self.state == FINISHED else NOT_FINISHED


def find(aws: Aws, name: str) -> Seen:
    """Find a run by its name and look at it.

    Raises:
      LaunchError: if there is none of that name.
    """
    stack = aws_lib.find_stack(aws, name)
    if stack is None:
        raise LaunchError(f"there is no run {name} in {aws.region}; `list` shows what there is")
    return look(aws, stack)


def look(aws: Aws, stack: Stack) -> Seen:
    """Look at a stack's run."""
    status = aws.run_folder(stack.run).read_json("status.json")
    group = aws_lib.group(aws, stack.name)
    alive = [one for one in group.get("Instances", []) if one["LifecycleState"] != "Terminated"]
    machine = alive[0]["InstanceId"] if alive else ""
    if status.get("state") in (FINISHED, FAILED):
        state = status["state"]
    elif machine:
        state = status["state"] if status.get("instance_id") == machine else "setting up"
    elif group.get("DesiredCapacity"):
        state = WAITING
    else:
        state = "starting" if stack.is_changing else STOPPED
    return Seen(stack, status, machine, state)


def describe(aws: Aws, seen: Seen) -> str:
    """Describe a run in a few lines."""
    status, stack, given = seen.status, seen.stack, seen.stack.parameters
    since_s = max(0.0, time.time() - status.get("updated_at", time.time()))
    what = f"{given['InstanceType']} {'spot' if given['Spot'] == 'true' else 'on demand'}"
    lines = [
        f"{stack.run}  {seen.state}",
        f"  machine    {what}, {seen.machine or 'none now'}; stack {stack.name}: {stack.status}",
        f"  runs       {given['Command']}",
    ]
    why = status.get("message", "")
    if seen.state == WAITING:
        why = aws_lib.why_no_machine(aws, stack.name)
    elif seen.state == STOPPED:  # by `stop` or at the deadline, as Auto Scaling puts it
        why = next((one["Cause"] for one in aws_lib.activities(aws, stack.name)), why)
    if why:
        lines.append(f"  because    {why}")
    price = aws.run_folder(stack.run).read_json("price.json")
    if usd := price.get("usd_per_hour"):
        hours = (status.get("machine_s", 0) + (since_s if seen.machine else 0)) / 3600
        rate = f"${usd:.3f} an hour, {price['source']}"
        lines.append(f"  cost       ${hours * usd:.2f} so far, computed at {rate}")
    if status.get("last_line"):
        lines.append(f"  last line  {since_s:.0f} s ago: {status['last_line']}")
    if seen.machine:
        ssm = f"aws ssm start-session --region {aws.region} --target {seen.machine}"
        lines.append(f"  shell      {ssm}")
        if since_s > _SILENT_S and status.get("instance_id") == seen.machine:
            what = "is over, and its machine still runs and costs" if seen.is_over else "is silent"
            lines.append(f"  WARNING    it {what} for {since_s:.0f} s; end it: stop {stack.run}")
    if not seen.is_over:
        lines.append(f"  deadline   {given['Deadline']}")
    if seen.state == STOPPED:
        lines.append(f"  `resume {stack.run}` resumes from what is saved")
    return "\n".join(lines)


def console(aws: Aws, seen: Seen) -> str:
    """Return the console of the last machine, which AWS keeps for an hour; empty if unknown."""
    told = aws_lib.activities(aws, seen.stack.name)
    ids = re.findall(r"\bi-[0-9a-f]+", " ".join(one.get("Description", "") for one in told))
    try:
        instance_id = seen.machine or ids[0]
        answer = aws.client("ec2").get_console_output(InstanceId=instance_id)
    except (IndexError, botocore.exceptions.ClientError):
        return ""
    return str(answer.get("Output", ""))


def follow(aws: Aws, name: str) -> Seen:
    """Print the machines' logs as they grow until the run is over; return how it ended."""
    folder = aws.run_folder(name)
    state, at, offset = "", "", 0
    while True:
        try:
            seen = find(aws, name)
            # Looked up before the logs are read: when it is over, they are whole.
            logs = [one.name for one in folder.objects("log/") if one.name >= at]
            parts = [(one, folder.read(one, offset if one == at else 0) or b"") for one in logs]
        except _NOT_REACHED as error:  # a network that is away for an hour ends no run
            print(f"--- {name}: AWS is not reachable ({error}); retrying", flush=True)
            time.sleep(aws_lib.POLL_S)
            continue
        if seen.state != state:
            state = seen.state
            print(f"--- {name}: {state}")
        for one, content in parts:
            if one != at:
                at, offset = one, 0
                print(f"--- {one}")
            offset += len(content)
            print(content.decode("utf-8", "replace"), end="")
        if seen.is_over:
            if seen.state != FINISHED and not at:  # as where the machine never reached S3
                print(console(aws, seen))
            return seen
        print(end="", flush=True)
        time.sleep(aws_lib.POLL_S)


def overview(aws: Aws) -> list[str]:
    """Return a line for each run."""
    lines = []
    for stack in aws_lib.stacks(aws):
        try:
            seen = look(aws, stack)
            said = f"{seen.state:22}  {seen.machine:20}  {seen.status.get('last_line', '')[:60]}"
        except (botocore.exceptions.ClientError, ValueError) as error:
            said = f"{stack.status}; its files cannot be read: {error}"
        lines.append(f"{stack.run:32}  {said}".rstrip())
    return lines
