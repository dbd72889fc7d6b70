from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata import testing
from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.index import Index
from emotion_tfdata.dataset.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    STATISTICS_NAME,
    Manifest,
    ManifestError,
)
from emotion_tfdata.dataset.statistics import Moments


def test_what_is_saved_is_loaded(tmp_path):
    manifest = testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=2))
    loaded = Manifest.load(str(tmp_path))
    assert_equal(loaded, manifest)
    assert loaded.sha256 == hashlib.sha256((tmp_path / MANIFEST_NAME).read_bytes()).hexdigest()
    assert list(tmp_path.glob("*.tmp")) == []


def assert_equal(one, other):
    """Compares dataclasses with arrays in them."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        assert_equal(vars(one), vars(other))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_equal(value, other[name])
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    else:
        assert one == other


def test_the_same_data_set_has_the_same_bytes_at_any_time(fake_data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    manifest = Manifest.load(fake_data_dir)
    assert manifest.save(str(tmp_path)).sha256 == manifest.sha256
    for name in (MANIFEST_NAME, INDEX_NAME, STATISTICS_NAME):
        assert (tmp_path / name).read_bytes() == (Path(fake_data_dir) / name).read_bytes()


def test_an_index_holds_texts_of_any_script(fake_data_dir, tmp_path):
    manifest = Manifest.load(fake_data_dir)
    records = [
        dataclasses.replace(record, example_id=f"ravdess/голос-{number}", sentence="Привет, 世界")
        for number, record in enumerate(manifest.index.records)
    ]
    sizes = [shard.records for shard in manifest.shards]
    ends = np.cumsum(sizes)
    shards = [records[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    folds = dict(zip(manifest.index.actor_keys, manifest.index.actor_folds.tolist(), strict=True))
    dataclasses.replace(manifest, index=Index.of(shards, folds)).save(str(tmp_path))
    assert Manifest.load(str(tmp_path)).index.records == records


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 999))
def test_moments_of_parts_add_up_to_those_of_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    # A mean far from zero: sums of squares would lose the deviation to cancellation.
    parts = [rng.standard_normal((size, 3)) + 1e6 for size in sizes]
    total = Moments.zero(3)
    for part in parts:
        total = total + Moments.of(part)
    whole = np.concatenate(parts)
    assert total.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(total.mean, whole.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(total.deviation, whole.std(axis=0), rtol=1e-6, atol=1e-9)


def test_moments_of_a_data_set_are_those_of_its_rows(tmp_path):
    examples = testing.fake_examples(num_actors=5)
    manifest = testing.write_data_set(str(tmp_path), examples)
    folds = dict(zip(manifest.index.actor_names, manifest.index.actor_folds, strict=True))
    kept = [e for e in examples if folds[e.actor] != 2]
    assert len(kept) == 24
    rows = np.concatenate([e.landmarks[e.landmarks_valid] for e in kept])
    moments = manifest.moments("landmarks", "actor", [0, 1, 3, 4])
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(moments.deviation, rows.std(axis=0), atol=1e-4)


def test_a_folder_without_a_manifest_is_no_data_set(tmp_path):
    with pytest.raises(
        ManifestError, match=r"holds no data set \(no manifest\.json.*Make one with"
    ):
        Manifest.load(str(tmp_path))
    with pytest.raises(ManifestError, match="nowhere does not exist"):
        Manifest.load(str(tmp_path / "nowhere"))
    (tmp_path / "build.json").touch()
    with pytest.raises(ManifestError, match=r"holds an unfinished build .* it resumes"):
        Manifest.load(str(tmp_path))


def test_a_manifest_that_is_cut_or_foreign_is_refused_by_name(tmp_path, fake_data_dir):
    path = tmp_path / MANIFEST_NAME
    whole = (Path(fake_data_dir) / MANIFEST_NAME).read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"manifest\.json: not a manifest of this library"):
        Manifest.load(str(tmp_path))
    path.write_text("[1, 2]")
    with pytest.raises(ManifestError, match="not a manifest of this library"):
        Manifest.load(str(tmp_path))
    content = json.loads(whole)
    path.write_text(json.dumps(content | {"version": 1}))
    with pytest.raises(ManifestError, match=r"version 1; .* reads version 2\. Build .*--overwrite"):
        Manifest.load(str(tmp_path))
    for damage, problem in (
        (lambda m: m["shards"][0].pop("sha256"), "'sha256'"),
        (lambda m: m["shards"][0].update(name="../a"), "'../a' is no name of a file"),
        (lambda m: m["shards"][0].update(bytes=1.5), "bytes is 1.5, not a whole number"),
        (lambda m: m["shards"][0].update(records=True), "records is True, not a whole number"),
        (lambda m: m.update(num_folds="5"), "num_folds is '5', not a whole number"),
        (lambda m: m.update(settings=[]), r"settings is \[\], not an object"),
        (lambda m: m.update(modalities={"audio": {}}), "'array'"),
        (lambda m: m["files"].pop(1), STATISTICS_NAME),
    ):
        content = json.loads(whole)
        damage(content)
        path.write_text(json.dumps(content))
        with pytest.raises(ManifestError, match=f"a field is missing or malformed.*{problem}"):
            Manifest.load(str(tmp_path))


@pytest.mark.parametrize("name", [INDEX_NAME, STATISTICS_NAME])
def test_files_beside_the_manifest_are_the_ones_that_it_states(fake_data_dir, tmp_path, name):
    for path in Path(fake_data_dir).glob("*.*"):
        shutil.copy(path, tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    with pytest.raises(ManifestError, match=f"{name}: its SHA-256 is not the manifest's; copy it"):
        Manifest.load(str(tmp_path))
    (tmp_path / name).unlink()
    with pytest.raises(ManifestError, match=f"{name}: cannot be read .*No such file"):
        Manifest.load(str(tmp_path))


def test_a_random_grouping_of_actors_has_numpy_s_mean_and_deviation(tmp_path):
    examples = testing.fake_examples(num_actors=9)
    manifest = testing.write_data_set(str(tmp_path), examples)
    rng = np.random.default_rng(3)
    for modality in manifest.modalities:
        for _ in range(10):
            chosen = rng.random(9) < 0.5
            names = {n for n, c in zip(manifest.index.actor_names, chosen, strict=True) if c}
            stored = [schema.decode(schema.encode(e)) for e in examples if e.actor in names]
            rows = [schema.valid_rows(each, manifest.modalities)[modality] for each in stored]
            moments = manifest.statistics.by_actor[modality].total(chosen)
            every = np.concatenate(rows).astype(np.float64)
            np.testing.assert_allclose(moments.mean, every.mean(axis=0), rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(moments.deviation, every.std(axis=0), rtol=1e-6)
