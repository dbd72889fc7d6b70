"""What the commands do alike where they cannot do their work."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from preprocess import cli


@pytest.mark.parametrize(
    "command", ["build_tfrecords", "download", "predict", "sample_corpus", "verify"]
)
def test_an_unknown_flag_is_one_line_and_status_1(project_dir, command):
    done = subprocess.run(
        [sys.executable, "-m", f"preprocess.{command}", "--unheard_of=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=project_dir,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Unknown command line flag 'unheard_of'")


def test_paths_that_are_no_utf_8_can_be_printed(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(cli.flags, "FLAGS", cli.flags.FlagValues())  # of this command alone
    assert cli.parse_flags(["command", "clip"]) == ["command", "clip"]
    print(os.fsdecode(b"out-\xff"), flush=True)
    assert stdout.buffer.getvalue() == rb"out-\udcff" + b"\n"


def test_who_interrupts_is_told_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.stopped()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command resumes\n"


def test_an_interrupt_is_one_line_and_the_shell_s_status(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["predict"])
    with pytest.raises(SystemExit) as left:
        cli.run(interrupted)
    assert (left.value.code, capsys.readouterr().err) == (130, "stopped\n")
