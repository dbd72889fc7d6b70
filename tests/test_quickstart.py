"""The README's first command, on a smaller sample corpus, in a copy of the project.

Slow, since it draws clips, finds faces and trains in processes of their own, and then again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def copy_dir(project_dir, tmp_path_factory):
    """The project's files as a clone would have them, with this environment for a .venv."""
    folder = tmp_path_factory.mktemp("clone")
    skipped = shutil.ignore_patterns(".*", "data", "runs", "build", "__pycache__", "*.egg-info")
    shutil.copytree(project_dir, folder, ignore=skipped, dirs_exist_ok=True)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def _run(copy_dir, *flags, **environment):
    return subprocess.run(
        ["./launch/quickstart.sh", *flags],
        cwd=copy_dir,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# And with a Keras that its user has set to a backend that is not even installed.
_SMALL = {"SAMPLE_FLAGS": "--num_actors=3 --clips_per_actor=6", "KERAS_BACKEND": "torch"}
# A network that starts quickly.
_FLAGS = [
    *("--epochs=1", "--model=audio_filters=4,4", "--model=audio_lstm_units=4,4"),
    *("--model=tcn_dilations=1", "--model=tcn_filters=4", "--model=joined_units=8,8"),
]


def _stamp(folder):
    """What launch/venv.sh writes into an environment that it made of the project there."""
    command = (
        f'echo "$({sys.executable} --version) $(cat setup.cfg launch/constraints.txt | cksum)"'
    )
    return subprocess.check_output(["bash", "-c", command], cwd=folder, text=True)


def test_it_ends_with_a_report_and_reuses_what_is_there(copy_dir):
    installed = Path(sys.prefix, ".installed")
    if not installed.exists() or not installed.read_text().startswith(_stamp(copy_dir)):
        pytest.skip("the environment was not made by launch/venv.sh, or of another setup.cfg")
    first = _run(copy_dir, *_FLAGS, **_SMALL)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    assert "36 drawn, 0 reused" in first.stdout
    assert "36 in 3 shards" in first.stdout
    assert "unweighted average recall" in first.stdout
    assert "drawn clips" in first.stdout
    report = json.loads((copy_dir / "runs/quickstart/report.json").read_text())
    assert report["provenance"] == "drawn clips"
    assert (copy_dir / "runs/quickstart/confusion_matrix.png").read_bytes()[1:4] == b"PNG"

    again = _run(copy_dir, *_FLAGS, **_SMALL)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert ".venv is up to date" in again.stdout
    assert "0 drawn, 36 reused" in again.stdout


def _bin_of(folder, *programs):
    """A folder with these programs of the system's alone, as a PATH."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(shutil.which(program))
    return str(folder)


_SHELL = ("bash", "dirname", "cat", "cksum", "env", "head", "tail")


def test_without_a_fitting_python_it_says_what_to_install(copy_dir, tmp_path):
    done = _run(copy_dir, PATH=_bin_of(tmp_path / "bin", *_SHELL), PYTHON="")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Python 3.10, 3.11 or 3.12 is needed, found: " in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_without_a_system_library_it_says_what_to_install(copy_dir, tmp_path):
    # An OpenCV that fails as the real one does where libGL is missing, in an environment whose
    # stamp says that it is whole.
    shutil.copytree(copy_dir, tmp_path, dirs_exist_ok=True, symlinks=True)
    (tmp_path / ".venv").unlink()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (site,) = (tmp_path / ".venv").glob("lib/python*/site-packages")
    words = "libGL.so.1: cannot open shared object file: No such file or directory"
    (site / "cv2.py").write_text(f"raise ImportError({words!r})")
    (tmp_path / ".venv/.installed").write_text(f"{_stamp(tmp_path)}preprocess,train\n")
    done = _run(tmp_path, PYTHON=sys.executable)
    assert done.returncode == 1
    assert done.stderr == (
        f"A system library is missing ({words}). Install it: apt-get install libgl1 libglib2.0-0\n"
    )
