from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_tfdata import testing
from emotion_tfdata.manifest import MANIFEST_NAME, Manifest, ManifestError, Moments


def test_what_is_saved_is_loaded(tmp_path):
    manifest = testing.write_data_set(str(tmp_path), testing.fake_examples(num_actors=2))
    loaded = Manifest.load(str(tmp_path))
    assert loaded.to_json() == manifest.to_json()
    assert loaded.records == manifest.records
    assert list(tmp_path.glob("*.tmp")) == []


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
    held_out = {r.example_id for s, r in manifest.records if s.fold == 2}
    kept = [e for e in examples if e.example_id not in held_out]
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
    path.write_text(json.dumps(content | {"version": 99}))
    with pytest.raises(ManifestError, match="version 99; this release reads version 1"):
        Manifest.load(str(tmp_path))
    del content["shards"][0]["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=r"a field is missing or malformed.*sha256"):
        Manifest.load(str(tmp_path))
