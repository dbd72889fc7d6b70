"""Imports run one way, and the library needs nothing but TensorFlow and numpy."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys

import pytest

# Rooms, each of which imports only those before it; a tuple is one room in two folders.
_ROOMS = {
    "emotion_tfdata": ["dataset", "augment", "stream", "models", "training", "grid"],
    "preprocess": [("clip", "corpora"), "drawn", "reports", "builder", "prediction"],
}
# What `preprocess` may use of the library: the data contract, which needs no TensorFlow.
_CONTRACT = ("dataset", "fields", "labels", "html_page", "pinning", "ray_join")


def _imports(path):
    return _names(path.read_text())


def _names(text):
    for node in ast.walk(ast.parse(text)):
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
                assert name.split(".")[1] in _CONTRACT, f"{path} imports {name}"


@pytest.mark.parametrize("package", _ROOMS)
def test_rooms_import_only_those_before_them(project_dir, package):
    known: set[str] = set()
    for room in _ROOMS[package]:
        folders = room if isinstance(room, tuple) else (room,)
        known |= set(folders)
        later = {path.name for path in (project_dir / package).iterdir() if path.is_dir()} - known
        for folder in folders:
            for path in (project_dir / package / folder).rglob("*.py"):
                for name in _imports(path):
                    first, *rest = name.split(".")
                    assert first != package or not {*rest[:1]} & later, f"{path} imports {name}"


def test_no_modules_import_each_other(project_dir):
    """What is imported for types alone does not count: it is not there when the code runs."""
    paths = {
        ".".join(path.relative_to(project_dir).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for package in ("emotion_tfdata", "preprocess", "launch")
        for path in (project_dir / package).rglob("*.py")
    }
    graph = {}
    for module, path in paths.items():
        text = re.sub(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)+", "", path.read_text(), flags=re.M)
        names = {name if name in paths else name.rpartition(".")[0] for name in _names(text)}
        graph[module] = names & paths.keys() - {module}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(paths) > 100


def test_no_module_needs_anothers_private_names(project_dir):
    for package in ("emotion_tfdata", "preprocess", "launch"):
        for path in (project_dir / package).rglob("*.py"):
            for name in _imports(path):
                own = name.split(".")[0] in ("emotion_tfdata", "preprocess", "launch")
                assert not (own and name.rpartition(".")[2].startswith("_")), f"{path}: {name}"


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


def test_the_data_contract_loads_without_tensorflow(project_dir):
    names = [path.stem for path in (project_dir / "emotion_tfdata" / "dataset").glob("[a-z]*.py")]
    modules = ", ".join([f"emotion_tfdata.dataset.{name}" for name in names])
    modules += ", emotion_tfdata.labels, emotion_tfdata.html_page, emotion_tfdata.records"
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
    absent = {"mediapipe", "librosa", "av", "scipy", "sklearn", "matplotlib", "jinja2", "cv2"}
    done = _run(
        _WITHOUT.format(absent=absent)
        + "from emotion_tfdata import make_dataset, Augment\n"
        + f"print(len(list(make_dataset({fake_data_dir!r}, 'train', augment=Augment()))))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


def test_modules_are_found_where_they_were_before_they_had_rooms():
    code = "from preprocess import align, media\nprint(align.__name__, media.__name__)"
    assert _run(code).stdout.split() == ["preprocess.clip.align", "preprocess.clip.media"]


def test_the_top_level_holds_what_is_agreed_and_nothing_else(project_dir):
    if not (project_dir / ".git").exists():
        pytest.skip("no git repository: what is tracked is not known")
    command = ["git", "ls-tree", "--name-only", "HEAD"]
    listed = subprocess.run(command, cwd=project_dir, capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) == {
        *("README.md", "BUILD_NOTES.md", "setup.cfg", "pyproject.toml", "tcn.flags", "train.py"),
        *("emotion_tfdata", "preprocess", "launch", "tests", ".gitignore", ".ci"),
    }
