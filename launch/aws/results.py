"""Bringing a run's files here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from launch import run as runs
from launch.aws.session import LaunchError
from launch.s3 import Folder, S3Error

_MARK = ".run.json"


def fetch(root: Folder, name: str, out_dir: Path, say: Callable[[str], None]) -> int:
    """Brings the training's folder, logs and status to `out_dir`, each file verified.

    What is there already is not fetched again, and half a file is gone on from.

    Returns:
      How many files were fetched.

    Raises:
      LaunchError: if there is no such run, or `out_dir` holds something else.
      S3Error: if a file does not come, or its name leads out of `out_dir`.
    """
    run = runs.load(root, name)
    if run is None:
        raise LaunchError(f"there is no run {name} in {root}; `list` shows what there is")
    folder, mark = runs.folder(root, name), out_dir / _MARK
    mine = {"name": name, "folder": str(folder)}
    if mark.is_file():
        if json.loads(mark.read_text()) != mine:
            raise LaunchError(f"{out_dir} holds another run's files; choose another --out_dir")
    elif out_dir.is_dir() and any(out_dir.iterdir()):
        raise LaunchError(f"{out_dir} holds files that are no run's; choose another --out_dir")
    out_dir.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(mine))
    objects = [found for found in folder.objects() if found.name not in (runs.STOP, runs.LAUNCH)]
    fetched = 0
    for found in objects:
        # The training's folder becomes this folder, so that train.py can go on in it.
        path = out_dir / found.name.removeprefix("model/")
        if not path.resolve().is_relative_to(out_dir.resolve()):
            raise S3Error(f"{folder}/{found.name}: the name leads out of {out_dir}; not fetched")
        if folder.download(found.name, path):
            fetched += 1
            say(f"{path} ({found.bytes / 1e6:.2f} MB)")
    say(f"{len(objects)} files in {out_dir}, {fetched} of them fetched now")
    return fetched
