"""From a plan to running instances, so that a call broken off anywhere can be made again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import run as runs
from launch.aws import bucket, dataset, instances, machine, prices, resources, stop, userdata
from launch.aws.interruption import Held
from launch.aws.machine import Image, Machine, Subnet
from launch.aws.session import Aws, LaunchError
from launch.aws.source import Source
from launch.s3 import ExistsError, Folder

# A call made again this soon continues the same attempt, and EC2's client token keeps it single.
_SAME_ATTEMPT_S = 600
# What of a run may differ when the same run is asked for again.
_MAY_DIFFER = {"attempt", "started_at", "usd_per_hour", "price_source", "image_id", "data_given"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is to happen, looked up and checked; nothing is made yet.

    Attributes:
      run: what is asked for.
      kind, image, subnets: what AWS has for it.
      price: of an hour of one instance.
      quota: what was found of it.
      new_bucket: whether the bucket is to be made.
      root: where everything goes.
      source, data: what to upload; None to use what is there.
    """

    run: runs.Run
    kind: Machine
    image: Image
    subnets: list[Subnet]
    price: prices.Price
    quota: str
    new_bucket: bool
    root: Folder
    source: Source | None
    data: dataset.DataSet | None


def execute(aws: Aws, plan: Plan, project_dir: Path, say: Callable[[str], None]) -> runs.Run:
    """Makes what the plan says, in an order in which everything made can be found again.

    Where it fails, what this call made besides files in S3 is removed.

    Args:
      aws: where.
      plan: what.
      project_dir: the project's top folder.
      say: told what happens.

    Returns:
      The run that was started, or that had been started already.

    Raises:
      LaunchError, S3Error: if it cannot be done.
      botocore.exceptions.BotoCoreError, ClientError: if AWS fails or refuses.
    """
    root, name = plan.root, plan.run.name
    folder = runs.folder(root, name)
    if plan.run.attempt > 1:
        # A spot request that is still open would start an instance beside this attempt's.
        for one in instances.end(aws, name, wait=True):
            say(f"{one} of an earlier attempt ended")
    try:
        if bucket.ensure(aws, root.bucket):
            say(f"bucket {root.bucket} made")
        run = _claim(aws, plan, folder)
    except LaunchError:
        raise  # it says itself what to do
    except BaseException:
        say(f"not started; if bucket {root.bucket} was made, this removes it: stop {name} --delete")
        raise
    live = {one.worker: one for one in instances.find(aws, name)}
    missing = [worker for worker in range(run.num_instances) if worker not in live]
    if not missing:
        every = "its instance" if run.num_instances == 1 else f"its {run.num_instances} instances"
        say(f"{name} has {every} already: {', '.join(one.id for one in live.values())}")
        _record(folder, run, list(live.values()))
        return run
    try:
        if plan.source:
            sent = root.put(f"source/{plan.source.name}", plan.source.content)
            size = f"{len(plan.source.content) / 1e6:.1f} MB"
            say(f"source is in {root}/source: {size}, {'new' if sent else 'was there'}")
        if plan.data:
            dataset.upload(plan.data, root.folder(runs.data_key(run)), say)
        if not live and _is_stale(run):
            # Uploading took long, and the time limit is for the instances. Another call may have
            # done the same meanwhile; its instances would be known by now.
            there = runs.load(root, name) or run
            run = dataclasses.replace(run, started_at=there.started_at)
            live = {one.worker: one for one in instances.find(aws, name)}
            missing = [worker for worker in missing if worker not in live]
            if not live and _is_stale(run):
                run = dataclasses.replace(run, started_at=int(time.time()))
                folder.put(runs.RUN, run.to_json())
        folder.delete([runs.STOP, runs.STATUS] if run.attempt == 1 else [runs.STOP])
        resources.ensure_role(aws, run, root)
        say(f"role {resources.role_name(aws, name)} may reach this run in {root}")
        group_id = resources.ensure_security_group(aws, run, plan.subnets[0].vpc_id)
        say(f"security group {group_id}: in: {resources.let_in(run)}, out: web")
        image = plan.image
        if run.image_id != image.id:  # a newer one came out since the call that this one continues
            image = machine.image(aws, run.os, plan.kind.architecture, run.image_id)
        for worker in missing:
            user_data = userdata.render(project_dir, run, root, aws.region, worker)
            with Held(say) as held:
                live[worker] = instances.launch(
                    aws, run, image, plan.subnets, group_id, user_data, worker, held.give_way
                )
            say(f"instance {live[worker].id} started")
        instances.wait_until_found(aws, name, [one.id for one in live.values()])
        _record(folder, run, [live[worker] for worker in sorted(live)])
    except BaseException as error:
        with Held(say):
            _undo(aws, run, folder, list(live.values()), error, say)
        raise
    return run


def _claim(aws: Aws, plan: Plan, folder: Folder) -> runs.Run:
    """Writes the run down before anything is made for it, or takes up the one that is there."""
    wanted = plan.run
    if wanted.attempt == 1:
        try:
            folder.put(runs.RUN, wanted.to_json(), only_new=True)
            return wanted
        except ExistsError:
            pass  # an earlier call's, or this one's whose answer was lost: looked at below
    found = runs.load(plan.root, wanted.name)
    if found is None:
        raise LaunchError(f"{folder}/{runs.RUN} is there and is not; try again")
    if wanted.attempt > 1:  # resume
        folder.put(runs.RUN, wanted.to_json())
        return wanted
    there, asked = (
        {k: v for k, v in dataclasses.asdict(r).items() if k not in _MAY_DIFFER}
        for r in (found, wanted)
    )
    different = [
        f"{k}: there {there[k]}, asked for {asked[k]}" for k in there if there[k] != asked[k]
    ]
    live = instances.find(aws, found.name)
    begun = bool(live or folder.find(runs.LAUNCH) or folder.find(runs.STATUS))
    if begun and different:
        raise LaunchError(
            f"there is a run {wanted.name} of other settings ({'; '.join(different[:3])}). Choose "
            f"another --name, or remove that one: stop {wanted.name} --delete"
        )
    if begun and not live:
        state = runs.read_json(folder, runs.STATUS).get("state", "gone")
        on = f"`resume {found.name}` goes on from its checkpoint"
        if state == runs.FINISHED:
            on = f"`fetch {found.name}` brings its files"
        raise LaunchError(
            f"run {found.name} has been: {state}. {on}, --name=... starts another one."
        )
    if live or (not different and not _is_stale(found)):
        return found
    # It never began; if its source or data is another one, nothing refers to it from here on.
    plan.root.delete(stop.unshared_files(plan.root, found, wanted))
    folder.put(runs.RUN, wanted.to_json())
    return wanted


def _is_stale(run: runs.Run) -> bool:
    """Whether so long has passed that it is asked for anew, where it has no instance."""
    return time.time() - run.started_at >= _SAME_ATTEMPT_S


def _record(folder: Folder, run: runs.Run, started: list[instances.Instance]) -> None:
    content: dict[str, Any] = {
        "attempt": run.attempt,
        "instances": [
            {"instance_id": one.id, "spot_request_id": one.spot_request_id} for one in started
        ],
    }
    folder.put(runs.LAUNCH, (json.dumps(content, indent=1) + "\n").encode())


def _undo(
    aws: Aws,
    run: runs.Run,
    folder: Folder,
    started: list[instances.Instance],
    error: BaseException,
    say: Callable[[str], None],
) -> None:
    """Removes what was made; what cannot be removed is named."""
    why = f"{type(error).__name__}: {error}".strip(": ")
    say(
        f"not started ({why}); removing what was made. Should that be broken off too, this removes "
        f"the rest: stop {run.name} --delete"
    )
    for what, remove in (
        ("instance", lambda: instances.end(aws, run.name, wait=True, known=started)),
        ("role", lambda: resources.delete_role(aws, run.name)),
        ("security group", lambda: resources.delete_security_groups(aws, run.name)),
    ):
        try:
            for one in remove():
                say(f"  {one} removed")
        except Exception as failure:  # the others must be tried too, and the first error counts
            say(f"  {what}: NOT removed ({failure}); later: stop {run.name} --delete")
        else:
            if what == "instance":
                folder.delete([runs.LAUNCH])  # so that the same command starts it anew
    say(
        f"  files stay in {folder}, and source and data beside it, so that the same command sends "
        f"them no second time; to remove them too: stop {run.name} --delete"
    )
