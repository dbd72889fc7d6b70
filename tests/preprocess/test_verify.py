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


RECORD = ("shards", 0, "records", 0)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ((*RECORD, "offset"), "a", "manifest: record 'ravdess/clip-01-000': offset is 'a', not a"),
        ((*RECORD, "offset"), -5, "manifest: record 'ravdess/clip-01-000': offset is -5, less"),
        ((*RECORD, "offset"), 2**70, "record 0 (ravdess/clip-01-000): cut short"),
        ((*RECORD, "length"), 10**15, "record 0 (ravdess/clip-01-000): cut short"),
        ((*RECORD, "audio_frames"), True, "audio_frames is True, not a whole number"),
        ((*RECORD, "example_id"), ["x"], "manifest: record ['x']: example_id is ['x'], not a text"),
        (("shards", 0, "fold"), None, "fold is None, not a whole number"),
        (("shards", 0, "name"), "a/b", "manifest: 'a/b' is not the name of a shard"),
        (("shards", 0, "name"), 7, "manifest: shard 7: name is 7, not a text"),
        (("shards",), [], "manifest: it has no record"),
        (("num_classes",), 7, "manifest: num_classes must be 6 or 8, got 7"),
        (("num_folds",), 4, "manifest: statistics of 5 actor folds, it has 4"),
        (("num_folds",), "5", "manifest: num_folds is '5', not a whole number"),
        (("settings",), [], "manifest: settings is [], not an object"),
        (("modalities",), ["audio", []], "manifest: modality [] is none of audio, landmarks"),
        (("statistics",), {}, "manifest: statistics of 0 random folds, it has 5"),
        (("statistics", "random", 2), {}, "statistics of nothing, random fold 2, it has audio, l"),
        (("statistics", "random", 2, "audio", "mean"), [1.0], "fold 2: mean has shape (1,)"),
        (("statistics", "random", 2, "audio", "m2"), ["x"] * 8, "m2 does not hold numbers alone"),
        (("statistics", "random", 2, "audio", "count"), 1.5, "count is 1.5, not a whole number"),
    ],
)
def test_a_manifest_of_another_form_is_said_to_be(data_dir, path, value, problem):
    def damage(content):
        *outer, last = path
        for key in outer:
            content = content[key]
        content[last] = value

    rewrite(data_dir, damage)
    lines = list(verify(data_dir))
    assert any(problem in line for line in lines), lines


def test_statistics_of_a_protocol_that_are_missing_are_named(data_dir):
    rewrite(data_dir, lambda m: m["statistics"].pop("random"))
    assert list(verify(data_dir)) == ["manifest: statistics of 0 random folds, it has 5"]


@pytest.mark.parametrize("protocol", ["actor", "random"])
@pytest.mark.parametrize("name", ["mean", "m2"])
@pytest.mark.parametrize("modality", ["audio", "landmarks"])
def test_statistics_of_other_rows_are_found(data_dir, protocol, name, modality):
    def damage(content):
        values = content["statistics"][protocol][3][modality][name]
        row = values[1] if modality == "landmarks" else values
        row[2] *= 1 + 3e-6

    rewrite(data_dir, damage)
    (line,) = verify(data_dir)
    at = "(1, 2)" if modality == "landmarks" else "(2,)"
    where = f"manifest: statistics of {modality}, {protocol} fold 3, {name} at {at} is "
    assert line.startswith(where)


def test_statistics_that_are_not_finite_are_found(data_dir):
    rewrite(
        data_dir,
        lambda m: m["statistics"]["random"][3]["audio"]["m2"].__setitem__(0, float("nan")),
    )
    assert list(verify(data_dir)) == [
        "manifest: statistics of audio, random fold 3, are not finite"
    ]


def test_a_random_fold_that_is_not_the_one_summed_is_found(data_dir, manifest):
    record = manifest.shards[0].records[0]
    other = (record.random_fold + 1) % 5
    rewrite(data_dir, lambda m: m["shards"][0]["records"][0].update(random_fold=other))
    lines = list(verify(data_dir))
    assert len(lines) == 4
    for fold in (record.random_fold, other):
        assert sum(f", random fold {fold}, count " in line for line in lines) == 2


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
