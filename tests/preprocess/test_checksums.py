"""Files that are, and are not, what their corpus published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import wavfile

from preprocess.builder.building import build
from preprocess.builder.plan import BuildError, BuildSettings, plan_build
from preprocess.corpora import checksums
from preprocess.drawn import sample

NAMES = ("03-01-03-01-01-01-01.wav", "03-01-04-01-01-01-02.wav")


@pytest.fixture
def make(in_process):
    """Builds what is in a folder."""

    def make(root, out_dir, mode):
        settings = BuildSettings(modalities="audio", num_folds=2, checksums=mode)
        return build({"ravdess": root}, out_dir, settings, **in_process)

    return make


@pytest.fixture
def ravdess(tmp_path):
    root = tmp_path / "ravdess"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        wavfile.write(root / name, 16000, rng.normal(0, 3000, 8000).astype(np.int16))
    return root


def test_the_lists_hold_what_the_corpora_published():
    crema_d = checksums.official_files("crema_d")
    assert len(crema_d) == 22326
    assert sum(f.bytes for f in crema_d.values() if f.path.endswith(".flv")) == 2_443_021_141
    assert sum(f.bytes for f in crema_d.values() if f.path.endswith(".wav")) == 605_899_936
    assert crema_d["1001_DFA_ANG_XX.flv"].path == "VideoFlash/1001_DFA_ANG_XX.flv"
    ravdess = checksums.official_files("ravdess")
    assert len(ravdess) == 2452
    assert {len(f.sha256) for f in [*crema_d.values(), *ravdess.values()]} == {64}


def test_real_clips_are_told_from_altered_ones(corpora_dir, tmp_path):
    flvs = sorted((corpora_dir / "crema_d" / "VideoFlash").glob("*.flv"))
    assert checksums.altered("crema_d", flvs) == ()
    wav = corpora_dir / "ravdess" / "Audio_Speech_Actors_01-24" / "Actor_01" / NAMES[0]
    assert checksums.altered("ravdess", [wav]) == (NAMES[0],)  # resampled
    flipped = bytearray(flvs[0].read_bytes())
    flipped[-1] ^= 1
    (tmp_path / flvs[0].name).write_bytes(flipped)
    assert checksums.altered("crema_d", [tmp_path / flvs[0].name]) == (flvs[0].name,)


def test_files_that_nobody_listed_are_not_checked(tmp_path):
    (tmp_path / "01-01-03-01-01-01-01.mp4").write_bytes(b"any")
    assert checksums.altered("ravdess", tmp_path.iterdir()) == ()


def test_altered_files_are_built_and_named(ravdess, make, tmp_path):
    report = make(ravdess, tmp_path / "out", "warn")
    assert report.clips_written == 2
    (note,) = [note for note in report.notes if "SHA-256" in note]
    assert all(name in note for name in NAMES)
    assert f"note: {note}" in str(report)


def test_altered_files_are_skipped_where_checksums_are_required(ravdess, make, tmp_path):
    with pytest.raises(BuildError, match=r"2 checksum\n.*03-01-03.*SHA-256 is another"):
        make(ravdess, tmp_path / "out", "require")


def test_nothing_is_compared_when_off_or_of_drawn_clips(ravdess, make, tmp_path):
    assert not make(ravdess, tmp_path / "off", "off").notes
    (ravdess / sample.MARKER_NAME).write_text('{"what": "drawn clips"}')
    report = make(ravdess, tmp_path / "drawn", "require")
    assert report.clips_written == 2
    assert not report.notes


def test_what_is_known_of_the_real_corpora_is_not_said_of_drawn_clips(tmp_path):
    for name in ("1006_TIE_HAP_XX.flv", "1006_TIE_NEU_XX.flv"):
        (tmp_path / name).write_bytes(b"media")
    assert plan_build({"crema_d": tmp_path}, BuildSettings()).notes
    (tmp_path / sample.MARKER_NAME).write_text('{"what": "drawn clips"}')
    assert not plan_build({"crema_d": tmp_path}, BuildSettings()).notes
