"""Whole or not at all, and only into the model it is of."""

from __future__ import annotations

import io
import os

import keras
import numpy as np
import pytest

from emotion_tfdata.training import checkpoint


def test_arrays_and_state_come_back_to_the_bit(tmp_path):
    path = str(tmp_path / "c.npz")
    arrays: dict[str, np.ndarray] = {
        "model/0000/a/b": np.array([1e-38, -0.0, np.pi], np.float32),
        "n": np.array(7, np.int64),
    }
    state = {"loss": 0.1 + 0.2, "best": -float("inf"), "history": [{"epoch": 1, "x": None}]}
    checkpoint.save(path, arrays, state)
    loaded, loaded_state = checkpoint.load(path)
    assert loaded_state == state
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].tobytes() == array.tobytes()

    sent, sent_state = checkpoint.load(io.BytesIO(checkpoint.to_bytes(arrays, state)))
    assert sent_state == state
    assert {name: array.tobytes() for name, array in sent.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_a_save_that_breaks_off_leaves_the_one_before(tmp_path, monkeypatch):
    path = str(tmp_path / "c.npz")
    checkpoint.save(path, {"a": np.zeros(3)}, {"epoch": 1})

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"a": np.ones(3)}, {"epoch": 2})
    assert os.listdir(tmp_path) == ["c.npz"]
    arrays, state = checkpoint.load(path)
    assert state == {"epoch": 1}
    np.testing.assert_array_equal(arrays["a"], np.zeros(3))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "c.npz"
    checkpoint.save(str(path), {"a": np.arange(1000.0)}, {"epoch": 1})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-200], "empty": b"", "text": b"hello", "flipped": content}[damage]
    path.write_bytes(bytes(damaged))
    with pytest.raises(checkpoint.CheckpointError, match=r"c\.npz: cannot be read .* Remove it"):
        checkpoint.load(str(path))


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(str(tmp_path / "none.npz"))


def test_variables_get_their_values_back():
    source, target = keras.layers.Dense(3, name="d"), keras.layers.Dense(3, name="d")
    source.build((None, 2))
    target.build((None, 2))
    arrays = checkpoint.arrays_of(source.variables, "model")
    checkpoint.assign(target.variables, arrays, "model", "x")
    np.testing.assert_array_equal(np.array(target.kernel), np.array(source.kernel))


def test_a_checkpoint_of_another_shape_is_refused_and_nothing_is_assigned():
    layer, wider = keras.layers.Dense(3, name="d"), keras.layers.Dense(3, name="d")
    layer.build((None, 2))
    wider.build((None, 4))
    before = np.array(layer.kernel)
    arrays = checkpoint.arrays_of(wider.variables, "model")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"c.npz is of another model: .*kernel is float32 \(4"
    ):
        checkpoint.assign(layer.variables, arrays, "model", "c.npz")
    np.testing.assert_array_equal(np.array(layer.kernel), before)


def test_a_checkpoint_with_other_variables_is_refused():
    layer = keras.layers.Dense(3, name="d")
    without_bias = keras.layers.Dense(3, use_bias=False, name="d")
    layer.build((None, 2))
    without_bias.build((None, 2))
    arrays = checkpoint.arrays_of(without_bias.variables, "model")
    with pytest.raises(checkpoint.CheckpointError, match="only the model has model/0001/d/bias"):
        checkpoint.assign(layer.variables, arrays, "model", "c.npz")
