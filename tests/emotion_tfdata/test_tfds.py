"""TensorFlow Datasets itself reads what a build writes for it."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_tfdata import testing
from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.manifest import Manifest

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra [dev]")


def test_as_dataset_serves_every_record(fake_data_dir):
    builder = tfds.builder_from_directory(fake_data_dir)
    manifest = Manifest.load(fake_data_dir)
    splits = {name: split.num_examples for name, split in builder.info.splits.items()}
    sizes = np.bincount(manifest.index.folds)
    assert splits == {f"fold_{fold}": size for fold, size in enumerate(sizes)}
    expected = {each.example_id: each for each in testing.fake_examples()}
    served = builder.as_dataset(split="+".join(splits)).as_numpy_iterator()
    for features in served:
        example = expected.pop(features["example_id"].decode())
        for name in schema.TEXT_FEATURES:
            assert features[name].decode() == getattr(example, name)
        for name, array in schema.stored_arrays(example).items():
            np.testing.assert_array_equal(features[name], array, strict=True)
    assert not expected
    assert "audio: dB, stored in units of 0.0078125" in builder.info.description


def test_as_data_source_says_that_it_wants_another_format(fake_data_dir):
    builder = tfds.builder_from_directory(fake_data_dir)
    with pytest.raises(NotImplementedError, match=r"Random access data source .*TFRECORD is not"):
        builder.as_data_source(split="fold_0")
