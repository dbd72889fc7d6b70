"""The command: what it prints, its status, and one line for what its user got wrong."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import wavfile

from emotion_tfdata.dataset.manifest import Manifest
from preprocess.drawn import sample
from preprocess.verify import verify


def run(project_dir, *flags):
    command = [sys.executable, "-m", "preprocess.build_tfrecords", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=project_dir)


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    """Two actors' wavs of half a second, and one that is none, marked as drawn."""
    root = tmp_path_factory.mktemp("wavs")
    rng = np.random.default_rng(0)
    for actor in (1, 2):
        for emotion in ("03", "04", "08"):
            samples = (rng.normal(0, 3000, 8000)).astype(np.int16)
            wavfile.write(root / f"03-01-{emotion}-01-01-01-{actor:02d}.wav", 16000, samples)
    (root / "03-01-05-01-01-01-01.wav").write_text("no sound\n")
    (root / sample.MARKER_NAME).write_text('{"what": "drawn clips"}')
    return root


@pytest.fixture(scope="module")
def flags(wavs):
    return (f"--ravdess_dir={wavs}", "--modalities=audio", "--num_folds=2", "--num_workers=1")


@pytest.fixture(scope="module")
def built(project_dir, flags, tmp_path_factory):
    """A data set and what its build printed."""
    out_dir = tmp_path_factory.mktemp("built")
    return out_dir, run(project_dir, *flags, f"--out_dir={out_dir}")


def test_a_build_prints_its_summary_and_a_second_one_finds_it_finished(project_dir, flags, built):
    out_dir, done = built
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "clips found 5 (drawn clips)"
    assert lines[1].startswith("clips read 5 in ")
    assert lines[1].endswith("clips/s")
    assert lines[2].startswith("clips written 4 in 2 shards, ")
    assert f"skipped 3 files, all of them in {out_dir}/skipped.csv" in lines
    assert "2 emotion" in lines
    assert any(line.startswith("ravdess/03-01-05-01-01-01-01.wav: not a whole") for line in lines)
    assert lines[-1] == f"data set {out_dir}"
    # Progress and nothing else: native libraries' chatter stays out.
    told = done.stderr.splitlines()
    assert all(re.match(r"\d/(5 clips|2 shards)(, |$)", line) for line in told), told
    assert [line.split(",")[0] for line in told if line[0] == line[2]] == [
        "5/5 clips",
        "2/2 shards",
    ]
    assert "skipped: 1 unreadable" in done.stderr
    manifest = Manifest.load(str(out_dir))
    assert manifest.provenance == "drawn clips"

    again = run(project_dir, *flags, f"--out_dir={out_dir}")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("this data set was finished before; nothing was done again\n")

    other = run(project_dir, *flags, "--num_mels=40", f"--out_dir={out_dir}")
    assert other.returncode == 1
    assert other.stderr == (
        f"error: {out_dir} holds another build: settings audio num_mels was 80, is now 40. "
        "--overwrite replaces it, another --out_dir keeps both\n"
    )


def test_a_dry_run_tells_what_would_be_built_and_writes_nothing(project_dir, wavs, tmp_path):
    out_dir = tmp_path / "out"
    done = run(
        project_dir,
        *(f"--ravdess_dir={wavs}", "--modalities=audio", f"--out_dir={out_dir}"),
        *("--dry_run", "--num_workers=2"),
    )
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "would build 5 clips (5 of ravdess)"
    assert "2 emotion" in lines
    assert any(line.startswith("would take 0:0") and "2 workers" in line for line in lines)
    (size_mb,) = [float(line.split()[2]) for line in lines if line.startswith("would fill")]
    assert size_mb == pytest.approx(5 * (51 * 80 * 2 + 1500) / 1e6, abs=0.05)
    assert not out_dir.exists()


def test_shards_cut_by_random_folds_hold_the_same_clips_for_either_protocol(
    project_dir, flags, built, tmp_path
):
    done = run(project_dir, *flags, "--split_protocol=random", f"--out_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert list(verify(tmp_path)) == []
    by_actors, by_both = (
        {
            (protocol, fold): {*manifest.index.example_ids[manifest.folds(protocol) == fold]}
            for protocol, fold in itertools.product(("actor", "random"), range(2))
        }
        for manifest in map(Manifest.load, map(str, (built[0], tmp_path)))
    )
    assert by_actors == by_both
    manifest = Manifest.load(str(tmp_path))
    index = manifest.index
    for folds in set(zip(index.shards, index.folds, index.random_folds, strict=True)):
        shard, fold, random_fold = map(int, folds)
        assert f"fold-{fold}-of-2-part-{random_fold}." in manifest.shards[shard].name
    assert all(len(ids) == 2 for ids in by_both.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to build from: give --ravdess_dir, --crema_d_dir or --clips"),
        (["--ravdess_dir={wavs}"], "nowhere to build: give --out_dir"),
        (
            ["--ravdess_dir={tmp}/no", "--out_dir={tmp}/o"],
            "--ravdess_dir: {tmp}/no: no such folder",
        ),
        (["--ravdess_dir={empty}", "--out_dir={tmp}/o"], "--ravdess_dir: {empty} is empty"),
        (
            ["--crema_d_dir={wavs}", "--out_dir={tmp}/o"],
            "--crema_d_dir: {wavs} is not CREMA-D: no file in it is named as 1001_DFA_ANG_XX.flv",
        ),
        (
            ["--ravdess_dir={wavs}", "--out_dir=/proc/none"],
            "--out_dir=/proc/none cannot be written (No such file or directory)",
        ),
        (
            ["--ravdess_dir={wavs}", "--out_dir={tmp}/o", "--modalities=video"],
            "flag --modalities=video: value should be one of <both|audio|landmarks>",
        ),
        (["--ravdes_dir={wavs}"], "Unknown command line flag 'ravdes_dir'."),
        (["{wavs}"], "what is '{wavs}'? Flags are written --name=value"),
        (
            ["--ravdess_dir={wavs}", "--out_dir={tmp}/o", "--fmax=9000"],
            "fmin and fmax must be 0 <= fmin < fmax <= 8000 Hz, got 50 and 9000",
        ),
        (
            ["--ravdess_dir={wavs}", "--out_dir={tmp}/o", "--clip_timeout_s=nan"],
            "flag --clip_timeout_s=nan: must be finite",
        ),
        (
            ["--ravdess_dir={wavs}", "--out_dir={tmp}/o", "--worker_memory_mb=60"],
            "flag --worker_memory_mb=60: must be 0 or at least 400: FaceMesh alone takes",
        ),
    ],
)
def test_what_the_user_got_wrong_is_one_line(project_dir, wavs, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    names = {"wavs": wavs, "tmp": tmp_path, "empty": tmp_path / "empty"}
    done = run(project_dir, *(flag.format(**names) for flag in flags))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message.format(**names)}"), line


def test_help_lists_the_flags(project_dir):
    done = run(project_dir, "--help")
    for flag in ("--ravdess_dir", "--crema_d_dir", "--out_dir", "--modalities", "--num_workers"):
        assert flag in done.stdout
