"""RAVDESS from its own tracking record and its wavs."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.io import wavfile

from emotion_tfdata import Features, make_dataset
from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder.building import build
from preprocess.builder.plan import BuildError, BuildSettings, plan_build
from preprocess.clip import landmarks as lm
from preprocess.clip.container import Limits, MediaError
from preprocess.clip.example import make_example
from preprocess.clip.tracking import read_track
from preprocess.corpora import Clip, CorpusError, ravdess

TAKES = ("01-03-01-01-01-01", "01-04-01-02-01-02")


def face(frames, seed=0):
    """68 points before the camera, in mm, `[F, 68, 3]`, whose lips open and close."""
    points = np.random.default_rng(seed).uniform(-60, 60, (1, 68, 3)).repeat(frames, axis=0)
    for index, x in ((36, -45), (39, -15), (42, 15), (45, 45)):
        points[:, index] = (x, -30, -20)
    opening = 10 + 8 * np.sin(np.arange(frames))
    points[:, 62] = (0, 40, -30)
    points[:, 66] = np.stack([0 * opening, 40 + opening, 0 * opening - 30], axis=-1)
    return points + np.array([20.0, -10.0, 600.0])


def write_csv(path, points, times_s, success=None, names=None):
    """As OpenFace writes: 712 columns, a space after each comma, pixels by a pinhole camera."""
    focal_px = 1400.0
    flat = points[..., :2] / points[..., 2:].mean(axis=1, keepdims=True) * focal_px + [640, 360]
    columns = {
        "frame": np.arange(1, len(points) + 1),
        "face_id": np.zeros(len(points)),
        "timestamp": times_s,
        "confidence": np.full(len(points), 0.98),
        "success": np.ones(len(points)) if success is None else success,
    }
    columns |= {f"gaze_{i}": np.zeros(len(points)) for i in range(367)}
    columns |= {f"x_{i}": flat[:, i, 0] for i in range(68)}
    columns |= {f"y_{i}": flat[:, i, 1] for i in range(68)}
    for axis, name in enumerate("XYZ"):
        columns |= {f"{name}_{i}": points[:, i, axis] for i in range(68)}
    assert len(columns) == 712
    head = ", ".join(names or columns)
    rows = [
        ", ".join(f"{value:.4f}" for value in row) for row in zip(*columns.values(), strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    for take in TAKES:
        times_s = np.arange(45) / 29.97
        success = np.ones(45)
        success[10:20] = 0
        write_csv(tmp_path / "tracking" / f"01-{take}.csv", face(45), times_s, success)
        wav = tmp_path / "ravdess" / f"03-{take}.wav"
        wav.parent.mkdir(exist_ok=True)
        wavfile.write(wav, 16000, rng.normal(0, 3000, 24000).astype(np.int16))
    return {"ravdess": tmp_path / "ravdess", "ravdess_tracking": tmp_path / "tracking"}


SETTINGS = BuildSettings(num_folds=2, face_features="openface", checksums="off")


def test_points_are_in_picture_widths_with_the_face_s_own_depth(tmp_path):
    points = face(5)
    track = read_track(write_csv(tmp_path / "a.csv", points, np.arange(5) / 30))
    assert track.found.all()
    np.testing.assert_allclose(track.times_s, np.arange(5) / 30, atol=1e-4)
    scale = 1400.0 / points[..., 2:].mean(axis=1, keepdims=True) / 1280
    wanted = points * scale
    wanted[..., :2] += np.array([640, 360]) / 1280
    wanted[..., 2] -= wanted[..., 2].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(track.points, wanted, atol=1e-5)
    # In the face's frame nothing of camera or place is left.
    found, _ = lm.to_face_frame(track.points)
    expected, _ = lm.to_face_frame(points)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_rows_without_success_have_no_face_and_further_faces_are_passed_over(tmp_path):
    times_s = np.array([0, 0, 1, 2, 2, 3]) / 30
    track = read_track(
        write_csv(tmp_path / "a.csv", face(6), times_s, np.array([1, 0, 0, 1, 1, 1]))
    )
    np.testing.assert_allclose(track.times_s * 30, [0, 1, 2, 3], atol=0.01)
    assert track.found.tolist() == [True, False, True, True]
    assert not track.points[1].any()


def _broken(path, what):
    good = write_csv(path, face(4), np.arange(4) / 30)
    text = good.read_text()
    if what == "column":
        text = text.replace("Z_67", "Z_99")
    elif what == "row":
        text = text[: len(text) - 3000] + "\n"
    elif what == "word":
        text = text.replace("0.9800, 1.0000", "0.9800, yes")
    elif what == "time":
        text = text.replace("0.0667", "0.0001")
    elif what == "empty":
        text = text.splitlines()[0] + "\n"
    elif what == "quote":
        text = text.replace("0.9800", '"0.9800', 1)
    elif what == "long row":
        text += "1, " * 20_000
    elif what == "bytes":
        good.write_bytes(b"\xff\xfe\x00" * 100)
        return good
    good.write_text(text)
    return good


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("column", "it has no column 'Z_67'"),
        ("row", "a row is damaged"),
        ("word", "a row is damaged .*yes"),
        ("time", "times in its tracking record do not rise"),
        ("empty", "its tracking record has no row"),
        ("quote", "a row is damaged"),
        ("long row", "a row is longer than 712 columns"),
        ("bytes", "a row is damaged"),
    ],
)
def test_a_damaged_record_is_a_typed_error(tmp_path, what, message):
    with pytest.raises(MediaError, match=message):
        read_track(_broken(tmp_path / "a.csv", what))


def test_damaged_cells_and_bytes_raise_nothing_but_typed_errors(tmp_path):
    rng = random.Random(0)
    original = write_csv(tmp_path / "a.csv", face(12), np.arange(12) / 30).read_bytes()
    cells = [b"", b" nan", b" -inf", b" 1e308", b" -1e308", b" 1e-320", b'"', b"\n", b"\0", b"x"]
    outcomes = {"read": 0, "refused": 0}
    for case in range(40):
        content = original.split(b",")
        for _ in range(rng.choice([1, 8])):
            content[rng.randrange(712, len(content))] = rng.choice(
                cells[1:6] if case % 2 else cells
            )
        damaged = bytearray(b",".join(content))
        if case % 4 == 0:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path = tmp_path / "damaged.csv"
        path.write_bytes(damaged)
        clip = Clip("ravdess", "a", "01", "happy", "normal", "01", str(path), None)
        try:
            schema.stored_arrays(make_example(clip, SETTINGS.audio, face=SETTINGS.face))
            outcomes["read"] += 1
        except MediaError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5, outcomes


def test_limits_are_kept(tmp_path):
    path = write_csv(tmp_path / "a.csv", face(9), np.arange(9) / 3)
    with pytest.raises(MediaError, match="more than 8 rows"):
        read_track(path, Limits(frames=8))
    with pytest.raises(MediaError, match="longer than 2 s"):
        read_track(path, Limits(duration_s=2))


def test_a_data_set_of_68_landmarks_is_built_and_served(corpus, tmp_path, in_process):
    report = build(corpus, tmp_path / "out", SETTINGS, **in_process)
    assert report.clips_written == 2, str(report)
    manifest = Manifest.load(str(tmp_path / "out"))
    assert manifest.num_landmarks == 68
    assert manifest.settings["face_features"] == "openface"
    assert "mediapipe" not in manifest.settings["versions"]
    served = Features(normalize=False, with_ids=True)
    (batch, *_) = make_dataset(str(tmp_path / "out"), "all", features=served)
    features, _ = batch
    assert sorted(features["example_id"].numpy()) == [f"ravdess/01-{t}".encode() for t in TAKES]
    assert features["landmarks"].shape[2:] == (68, 3)
    mask = features["landmarks_mask"].numpy()
    assert mask[:, :8].all()
    assert not mask[:, 12:18].any()
    eyes = features["landmarks"].numpy()[mask][:, [36, 39, 42, 45]].mean(axis=1)
    np.testing.assert_allclose(eyes, 0, atol=2e-3)


def test_a_take_without_a_record_is_skipped(corpus):
    (corpus["ravdess_tracking"] / f"01-{TAKES[0]}.csv").unlink()
    plan = plan_build(corpus, SETTINGS)
    assert [clip.name for clip in plan.clips] == [f"01-{TAKES[1]}"]
    (entry,) = plan.skipped
    assert (entry.path, entry.kind) == (f"ravdess/03-{TAKES[0]}.wav", "no tracking")


def test_what_does_not_go_with_a_tracking_record_is_refused(corpus, tmp_path):
    with pytest.raises(BuildError, match="goes with --ravdess_dir alone"):
        plan_build({**corpus, "crema_d": tmp_path}, SETTINGS)
    with pytest.raises(BuildError, match="go together"):
        plan_build(corpus, BuildSettings())
    with pytest.raises(CorpusError, match="is not RAVDESS's tracking"):
        ravdess.scan(corpus["ravdess"], "both", corpus["ravdess"])
