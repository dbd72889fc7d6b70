"""Ending a run, and removing all that was made for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from launch import run as runs
from launch.aws import instances, resources
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


def delete(aws: Aws, root: Folder, name: str, say: Callable[[str], None]) -> None:
    """Removes everything of a run whose instances are gone: role, group, files, and the bucket if
    it was made here and is empty then. Source and data that other runs use stay.
    """
    for one in resources.delete_role(aws, name) + resources.delete_security_groups(aws, name):
        say(f"{one} removed")
    if not resources.is_bucket_there(aws, root.bucket):
        return
    folder = runs.folder(root, name)
    # run.json last: while it is there, the run is listed.
    names = sorted((found.name for found in folder.objects()), key=lambda n: n == runs.RUN)
    folder.delete(names)
    unused = _unused(root)
    root.delete(unused)
    if names or unused:
        say(f"{len(names)} files of {folder} and {len(unused)} of source and data removed")
    if root.bucket == resources.default_bucket(aws):
        whole = Folder(root.client, root.bucket, "")
        if not whole.objects():
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


def _unused(root: Folder) -> list[str]:
    """Files of source and data that no run refers to."""
    used = set()
    for name in root.folder("runs").folders():
        run = runs.load(root, name)
        if run:
            used |= {runs.source_key(run), runs.data_key(run)}
    return [
        f"{kind}/{found.name}"
        for kind in ("source", "data")
        for found in root.folder(kind).objects()
        if f"{kind}/{found.name.partition('/')[0]}" not in used
    ]
