from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from emotion_tfdata import Augment, Features, make_dataset
from emotion_tfdata.dataset import schema, tfds
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.records import Records
from preprocess import verify
from preprocess.builder.building import build
from preprocess.builder.plan import BuildError, BuildSettings
from preprocess.clip import extractors, face_extractors, landmarks, media
from preprocess.drawn.sample_encode import encode_clip
from preprocess.prediction import predictor

OWN = "tests.preprocess.own_extractors"
SEEN = BuildSettings(modalities="landmarks", num_folds=2, face_features=f"{OWN}:Colour")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """A list of eight films of four actors that grow brighter; their colour is their emotion."""
    folder = tmp_path_factory.mktemp("coloured")
    lines = ["video,actor,emotion"]
    for number in range(8):
        pictures = np.zeros((20 + number, 32, 48, 3), np.uint8)
        pictures[..., 0 if number % 2 else 2] = 90 + 5 * np.arange(len(pictures))[:, None, None]
        pictures[..., 1] = 60 + 3 * (5 * number % 8)
        pictures[8:12] = 0
        sound = 0.1 * np.sin(np.arange(len(pictures) * 1920) / 20)
        encode_clip(folder / f"{number}.mp4", pictures, sound, frame_rate=25)
        lines.append(f"{number}.mp4,{number // 2},{('sad', 'happy')[number % 2]}")
    (folder / "films.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "films.csv"


def served_series(data_dir: Path, features: Features) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for batch, _ in make_dataset(str(data_dir), "all", batch_size=3, features=features):
        for row, example_id in enumerate(batch["example_id"].numpy()):
            arrays = batch["landmarks"].numpy()[row], batch["landmarks_mask"].numpy()[row]
            found[example_id.decode()] = arrays
    return found


@pytest.mark.parametrize("name", ["Colour", "ColourInFloats"])
def test_features_of_one_s_own_are_stored_served_and_read_as_the_manifest_says(
    name, coloured, tmp_path, in_process
):
    settings = dataclasses.replace(SEEN, modalities="both", face_features=f"{OWN}:{name}")
    report = build({}, tmp_path, settings, tables=[coloured], **in_process)
    assert (report.clips_written, report.warnings) == (8, ())
    assert not list(verify.verify(tmp_path))
    modality = Manifest.load(str(tmp_path)).modalities["landmarks"]
    assert (modality.rate_hz, modality.array.shape) == (25, (3,))
    raw = Features(normalize=False, with_ids=True)
    served = served_series(tmp_path, raw)
    worst = 0.0
    for number in range(8):
        pictures = list(media.read_pictures(coloured.parent / f"{number}.mp4"))
        expected = np.array([picture.rgb.mean(axis=(0, 1)) / 255 for picture in pictures])
        series, mask = served[f"films/{number}"]
        shown = expected.mean(axis=1) >= 0.1
        np.testing.assert_array_equal(mask[: len(shown)], shown)
        error = np.abs(series[: len(shown)] - expected)[shown].max()
        worst = max(worst, error)
        assert not series[~mask].any()
    assert worst == pytest.approx(modality.largest_error, rel=1e-3)
    assert 0 < worst <= (1 / 8192 if settings.face.extractor.step else 2.0**-11)
    records = Records(str(tmp_path), "all", features=raw)
    for clip in (records[place] for place in range(len(records))):
        series, mask = served[clip["example_id"]]
        rows = len(clip["landmarks"])
        np.testing.assert_array_equal(clip["landmarks"], series[:rows])
        np.testing.assert_array_equal(clip["landmarks_mask"], mask[:rows])
    twice = make_dataset(str(tmp_path), "train", augment=Augment(probability=1.0))
    rows = [batch["landmarks"].numpy()[batch["landmarks_mask"].numpy()] for batch, _ in twice]
    together = np.concatenate(rows)
    np.testing.assert_allclose(together.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(together.std(axis=0), 1, atol=0.05)
    with pytest.raises(ValueError, match=r"head=True needs face landmarks, and .* has colour"):
        make_dataset(str(tmp_path), "train", features=Features(head=True))
    read = tfds.features(Manifest.load(str(tmp_path)).modalities)["content"]["features"]
    assert read["landmarks"]["tensor"]["shape"] == {"dimensions": ["-1", "3"]}
    assert "head" not in read


def test_values_at_a_low_rate_are_interpolated(coloured, tmp_path, in_process):
    settings = dataclasses.replace(SEEN, face_features=f"{OWN}:SlowColour")
    build({}, tmp_path, settings, tables=[coloured], **in_process)
    series, mask = served_series(tmp_path, Features(normalize=False, with_ids=True))["films/0"]
    assert np.flatnonzero(mask).tolist() == [0, 1]
    expected = np.array([90, 0]) / 255  # at 0 s; at 0.5 s between a dark picture and the 16th
    assert series[0, 2] == pytest.approx(expected[0], abs=0.02)
    assert series[1, 2] == pytest.approx((90 + 5 * 15) / 255, abs=0.02)


def test_a_system_trains_on_them_and_predicts(coloured, tmp_path, in_process, learns):
    settings = dataclasses.replace(SEEN, classes=("happy", "sad"))
    build({}, tmp_path, settings, tables=[coloured], **in_process)
    features = Features("landmarks", landmarks=[0, 2], with_ids=True)
    small = {
        "tcn_filters": 8,
        "tcn_dilations": (1, 2),
        "tcn_dropout": 0.0,
        "video_dropout": 0.0,
        "video_dense_units": 16,
        "joined_units": (16, 16),
        "joined_dropouts": (0.0, 0.0),
        "bn_momentum": 0.7,
    }
    model = learns(tmp_path, features, small, num_epochs=30)
    assert (model.num_landmarks, model.landmark_axes) == (2, 1)


def test_a_clip_is_read_for_a_prediction_as_it_was_built(coloured, tmp_path, in_process):
    build({}, tmp_path, SEEN, tables=[coloured], **in_process)
    manifest = Manifest.load(str(tmp_path))
    features = predictor.Features(
        name="colour",
        provenance="",
        modalities=("landmarks",),
        data_modalities=("landmarks",),
        class_names=manifest.classes,
        audio=extractors.LogMel(),
        face=predictor.extractors_of(manifest.settings)[1],
        versions={},
    )
    read = predictor.read_clip(coloured.parent / "3.mp4", features)
    stored = schema.encode(read.example, features.stored)
    example = schema.decode(stored, stored=features.stored)
    built = served_series(tmp_path, Features(normalize=False, with_ids=True))["films/3"]
    np.testing.assert_array_equal(example.landmarks, built[0][: len(example.landmarks)])
    np.testing.assert_array_equal(example.landmarks_valid, built[1][: len(example.landmarks)])
    other = {**manifest.settings["face_extractor"], "source_sha256": "another"}
    with pytest.raises(predictor.PredictError, match="its source_sha256 is another"):
        predictor.extractors_of({**manifest.settings, "face_extractor": other})


def test_the_documented_example_is_what_it_says(tmp_path, drawn, in_process, monkeypatch):
    _, _, code = face_extractors.__doc__.partition("Class`:\n")
    code = textwrap.dedent(code.partition("Pictures are decoded")[0])
    head = "import numpy as np\nfrom preprocess.clip import landmarks\n\n"
    (tmp_path / "smiles.py").write_text(head + code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    encode_clip(tmp_path / "face.mp4", drawn.pictures(30), None, frame_rate=30)
    lines = ["video,actor,emotion,name", "face.mp4,1,happy,one", "face.mp4,2,sad,other"]
    (tmp_path / "faces.csv").write_text("\n".join(lines), encoding="utf-8")
    settings = dataclasses.replace(SEEN, face_features="smiles:Smile", num_folds=2)
    build({}, tmp_path / "out", settings, tables=[tmp_path / "faces.csv"], **in_process)
    sys.modules.pop("smiles")
    clip = Records(str(tmp_path / "out"), "all", features=Features(normalize=False))[0]
    pictures = [(p.time_s, p.rgb) for p in media.read_pictures(tmp_path / "face.mp4")]
    track = landmarks.track_face(pictures)
    points, _ = landmarks.to_face_frame(track.points[track.found])
    opening = np.interp(
        np.arange(len(clip["landmarks"])) / 25,
        track.times_s[track.found],
        landmarks.mouth_opening(points),
    )
    assert clip["landmarks_mask"].all()
    np.testing.assert_allclose(clip["landmarks"][:, 1], opening, atol=1 / 4096)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("HalfMissing", "colour gave a value that is not finite"),
        ("Blind", "colour found nothing at any of 20 times"),
        ("Crashing", r"the first .* alike.*RuntimeError: no weights|RuntimeError: no weights"),
    ],
)
def test_what_is_not_as_the_extractor_says_costs_the_clip_by_name(
    name, reason, coloured, tmp_path, in_process
):
    settings = dataclasses.replace(SEEN, face_features=f"{OWN}:{name}")
    with pytest.raises(BuildError, match=reason):
        build({}, tmp_path, settings, tables=[coloured], **in_process)


def test_a_step_too_coarse_for_the_values_is_warned_of(coloured, tmp_path, in_process):
    settings = dataclasses.replace(SEEN, face_features=f"{OWN}:CoarseColour")
    report = build({}, tmp_path, settings, tables=[coloured], **in_process)
    (warning,) = report.warnings
    assert warning.startswith("3 of 3 features of landmarks deviate by less than 4 times the error")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"face_features": "dlib"}, "must be facemesh, openface, none or package.module:name"),
        ({"face_features": f"{OWN}:NoWidth"}, "face_features=.*: it has no rate_hz"),
        ({"face_features": "none", "modalities": "landmarks"}, "leave nothing to build"),
    ],
)
def test_what_is_no_extractor_is_refused_before_anything_is_built(options, reason):
    with pytest.raises(ValueError, match=reason):
        BuildSettings(**options)


def test_none_builds_the_sound_alone():
    assert BuildSettings(face_features="none") == BuildSettings("audio", face_features="none")


def test_changed_code_is_another_build(coloured, tmp_path, in_process, monkeypatch):
    build({}, tmp_path, SEEN, tables=[coloured], **in_process)
    assert build({}, tmp_path, SEEN, tables=[coloured], **in_process).was_finished
    monkeypatch.setattr(extractors.inspect, "getsource", lambda module: "other code")
    with pytest.raises(BuildError, match="settings face_extractor source_sha256 was"):
        build({}, tmp_path, SEEN, tables=[coloured], **in_process)
