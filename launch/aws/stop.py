"""Ending a run, and removing all that was made for it."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable

from launch import run as runs
from launch.aws import bucket, instances, monitor, resources
from launch.aws.session import Aws
from launch.s3 import Folder

# A checkpoint takes 20 seconds at most, noticing the request 10, the upload the rest.
SAVE_FOR_S = 150.0
_POLL_S = 2.0


def end(
    aws: Aws,
    root: Folder,
    name: str,
    say: Callable[[str], None],
    *,
    wait: bool = False,
    save_for_s: float = SAVE_FOR_S,
) -> None:
    """Has the training save its state, then ends its instances.

    Args:
      aws: where.
      root: where all runs are.
      name: the run's.
      say: told what happens.
      wait: until EC2 says that they are gone.
      save_for_s: the most seconds that saving may take.
    """
    run = runs.load(root, name)
    live = instances.find(aws, name)
    if run and live:
        folder = runs.folder(root, name)
        folder.put(runs.STOP, b"")  # asks them, and tells `monitor` why there are none
        if any(instance.state == "running" for instance in live):
            _save(run, folder, say, save_for_s)
    for one in instances.end(aws, name, wait=wait):
        say(f"{one} ended")
    if not live:
        say(f"{name} has no instance")


def found(aws: Aws, root: Folder, name: str) -> list[str]:
    """What `delete` would remove of a run, for a person; nothing if there is no such run."""
    lines = monitor.made_for(aws, name)
    if not bucket.is_there(aws, root.bucket):
        return lines
    folder = runs.folder(root, name)
    files, run = folder.objects(), runs.load(root, name)
    unshared = unshared_files(root, run) if run else []
    if files:
        what = "checkpoints and report too" if run else "left of an earlier run"
        lines.append(f"{folder}: {_files(len(files))}, {what}")
    several = collections.Counter("/".join(one.split("/")[:2]) for one in unshared)
    lines += [f"{root}/{place}: {_files(count)}" for place, count in several.items()]
    if _is_spare(aws, root, len(files) + len(unshared)):
        lines.append(f"bucket {root.bucket}, which holds nothing else")
    return lines


def delete(aws: Aws, root: Folder, name: str, say: Callable[[str], None]) -> None:
    """Removes everything of a run whose instances are gone: role, group, files, and the bucket if
    it was made here and is empty then.

    Of source and data goes what was uploaded for this run and no other refers to; a data set that
    the caller had in S3 stays.
    """
    for one in resources.delete_role(aws, name) + resources.delete_security_groups(aws, name):
        say(f"{one} removed")
    if not bucket.is_there(aws, root.bucket):
        return
    folder = runs.folder(root, name)
    run = runs.load(root, name)
    unshared = unshared_files(root, run) if run else []
    # run.json last: while it is there, the run is listed, and what it refers to is known.
    root.delete(unshared)
    names = sorted((found.name for found in folder.objects()), key=lambda n: n == runs.RUN)
    folder.delete(names)
    if names or unshared:
        say(f"{len(names)} files of {folder} and {len(unshared)} of source and data removed")
    if _is_spare(aws, root):
        aws.s3.delete_bucket(Bucket=root.bucket, ExpectedBucketOwner=aws.account)
        say(f"bucket {root.bucket} removed")


def _save(run: runs.Run, folder: Folder, say: Callable[[str], None], for_s: float) -> None:
    status = runs.read_json(folder, runs.STATUS)
    if status.get("attempt") != run.attempt or status.get("state") != runs.TRAINING:
        return  # nothing is trained yet, or no more
    say("asked the training to save its checkpoint ...")
    give_up = time.monotonic() + for_s
    while time.monotonic() < give_up:
        state = runs.read_json(folder, runs.STATUS).get("state")
        if state in runs.ENDED:
            say(f"{state}; everything is saved")
            return
        time.sleep(_POLL_S)
    say(f"it did not answer in {for_s:.0f} s; what it uploaded until now is what is saved")


def unshared_files(root: Folder, run: runs.Run, *others: runs.Run) -> list[str]:
    """Files of source and data that were uploaded for this run and that no other run refers to.

    Args:
      root: where all runs are.
      run: whose they are.
      others: that are not stored there, or are going to be.
    """
    mine = {runs.source_key(run)} | (set() if run.data_given else {runs.data_key(run)})
    stored = (runs.load(root, name) for name in root.folder("runs").folders() if name != run.name)
    for other in (*others, *stored):
        if other:
            mine -= {runs.source_key(other), runs.data_key(other)}
    # Named by content, so nothing that lies beside them is meant.
    return [
        f"{kind}/{there.name}"
        for kind in ("source", "data")
        for there in root.folder(kind).objects()
        if f"{kind}/{there.name.partition('/')[0]}" in mine
    ]


def _is_spare(aws: Aws, root: Folder, removed: int = 0) -> bool:
    """Whether the bucket was made here and holds nothing, or no more than is to be removed."""
    whole = Folder(root.client, root.bucket, "")
    return root.bucket == bucket.default_name(aws) and len(whole.objects()) == removed


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
