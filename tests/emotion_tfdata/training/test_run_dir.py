"""Whose a model folder is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from emotion_tfdata.training import run_dir
from emotion_tfdata.training.run_dir import RunDirError

SETTINGS = {"name": "tcn", "learning_rate": 0.001, "model": {"l2": 0.001, "sizes": (1, 2)}}


def test_the_same_settings_may_come_back(tmp_path):
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / run_dir.CHECKPOINT).write_text("state")
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    assert (tmp_path / run_dir.CHECKPOINT).exists()


def test_other_settings_are_refused_and_named(tmp_path):
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    other = SETTINGS | {"model": {"l2": 0.0, "sizes": (1, 2)}}
    with pytest.raises(
        RunDirError, match=r"other settings \(model.l2: there 0.001, asked for 0.0\).*--overwrite"
    ):
        run_dir.claim(tmp_path, other, overwrite=False)


def test_overwrite_removes_the_trainings_files_and_no_others(tmp_path):
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / run_dir.CHECKPOINT).write_text("state")
    (tmp_path / run_dir.TENSORBOARD).mkdir()
    (tmp_path / run_dir.TENSORBOARD / "events").write_text("e")
    (tmp_path / "notes.txt").write_text("mine")
    run_dir.claim(tmp_path, SETTINGS | {"name": "other"}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", run_dir.SETTINGS]
    assert json.loads((tmp_path / run_dir.SETTINGS).read_text())["name"] == "other"


def test_overwrite_leaves_a_training_of_the_same_settings_to_be_resumed(tmp_path):
    for _ in range(2):  # the very command that is said to resume it
        run_dir.claim(tmp_path, SETTINGS, overwrite=True)
        (tmp_path / run_dir.CHECKPOINT).write_text("state")
    run_dir.claim(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / run_dir.CHECKPOINT).read_text() == "state"
    (tmp_path / run_dir.SETTINGS).write_text("{")
    with pytest.raises(
        RunDirError, match=r"settings\.json cannot be read .*--overwrite trains again"
    ):
        run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    run_dir.claim(tmp_path, SETTINGS, overwrite=True)
    assert not (tmp_path / run_dir.CHECKPOINT).exists()


def test_what_says_whose_the_files_are_is_removed_last(tmp_path, monkeypatch):
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / run_dir.TENSORBOARD).mkdir()

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_dir.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_dir.claim(tmp_path, SETTINGS | {"name": "other"}, overwrite=True)
    with pytest.raises(RunDirError, match="name: there tcn, asked for other"):
        run_dir.claim(tmp_path, SETTINGS | {"name": "other"}, overwrite=False)


def test_a_second_process_is_kept_out_until_the_first_has_gone(tmp_path):
    attempt = (
        "import sys; from pathlib import Path; from emotion_tfdata.training import run_dir\n"
        "with run_dir.locked(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", attempt, str(tmp_path)]
    with run_dir.locked(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "is in use by another training" in second.stderr
        assert second.returncode != 0
    assert subprocess.run(command, check=False).returncode == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(
            RunDirError, match=r"--model_dir=.*file/m cannot be written: Not a directory"
        ),
        run_dir.locked(tmp_path / "file" / "m"),
    ):
        pass


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    with run_dir.replacing(tmp_path / run_dir.SAVED_MODEL) as folder:
        folder.mkdir()
        half = tmp_path / f".{run_dir.SAVED_MODEL}"
        assert half.is_dir()
    half.mkdir()
    (tmp_path / f".{run_dir.CHECKPOINT}").write_text("half")
    run_dir.claim(tmp_path, SETTINGS, overwrite=False)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == sorted([run_dir.SAVED_MODEL, run_dir.SETTINGS])


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    run_dir.write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.5]}
    assert os.listdir(tmp_path) == ["x.json"]
