"""Imports run one way, and the library needs nothing but TensorFlow and numpy."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

_FOUNDATION = {
    *("labels", "timebase", "splits", "mel_scale", "protocols", "people"),
    *("schema", "manifest", "index", "moments", "slots", "tfds", "tfrecord", "html_page"),
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("emotion_tfdata", ("preprocess", "launch", "train")),
        ("preprocess", ("launch", "train")),
        ("launch", ("emotion_tfdata", "preprocess")),
    ],
)
def test_packages_import_only_what_lies_below_them(project_dir, package, forbidden):
    for path in (project_dir / package).rglob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] not in forbidden, f"{path} imports {name}"


def test_preprocess_uses_the_data_contract_alone(project_dir):
    for path in (project_dir / "preprocess").rglob("*.py"):
        for name in _imports(path):
            if name.startswith("emotion_tfdata"):
                assert name.split(".")[1] in _FOUNDATION, f"{path} imports {name}"


_WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_data_contract_loads_without_tensorflow():
    modules = ", ".join(f"emotion_tfdata.{name}" for name in sorted(_FOUNDATION))
    done = _run(_WITHOUT.format(absent={"tensorflow"}) + f"import {modules}")
    assert done.returncode == 0, done.stderr


def test_a_tensorflow_that_is_too_old_is_named(monkeypatch):
    import tensorflow as tf

    import emotion_tfdata

    monkeypatch.setattr(tf, "__version__", "2.15.1")
    with pytest.raises(
        ImportError, match=r"needs TensorFlow 2\.16 or later, this is 2\.15\.1: pip"
    ):
        emotion_tfdata.make_dataset  # noqa: B018 (looked up, and so imported)
    assert emotion_tfdata.Records.__name__ == "Records"


def test_make_dataset_works_without_mediapipe_and_librosa(fake_data_dir):
    absent = {"mediapipe", "librosa", "av", "scipy", "sklearn", "matplotlib", "absl_flags", "cv2"}
    done = _run(
        _WITHOUT.format(absent=absent)
        + "from emotion_tfdata import make_dataset, Augment\n"
        + f"print(len(list(make_dataset({fake_data_dir!r}, 'train', augment=Augment()))))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"
