"""What a data set that is whole, or is not, is said to be."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from emotion_tfdata import testing
from emotion_tfdata.dataset.manifest import Manifest, ManifestError
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


def rewrite(data_dir, part, name, at, value):
    """Changes a number of the index or of the statistics, all checksums made right again."""
    manifest = Manifest.load(str(data_dir))
    of = getattr(manifest, part)
    arrays = {key: array.copy() for key, array in of.to_arrays().items()}
    arrays[name][at] = value(arrays[name][at]) if callable(value) else value
    changed = types.SimpleNamespace(to_arrays=lambda: arrays)
    dataclasses.replace(manifest, **{part: changed}).save(str(data_dir))


def test_a_whole_data_set_has_no_problem(data_dir):
    assert list(verify(data_dir)) == []


@pytest.mark.parametrize("part", ["length", "payload", "checksum"])
def test_a_flipped_bit_is_placed_in_shard_and_record(data_dir, manifest, part):
    shard = manifest.shards[1]
    record = manifest.index.record(shard.records + 2)
    at = {"length": 1, "payload": 12 + record.length // 2, "checksum": 12 + record.length}[part]
    change(data_dir / shard.name, record.offset + at)
    first, second = verify(data_dir)
    assert first == f"{shard.name}: its SHA-256 is not the manifest's"
    assert second.startswith(f"{shard.name}: record 2 ({record.example_id}): ")
    assert ("begins where it should" if part == "length" else "match their checksum") in second


def test_a_cut_shard_names_the_records_that_are_gone(data_dir, manifest):
    shard = manifest.shards[0]
    path = data_dir / shard.name
    last_two = manifest.index.records[shard.records - 2 : shard.records]
    path.write_bytes(path.read_bytes()[: last_two[0].offset])
    found = list(verify(data_dir))
    assert found[0].endswith(f"bytes, the manifest says {shard.bytes}")
    assert [line.split("(")[1] for line in found[1:]] == [
        f"{record.example_id}): cut short" for record in last_two
    ]


def test_missing_and_unknown_shards_are_named(data_dir, manifest):
    name = manifest.shards[0].name
    (data_dir / name).rename(data_dir / "fold-0-of-5.tfrecord-00007-of-00008")
    unknown, missing = verify(data_dir)
    assert unknown == "fold-0-of-5.tfrecord-00007-of-00008: not in the manifest"
    assert missing == f"{name}: cannot be read (No such file or directory)"


def test_what_tensorflow_datasets_reads_is_compared_too(data_dir):
    change(data_dir / "features.json", 20)
    (data_dir / "dataset_info.json").unlink()
    assert list(verify(data_dir)) == [
        "features.json: its SHA-256 is not the manifest's",
        "dataset_info.json: cannot be read (No such file or directory)",
    ]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        (
            "emotions",
            lambda code: (code + 1) % 6,
            "(ravdess/clip-01-000): emotion is 'neutral', not",
        ),
        ("actors", 1, "(ravdess/clip-01-000): actor is '01', not '02'"),
        ("frames.audio", 7, "audio has shape"),
        ("valid_frames.landmarks", 1, "rows hold landmarks, the index says 1"),
        ("lengths", 10**15, "(ravdess/clip-01-000): cut short"),
        ("offsets", 1, "(ravdess/clip-01-000): no record of its length begins where it should"),
        ("keys", 5, "(ravdess/clip-01-000): its key in index.npz is not that of its id"),
        ("example_ids", b"ravdess/clip-01-001", "index.npz: ravdess/clip-01-001 stands 2 times"),
    ],
)
def test_an_index_that_says_something_else_is_found(data_dir, column, value, problem):
    rewrite(data_dir, "index", column, 0, value)
    lines = list(verify(data_dir))
    assert any(problem in line for line in lines), lines


@pytest.mark.parametrize(
    ("part", "name", "value", "problem"),
    [
        ("index", "random_folds", 9, "index.npz: random_folds holds values below 0 or 5 and more"),
        ("index", "offsets", -5, "index.npz: offsets holds values below 0"),
        ("index", "shards", 1, "index.npz: shards do not hold as many records as the manifest"),
        ("statistics", "by_actor.audio.m2", np.nan, "by_actor.audio.m2 holds values that no rows"),
    ],
)
def test_values_that_no_data_set_can_have_are_refused(data_dir, part, name, value, problem):
    rewrite(data_dir, part, name, 0, value)
    with pytest.raises(ManifestError, match=re.escape(problem)):
        list(verify(data_dir))


@pytest.mark.parametrize("grouping", ["by_actor", "by_random_fold"])
@pytest.mark.parametrize("name", ["count", "mean", "m2"])
@pytest.mark.parametrize("modality", ["audio", "landmarks"])
def test_statistics_of_other_rows_are_found(data_dir, grouping, name, modality):
    group = (3,) if grouping == "by_actor" else (0, 3)
    at = () if name == "count" else (1, 2) if modality == "landmarks" else (2,)
    change = 2 if name == "count" else 1 + 3e-6
    rewrite(
        data_dir, "statistics", f"{grouping}.{modality}.{name}", group + at, lambda x: x * change
    )
    (line,) = verify(data_dir)
    where = "ravdess/04" if grouping == "by_actor" else "ravdess, random fold 3"
    wanted = f"statistics.npz: {name} of {modality}, {where}, at {[*group, *at]} is "
    assert line.startswith(wanted)


def test_a_random_fold_that_is_not_the_one_summed_is_found(data_dir, manifest):
    before = int(manifest.index.random_folds[0])
    other = (before + 1) % 5
    rewrite(data_dir, "index", "random_folds", 0, other)
    lines = list(verify(data_dir))
    assert len(lines) == 6  # count, mean and m2 of either modality, at the first place
    assert all(f", random fold {min(before, other)}, " in line for line in lines)


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
