"""What a worker makes of one clip where something is wrong with the machine or with the clip."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import os
import re
import shutil

import pytest

from preprocess.builder import self_test
from preprocess.builder.building import build
from preprocess.builder.dry_run import estimate
from preprocess.builder.plan import BuildError, BuildSettings, plan_build
from preprocess.builder.process_clip import Stop, Work
from preprocess.builder.workspace import Workspace
from preprocess.clip.container import MediaError
from preprocess.clip.example import make_example
from preprocess.corpora import Skipped

FLV = "1001_DFA_ANG_XX"


@pytest.fixture(scope="module")
def crema_d(tmp_path_factory, encode):
    root = tmp_path_factory.mktemp("corpora") / "crema_d"
    encode(root / "VideoFlash" / f"{FLV}.flv", audio_rate_hz=44100)
    return root


@pytest.fixture
def planned(crema_d, tmp_path):
    """The plan of a build of one clip in `tmp_path`, and its work."""
    roots, settings = {"crema_d": crema_d}, BuildSettings()
    plan = plan_build(roots, settings)
    return plan, Work(roots, settings, settings.as_dict(), Workspace(tmp_path), plan.checked)


def test_a_worker_where_something_else_is_installed_or_to_be_seen_stops_the_build(
    planned, tmp_path, claim
):
    plan, work = planned
    (clip,) = plan.clips
    stopped = work(clip)
    assert isinstance(stopped, Stop)
    assert f"the build's {tmp_path}/.work is not there. --out_dir must be on storage" in str(
        stopped
    )
    with claim(work.workspace, {}, overwrite=False):
        elsewhere = dataclasses.replace(work, roots={"crema_d": tmp_path / "no"})
        assert "no is not there. --crema_d_dir must be there on all nodes" in str(elsewhere(clip))
        versions = {**work.wanted["versions"], "av": "9.2.0"}
        other = dataclasses.replace(work, wanted={**work.wanted, "versions": versions})
        assert re.search(r"it has av \d+\S*, not 9\.2\.0 as where the build", str(other(clip)))
        gone = dataclasses.replace(
            clip, sound=str(tmp_path / "no.flv"), picture=str(tmp_path / "no.flv")
        )
        assert "no.flv is gone, or not seen from here" in str(work(gone))
        assert isinstance(work(clip), int)


def test_a_clip_that_needs_too_much_memory_is_skipped_with_the_flag(planned, monkeypatch, claim):
    plan, work = planned

    def starve(*_, **__):
        raise MemoryError

    monkeypatch.setattr("preprocess.builder.process_clip.make_example", starve)
    with claim(work.workspace, {}, overwrite=False):
        skipped = work(plan.clips[0])
    assert skipped == Skipped(
        f"crema_d/VideoFlash/{FLV}.flv", "failed", "needs more memory than --worker_memory_mb gives"
    )


@pytest.mark.parametrize(
    ("number", "stops"),
    [(errno.ESTALE, True), (errno.EMFILE, True), (errno.EIO, False), (errno.EACCES, False)],
)
def test_only_a_file_s_own_trouble_leaves_it_out_and_not_for_good(
    planned, monkeypatch, number, stops, claim
):
    plan, work = planned
    words = os.strerror(number)

    def fail(*_, **__):
        raise OSError(number, words, "clip.flv")

    monkeypatch.setattr("preprocess.builder.process_clip.make_example", fail)
    where = f"crema_d/VideoFlash/{FLV}.flv"
    with claim(work.workspace, {}, overwrite=False):
        outcome = work(plan.clips[0])
        assert work.workspace.outcomes() == {}
    if stops:
        assert isinstance(outcome, Stop)
        assert f"{where} cannot be read ({words}). Fix it; then the same command" in outcome.reason
    else:
        assert outcome == Skipped(where, "unreadable", f"cannot be read ({words})")


def test_a_library_that_is_not_installed_is_no_clip_s_fault(
    planned, tmp_path, monkeypatch, here, in_process, claim
):
    plan, work = planned

    def missing(*_, **__):
        raise ImportError("libGL.so.1: cannot open shared object file")

    with monkeypatch.context() as patched:
        patched.setattr("preprocess.builder.dry_run.make_example", missing)
        patched.setattr("preprocess.builder.dry_run.Pool", here)
        with pytest.raises(
            BuildError, match=r"^libGL\.so\.1: .*\. Install .*apt-get install libgl1"
        ):
            estimate(work.roots, BuildSettings(), num_workers=1, clip_timeout_s=60.0)

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    with claim(work.workspace, {}, overwrite=False):
        stop = work(plan.clips[0])
    assert isinstance(stop, Stop)
    assert re.search(r": av is not installed\. Install the extra .*; then the same", stop.reason)
    with pytest.raises(BuildError, match=r"^av is not installed"):
        build(work.roots, tmp_path, BuildSettings(), **in_process)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("cannot cache function 'f': no locator"), "Set NUMBA_CACHE_DIR to a folder"),
        (
            TypeError("Descriptors cannot be created directly.\nIf this"),
            "-c launch/constraints.txt",
        ),
        (AttributeError("module 'numpy' has no attribute 'float'"), "-c launch/constraints.txt"),
        (OSError("No usable temporary directory found"), "Set HOME and TMPDIR to folders"),
        (ImportError("libGL.so.1: cannot open"), "apt-get install libgl1"),
        (MemoryError(), "--worker_memory_mb is too little"),
    ],
)
def test_libraries_that_do_not_work_end_the_build_before_a_clip_is_touched(
    planned, monkeypatch, in_process, tmp_path, error, says
):
    _, work = planned

    def broken(*_, **__):
        raise error

    self_test.why_unfit.cache_clear()
    monkeypatch.setattr("preprocess.clip.audio.resample", broken)
    try:
        with pytest.raises(BuildError, match=re.escape(says)) as told:
            build(work.roots, tmp_path, BuildSettings(), **in_process)
    finally:
        self_test.why_unfit.cache_clear()
    assert "\n" not in str(told.value)
    assert str(told.value).endswith("then the same command resumes")
    assert Workspace(tmp_path).outcomes() == {}


def _copies(crema_d, folder, count):
    original = crema_d / "VideoFlash" / f"{FLV}.flv"
    for number in range(count):
        shutil.copy(original, folder / f"10{number:02d}_DFA_ANG_XX.flv")
    return {"crema_d": folder}


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyError("no such symbol"), MediaError("no decoder", "unknown")]
)
def test_first_clips_that_fail_alike_end_the_build_and_are_not_held_against_them(
    crema_d, tmp_path, monkeypatch, in_process, made, error
):
    (tmp_path / "in").mkdir()
    roots = _copies(crema_d, tmp_path / "in", 6)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("preprocess.builder.process_clip.make_example", fail)
        with pytest.raises(BuildError, match="the first 5 clips all failed alike, which is hardly"):
            build(roots, tmp_path / "out", BuildSettings(num_folds=2), **in_process)
    assert Workspace(tmp_path / "out").outcomes() == {}
    monkeypatch.setattr("preprocess.builder.process_clip.make_example", made)
    report = build(roots, tmp_path / "out", BuildSettings(num_folds=2), **in_process)
    assert (report.clips_written, report.skipped) == (6, 0)


def test_clips_that_fail_after_one_that_did_not_are_listed(
    crema_d, tmp_path, monkeypatch, in_process, made
):
    (tmp_path / "in").mkdir()
    roots = _copies(crema_d, tmp_path / "in", 7)

    def fail_but_for_one(clip, *_, **__):
        if clip.actor != "1001":
            raise KeyError("damaged beyond words")
        return made(clip)

    monkeypatch.setattr("preprocess.builder.process_clip.make_example", fail_but_for_one)
    report = build(roots, tmp_path / "out", BuildSettings(num_folds=2), **in_process)
    assert (report.clips_written, report.skipped) == (1, 6)


@pytest.fixture(scope="module")
def made(crema_d):
    """Makes the drawn clip's example over again under other names."""
    (clip,) = plan_build({"crema_d": crema_d}, BuildSettings()).clips
    example = make_example(clip, BuildSettings().audio)
    return lambda clip, *_, **__: dataclasses.replace(
        example, example_id=clip.example_id, actor=clip.actor
    )


def test_a_library_that_finds_no_room_blames_the_flag(planned, monkeypatch, claim):
    plan, work = planned

    def starve(*_, **__):
        raise ImportError("libx.so: failed to map segment from shared object")

    monkeypatch.setattr("preprocess.builder.process_clip.make_example", starve)
    with claim(work.workspace, {}, overwrite=False):
        stop = work(plan.clips[0])
    assert isinstance(stop, Stop)
    assert "--worker_memory_mb is too little" in stop.reason
    assert "apt-get" not in stop.reason
