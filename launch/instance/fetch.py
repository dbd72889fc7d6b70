"""Brings the data set, and what an earlier attempt saved, to this instance.

python -m launch.instance.fetch BUCKET RUN ROOT [PREFIX]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3

from launch import run as runs
from launch.instance.mirror import pull
from launch.s3 import RETRIES, Folder


def main(bucket: str, name: str, root: str, prefix: str = "") -> None:
    """Data to ROOT/data, verified by its manifest; the training's folder to ROOT/model."""
    # The manifest's reader lies with the caller's modules, which need no more than boto3 either.
    from launch.aws import dataset

    top = Folder(boto3.client("s3", config=RETRIES), bucket, prefix)
    run = runs.load(top, name)
    assert run is not None, "the agent has read it"
    source, target = top.folder(runs.data_key(run)), Path(root, "data")
    target.mkdir(parents=True, exist_ok=True)
    source.download(dataset.MANIFEST, target / dataset.MANIFEST, run.data)
    data = dataset.parse((target / dataset.MANIFEST).read_bytes(), source)
    for shard in data.shards:
        source.download(shard.name, target / shard.name, shard.sha256)
    print(f"{len(data.shards)} shards, {data.bytes / 1e6:.1f} MB, verified", flush=True)

    if os.environ.get("WORKER", "0") != "0":
        return  # worker 0 gives the others its state
    # Made when all is here, and so before the training begins: after a restart what is here is
    # newer than what is in S3.
    pulled = Path(root, "model-pulled")
    if not pulled.exists():
        count = pull(runs.folder(top, name).folder("model"), Path(root, "model"))
        os.sync()  # the mark must not outlive a crash that the files do not
        pulled.touch()
        if count:
            print(f"{count} files of an earlier attempt are back", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
