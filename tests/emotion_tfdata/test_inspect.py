from __future__ import annotations

import numpy as np
import pytest
from absl import flags

from emotion_tfdata import inspect, testing


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("inspect"))
    examples = testing.fake_examples(num_actors=2, clips_per_actor=2, num_landmarks=478)
    testing.write_data_set(path, examples, num_folds=2)
    return path


def test_the_copy_is_the_clip_stretched_in_both_modalities(data_dir):
    example_id, (clip, copy) = inspect.clip_and_copy(data_dir, None, 1.2, 0.0, 0)
    assert example_id == "ravdess/clip-01-000"
    for name in ("audio", "landmarks"):
        assert (len(copy[name]) - 1) / (len(clip[name]) - 1) == pytest.approx(1.2, abs=0.03)
    at = np.arange(len(copy["audio"])) / 1.2
    expected = np.interp(at, np.arange(len(clip["audio"])), clip["audio"][:, 0])
    np.testing.assert_allclose(copy["audio"][:, 0], expected, atol=0.01)


def test_opening_and_brows_are_distances_between_points():
    landmarks = np.zeros((2, 478, 3))
    landmarks[1, 13], landmarks[1, 14] = (0, 0.3, 0), (0, 0, 0.4)
    np.testing.assert_allclose(inspect.mouth_opening(landmarks), [0, 0.5])
    landmarks[1, 105, 1], landmarks[1, 336] = 0.2, 9
    np.testing.assert_allclose(inspect.brow_height(landmarks), [0, 0.1])
    with pytest.raises(ValueError, match="10 landmarks: which are lips and brows is known for 478"):
        inspect.mouth_opening(np.zeros((2, 10, 3)))


@pytest.fixture
def command(monkeypatch):
    """The command in this process, with flags of its own."""

    def run(*words):
        monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
        inspect.define_flags(flags.FLAGS)
        inspect.main(flags.FLAGS(["inspect", *words]))

    return run


def test_the_command_writes_a_picture(command, data_dir, tmp_path, capsys):
    out = tmp_path / "clip.png"
    command(f"--data_dir={data_dir}", "--example_id=ravdess/clip-02-001", f"--out={out}")
    assert capsys.readouterr().out == f"ravdess/clip-02-001: {out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_data_set_is_named_in_one_line(command, tmp_path):
    with pytest.raises(SystemExit) as left:
        command(f"--data_dir={tmp_path}")
    assert str(left.value.code).startswith(f"inspect: {tmp_path} holds no data set")
