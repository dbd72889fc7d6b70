"""Data sets on S3: moto's server stands in for AWS, over real HTTP on this machine.

Slow, since each status is that of a process that imports TensorFlow.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emotion_tfdata import Records
from emotion_tfdata.dataset import storage
from emotion_tfdata.dataset.manifest import ManifestError

_BUCKET = "emotion-data"


@pytest.fixture(scope="module")
def s3_environment(fake_data_dir):
    """Environment for a process that reads `s3://emotion-data/fake`, served by moto."""
    boto3 = pytest.importorskip("boto3", reason="needs the extra [aws]")
    server_lib = pytest.importorskip("moto.server", reason="needs moto, of the extra [dev]")
    server = server_lib.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=_BUCKET)
    for path in Path(fake_data_dir).iterdir():
        client.upload_file(str(path), _BUCKET, f"fake/{path.name}")
    yield {**os.environ, **keys, "AWS_REGION": "us-east-1", "S3_ENDPOINT": endpoint}
    server.stop()


_EMPTY = """
from emotion_tfdata import make_dataset
from emotion_tfdata.dataset.manifest import ManifestError
try:
    make_dataset({place!r}, "train")
except ManifestError as error:
    print(error)
"""

_DIGEST = """
import hashlib, numpy as np, sys
from emotion_tfdata import Augment, make_dataset
digest = hashlib.sha256()
for features, label in make_dataset({place!r}, "train", augment=Augment(), batch_size=8):
    for values in (*features.values(), label):
        digest.update(np.asarray(values).tobytes())
print(digest.hexdigest())
print("buffered to the end", end="")
sys.exit({status})
"""


def test_s3_serves_the_same_bits_and_the_process_ends_with_its_own_status(
    s3_environment, fake_data_dir, capsys
):
    pytest.importorskip("tensorflow_io", reason="needs tensorflow-io, of the extra [aws]")
    remotes = {}
    for status in (0, 3):  # both at once
        # In the same process, a prefix without a data set.
        code = _EMPTY.format(place=f"s3://{_BUCKET}/nothing")
        code += _DIGEST.format(place=f"s3://{_BUCKET}/fake", status=status)
        remotes[status] = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=s3_environment,
        )
    with pytest.raises(SystemExit):
        exec(_DIGEST.format(place=fake_data_dir, status=3), {})
    local = capsys.readouterr().out
    assert re.fullmatch(r"[0-9a-f]{64}\nbuffered to the end", local)
    for status, remote in remotes.items():
        output, errors = remote.communicate()
        assert remote.returncode == status, errors
        said, _, digest = output.partition("\n")
        assert said == f"s3://{_BUCKET}/nothing holds no data set (no manifest.json)"
        assert digest == local


def test_without_tensorflow_io_s3_is_read_by_fsspec(monkeypatch):
    pytest.importorskip("fsspec", reason="needs the extra [remote]")
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(storage.StorageError, match=r"s3://bucket/prefix: .*[Ii]nstall s3fs"):
        storage.load_manifest("s3://bucket/prefix")


def test_s3fs_serves_the_same_records(s3_environment, fake_data_dir, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="needs s3fs, which goes with another botocore")
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3_environment[name])
    monkeypatch.setenv("EMOTION_TFDATA_CACHE", str(tmp_path))
    endpoint = {"endpoint_url": s3_environment["S3_ENDPOINT"]}
    monkeypatch.setitem(fsspec.config.conf, "s3", endpoint)
    place = f"s3://{_BUCKET}/fake"
    for one, other in zip(Records(place, "test"), Records(fake_data_dir, "test"), strict=True):
        np.testing.assert_array_equal(one["audio"], other["audio"])
    with pytest.raises(ManifestError, match="holds no data set"):
        Records(f"s3://{_BUCKET}/nothing", "test")


def test_a_local_folder_without_a_data_set_is_named(tmp_path):
    with pytest.raises(ManifestError, match="holds no data set"):
        storage.load_manifest(str(tmp_path))
