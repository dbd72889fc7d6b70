"""What the READMEs say works: their Python runs, their commands have the flags, links lead on.

Slow, since the examples train on all landmarks and every program tells its flags itself.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys

import pytest

from emotion_tfdata import testing

_DATA_DIR = "data/sample/tfrecords"


def _readmes(project_dir):
    found = [project_dir / "README.md", *sorted(project_dir.glob("[a-z]*/README.md"))]
    assert len(found) == 5
    return found


def _blocks(project_dir, language):
    text = "".join(path.read_text() for path in _readmes(project_dir))
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def _commands(project_dir):
    lines = "".join(_blocks(project_dir, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@functools.cache
def _help(project_dir, *program):
    help_flag = "--help" if "launch.ec2" in program else "--helpfull"  # argparse's, or absl's
    command = [sys.executable, *program, help_flag]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project_dir)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sample_data_dir(tmp_path_factory):
    """A data set of the sample's shape: 478 landmarks, 80 bands, five folds."""
    path = str(tmp_path_factory.mktemp("sample"))
    examples = testing.fake_examples(
        num_audio_features=80, num_landmarks=478, duration_s=(0.5, 0.8)
    )
    testing.write_data_set(path, examples)
    return path


def test_every_python_example_runs(project_dir, sample_data_dir, monkeypatch, capsys):
    """Each with no name of another's, in this process: an import of TensorFlow costs seconds."""
    monkeypatch.chdir(project_dir)
    blocks = _blocks(project_dir, "python")
    assert len(blocks) >= 3
    for block in blocks:
        assert _DATA_DIR in block
        code = block.replace(_DATA_DIR, sample_data_dir)
        exec(compile(code, block, "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out


def test_every_command_names_a_program_and_flags_that_exist(project_dir):
    checked = 0
    for words in _commands(project_dir):
        if words[0].startswith("./"):
            assert (project_dir / words[0]).stat().st_mode & 0o100, words[0]
        if words[0].endswith("pip"):
            extras = ",".join(re.findall(r"\.\[(.*)\]", words[-1])).split(",")
            declared = (project_dir / "setup.cfg").read_text()
            assert all(f"\n{extra} =" in declared for extra in extras if extra), words
        if not words[0].endswith("python"):
            continue
        flags = [word for word in words if word.startswith("--")]
        if not flags:
            continue
        program = words[1 : words.index(flags[0])]
        shown = _help(project_dir, *program)
        for flag in flags:
            name = flag[2:].split("=")[0]
            assert re.search(rf"--(\[no\])?{name}\b", shown), f"{' '.join(program)} has no {flag}"
            checked += 1
    assert checked >= 4


def test_every_link_and_every_file_of_a_map_is_there(project_dir):
    for path in _readmes(project_dir):
        text = path.read_text()
        for link in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = link.partition("#")
            if link.startswith("http"):
                continue
            target = path.parent / file if file else path
            assert target.exists(), f"{path}: {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M) if anchor else []
            anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert not anchor or anchor in anchors, f"{path}: {link}"
        tables = "".join(line for line in text.splitlines(keepends=True) if line[0:1] == "|")
        folders = path.parent, project_dir, path.parent / "benchmarks"
        for name in re.findall(r"`([\w./*]+\.(?:py|sh|yaml|json|lock|txt))`", tables):
            there = any(list(folder.glob(name)) for folder in folders)
            assert there or name == "FILE.json", f"{path}: {name}"


def test_the_first_page_is_short(project_dir):
    assert len((project_dir / "README.md").read_text().splitlines()) <= 150


def test_no_figure_is_left_to_fill_in(project_dir):
    for path in (*_readmes(project_dir), project_dir / "BUILD_NOTES.md"):
        assert "@@" not in path.read_text(), path
