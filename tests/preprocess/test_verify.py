"""What a data set that is whole, or is not, is said to be."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from emotion_tfdata import testing
from emotion_tfdata.manifest import Manifest, ManifestError
from preprocess.verify import verify


@pytest.fixture
def data_dir(fake_data_dir, tmp_path):
    return shutil.copytree(fake_data_dir, tmp_path / "data")


@pytest.fixture
def manifest(data_dir):
    return Manifest.load(str(data_dir))


def change(path, at, bits=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)


def rewrite(data_dir, change):
    path = data_dir / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_data_set_has_no_problem(data_dir):
    assert list(verify(data_dir)) == []


@pytest.mark.parametrize("part", ["length", "payload", "checksum"])
def test_a_flipped_bit_is_placed_in_shard_and_record(data_dir, manifest, part):
    shard = manifest.shards[1]
    record = shard.records[2]
    at = {"length": 1, "payload": 12 + record.length // 2, "checksum": 12 + record.length}[part]
    change(data_dir / shard.name, record.offset + at)
    first, second = verify(data_dir)
    assert first == f"{shard.name}: its SHA-256 is not the manifest's"
    assert second.startswith(f"{shard.name}: record 2 ({record.example_id}): ")
    assert ("begins where it should" if part == "length" else "match their checksum") in second


def test_a_cut_shard_names_the_records_that_are_gone(data_dir, manifest):
    shard = manifest.shards[0]
    path = data_dir / shard.name
    path.write_bytes(path.read_bytes()[: shard.records[-2].offset])
    found = list(verify(data_dir))
    assert found[0].endswith(f"bytes, the manifest says {shard.bytes}")
    assert [line.split("(")[1] for line in found[1:]] == [
        f"{record.example_id}): cut short" for record in shard.records[-2:]
    ]


def test_missing_and_unknown_shards_are_named(data_dir, manifest):
    name = manifest.shards[0].name
    (data_dir / name).rename(data_dir / "fold-0-of-5.tfrecord-00007-of-00008")
    unknown, missing = verify(data_dir)
    assert unknown == "fold-0-of-5.tfrecord-00007-of-00008: not in the manifest"
    assert missing == f"{name}: cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("emotion", "calm", "emotion is '"),
        ("audio_frames", 7, "audio has shape"),
        ("faces_frames", 1, "rows with a face, the manifest says 1"),
        ("random_fold", 9, "is in random fold 9 of a smaller set"),
    ],
)
def test_a_manifest_that_says_something_else_is_found(data_dir, field, value, problem):
    rewrite(data_dir, lambda m: m["shards"][0]["records"][0].update({field: value}))
    assert any(problem in line for line in verify(data_dir))


def test_statistics_that_do_not_count_the_records_are_found(data_dir):
    rewrite(data_dir, lambda m: m["statistics"]["actor"][1]["audio"].update({"count": 3}))
    (line,) = verify(data_dir)
    assert line.startswith("manifest: statistics of audio, actor fold 1, count 3 rows")


def test_a_value_that_is_not_finite_is_found_in_an_intact_shard(tmp_path, monkeypatch):
    examples = testing.fake_examples()
    examples[4] = dataclasses.replace(examples[4], head=np.full_like(examples[4].head, np.nan))
    monkeypatch.setattr(np, "isfinite", lambda array: np.ones(np.shape(array), bool))
    testing.write_data_set(str(tmp_path), examples)
    monkeypatch.undo()
    (line,) = verify(tmp_path)
    assert f"({examples[4].example_id}): head is not finite at [0 0]" in line


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path):
    with pytest.raises(ManifestError, match="holds no data set"):
        list(verify(tmp_path))


def test_the_command_says_whole_or_ends_with_status_1(data_dir, manifest, project_dir):
    command = [sys.executable, "-m", "preprocess.verify", f"--data_dir={data_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{data_dir}: whole. 30 records in 5 shards, ")
    change(data_dir / manifest.shards[0].name, 40)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project_dir)
    assert done.returncode == 1
    assert "2 problems" in done.stderr
    assert len(done.stdout.splitlines()) == 2
