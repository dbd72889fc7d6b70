"""Raw clips get what the model says of the same clips in its data set."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from emotion_tfdata.features import Features
from emotion_tfdata.models import ModelConfig, build_model
from emotion_tfdata.training import export
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.settings import Settings
from preprocess import predict
from preprocess.builder.building import build
from preprocess.builder.plan import BuildSettings
from preprocess.drawn import sample
from preprocess.drawn.sample_render import draw_clip
from preprocess.prediction import predictor, timeline
from preprocess.prediction.predictor import Failure, PredictError, Prediction

_CODES = {"neutral": 1, "happy": 3, "sad": 4, "angry": 5, "fearful": 6, "disgust": 7}
_SMALL = {
    "audio_filters": (4, 4),
    "audio_lstm_units": (4, 4),
    "tcn_filters": 4,
    "tcn_dilations": (1,),
    "joined_units": (8, 8),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, encode):
    """Six emotions of two drawn actors, as RAVDESS's files."""
    root = tmp_path_factory.mktemp("corpus") / "ravdess"
    specs = sample.plan_clips(
        sample.SampleSettings(
            num_actors=2, clips_per_actor=6, min_duration_s=1.0, max_duration_s=1.1
        )
    )
    for spec in specs:
        if spec.corpus == "ravdess":
            name = f"01-01-{_CODES[spec.emotion]:02d}-01-01-01-{int(spec.actor):02d}.mp4"
            encode(root / name, clip=draw_clip(spec))
    (root / sample.MARKER_NAME).write_text(json.dumps({"what": sample.DESCRIPTION}))
    return root


@pytest.fixture(scope="module")
def data_dir(corpus, tmp_path_factory, in_process):
    out_dir = tmp_path_factory.mktemp("data")
    build({"ravdess": corpus}, out_dir, BuildSettings(num_folds=2), **in_process)
    return str(out_dir)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """Modalities -> a model with weights as they are made, its data and its folder."""

    @functools.cache
    def make(modalities):
        config = ModelConfig(modalities=modalities, num_landmarks=119, **_SMALL)
        settings = Settings(
            name="small",
            model=config,
            features=Features(modalities, landmarks="expressive"),
            select_on="none",
            lr_schedule="constant",
        )
        model, data = build_model(config), Data(data_dir, settings, num_threads=1)
        folder = tmp_path_factory.mktemp(modalities)
        export.save_served(model, data, folder)
        return model, data, folder

    return make


@pytest.fixture(scope="module")
def served(trained, corpus, project_dir):
    """What a model of both makes of two of its clips and, where they are there, two real ones."""
    model, data, folder = trained("both")
    expected = from_shards(model, data)
    assert len(expected) == 6
    records = {clip_of(corpus, example_id): expected[example_id] for example_id in [*expected][:2]}
    shared = project_dir.parent / "shared" / "corpora"
    found = (shared.glob("ravdess/Video*/*/*.mp4"), shared.glob("crema_d/VideoFlash/*.flv"))
    paths = [*records, *(path for clips in found for path in itertools.islice(clips, 1))]
    features = predictor.load_features(folder)
    results = list(predictor.predict_clips(folder, paths, features, num_workers=1))
    assert [path for path, _ in results] == paths
    return records, dict(results)


def from_shards(model, data):
    """Example id -> probabilities, from the held-out fold's records."""
    found = {}
    for features, _ in data.batches_of(data.held_out):
        ids = features.pop("example_id").numpy()
        found |= {i.decode(): p for i, p in zip(ids, model(features).numpy(), strict=True)}
    return found


def clip_of(corpus, example_id) -> Path:
    return corpus / f"{example_id.split('/')[1]}.mp4"


def assert_as_in_its_record(result, shares):
    assert isinstance(result, Prediction), result
    np.testing.assert_allclose(list(result.probabilities.values()), shares, atol=1e-5)
    assert result.emotion == list(result.probabilities)[shares.argmax()]
    assert result.faces_frames > 10


def test_a_clip_gets_what_its_record_gets(served):
    records, results = served
    for path, shares in records.items():
        assert_as_in_its_record(results[path], shares)
    # They differ from clip to clip by more than they are held to.
    assert np.std(list(records.values()), axis=0).max() > 1e-4


def test_real_clips_are_served(served, corpora_dir):
    _, results = served
    real = {path: result for path, result in results.items() if corpora_dir in path.parents}
    assert [path.suffix for path in real] == [".mp4", ".flv"]
    for path, result in real.items():
        assert isinstance(result, Prediction), (path, result)
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert result.faces_frames > 30


def test_a_model_that_can_do_without_one_modality_serves_the_other_alone(
    served, trained, corpus, tmp_path
):
    """The same as from its record with the other one masked off. FFmpeg takes the clip apart."""
    model, data, folder = trained("both")
    shutil.copytree(folder, tmp_path / "model")
    about = tmp_path / "model" / "saved_model" / "features.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"one_is_enough": True}))
    features = predictor.load_features(tmp_path / "model")
    clip = next(iter(served[0]))
    wav, mute = tmp_path / "voice.wav", tmp_path / "mute.mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for out, parts in ((wav, ["-vn"]), (mute, ["-an", "-c:v", "copy"])):
        subprocess.run([ffmpeg, "-v", "error", "-i", clip, *parts, out], check=True)
    found = predictor.predict_clips(tmp_path / "model", [wav, mute, clip], features, num_workers=1)
    voice, face, both = (result for _, result in found)
    assert_as_in_its_record(both, served[0][clip])
    assert not both.notes
    assert voice.notes == ("the voice alone is used: sound without picture",)
    assert face.notes == ("the face alone is used: video without sound",)
    assert (voice.faces_frames, face.audio_frames) == (0, 0)
    (record,) = (
        {name: values[row][None] for name, values in batch.items()}
        for batch, _ in data.batches_of(data.held_out)
        for row, example_id in enumerate(batch.pop("example_id").numpy())
        if clip_of(corpus, example_id.decode()) == clip
    )
    for result, missing in ((voice, "landmarks_mask"), (face, "audio_mask")):
        alone = model(record | {missing: np.zeros_like(record[missing])}).numpy()[0]
        # A clip's clock begins with its sound, so that without it rows are a few ms off.
        np.testing.assert_allclose([*result.probabilities.values()], alone, atol=2e-3)
        assert not np.allclose(alone, served[0][clip], atol=1e-3)


def test_windows_over_a_recording_are_what_ffmpeg_cuts_out(trained, corpus, tmp_path):
    """A voice of 26 s, read in two parts; the cuts begin within either and in their overlap."""
    _, _, folder = trained("audio")
    features = predictor.load_features(folder)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    whole, clips = tmp_path / "whole.wav", sorted(corpus.glob("*.mp4"))
    inputs = [word for path in clips * 2 for word in ("-i", path)]
    join = f"concat=n={len(clips) * 2}:v=0:a=1"
    subprocess.run([ffmpeg, "-v", "error", *inputs, "-filter_complex", join, whole], check=True)
    ((path, found),) = timeline.timelines(folder, [whole], features, num_workers=1)
    assert path == whole
    assert not found.gaps
    length_s = len(found.voice) / 100
    assert 23 < length_s < 29
    count = int((length_s - 2) / 0.25) + 1
    np.testing.assert_allclose(found.starts_s, 0.25 * np.arange(count))
    np.testing.assert_allclose(found.voice[:, 0], np.arange(len(found.voice)) / 100, atol=1e-6)
    begins_s = (0.0, 3.25, 19.0, 19.75, 20.25)
    cuts = [tmp_path / f"cut-{start_s}.wav" for start_s in begins_s]
    for start_s, cut in zip(begins_s, cuts, strict=True):
        of = ["-ss", str(start_s), "-t", "2", "-i", whole]
        subprocess.run([ffmpeg, "-v", "error", *of, cut], check=True)
    alone = predictor.predict_clips(folder, cuts, features, num_workers=1)
    for start_s, (_, result) in zip(begins_s, alone, strict=True):
        shares = np.array([*result.probabilities.values()])
        off = np.abs(found.probabilities - shares).max(axis=1)
        # The outermost frames of a cut hear silence where the recording continues.
        row = round(start_s / 0.25)
        assert off[row] < 8e-4
        assert off[row] < min(off[max(row - 1, 0)] if row else 1.0, off[row + 1])
    assert found.probabilities.std(axis=0).max() > 1e-3


def run(*arguments, **options):
    command = [sys.executable, "-m", "preprocess.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_bad_clips_are_named_and_the_others_served(
    trained, corpus, encode, blank_pictures, tmp_path, project_dir
):
    good = sorted(corpus.glob("*.mp4"))[0]
    encode(tmp_path / "nobody.mp4", picture=blank_pictures)
    encode(tmp_path / "mute.mp4", sound=False)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "notes.txt").write_text("no clip")
    shutil.copy(good, tmp_path / "good.mp4")
    names = ["nobody.mp4", "mute.mp4", "good.mp4", "cut.mp4", "notes.txt", "none.mp4"]
    done = run(
        *(f"--model_dir={trained('both')[2]}", "--json=-", "--num_workers=1", *names),
        cwd=tmp_path,
        env={"PYTHONPATH": str(project_dir), "PATH": ""},
    )
    assert done.returncode == 1, done.stderr
    content = json.loads(done.stdout)
    assert content["trained_on"] == "drawn clips"
    (clip,) = content["clips"]
    assert clip["path"] == "good.mp4"
    assert sum(clip["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert max(clip["probabilities"], key=clip["probabilities"].get) == clip["emotion"]
    reasons = {entry["path"]: entry["reason"] for entry in content["failed"]}
    assert list(reasons) == ["nobody.mp4", "mute.mp4", "cut.mp4", "notes.txt", "none.mp4"]
    for name, words in (
        ("nobody.mp4", "no face in any of its 25 pictures"),
        ("mute.mp4", "video without sound; this model needs both"),
        ("cut.mp4", "not a whole mp4 file"),
        ("notes.txt", "files named '.txt' are not read"),
        ("none.mp4", "No such file"),
    ):
        assert words in reasons[name]
        assert re.search(rf"^{re.escape(name)}: not served: .*{words}", done.stderr, re.M)
    assert "5 of 6 clips were not served" in done.stderr
    assert re.search(r"^good\.mp4 +\w+ +0\.\d{3}", done.stderr, re.M)
    assert "trained on drawn clips" in done.stderr


def test_a_model_that_hears_takes_a_wav_and_a_film_without_a_face(
    trained, corpus, encode, blank_pictures, tmp_path
):
    model, data, folder = trained("audio")
    example_id, shares = next(iter(from_shards(model, data).items()))
    paths = [
        clip_of(corpus, example_id),  # cut where its picture ends, as its record is
        encode(tmp_path / "voice.wav", audio_rate_hz=16000).path,
        encode(tmp_path / "nobody.mp4", picture=blank_pictures).path,
    ]
    features = predictor.load_features(folder)
    results = predictor.predict_clips(folder, paths, features, num_workers=1)
    whole, voice, film = (result for _, result in results)
    assert_as_in_its_record(whole, shares)
    assert isinstance(voice, Prediction)
    assert isinstance(film, Prediction)
    assert voice.landmarks_frames == film.landmarks_frames == 0
    assert voice.audio_frames in range(98, 105)


def test_a_clip_that_hangs_costs_itself(trained, corpus, monkeypatch):
    monkeypatch.setattr(predictor, "_CLIP_TIMEOUT_S", 0.01)
    folder, path = trained("both")[2], sorted(corpus.glob("*.mp4"))[0]
    features = predictor.load_features(folder)
    ((_, result),) = predictor.predict_clips(folder, [path], features, num_workers=1)
    assert result == Failure("failed", "took longer than 0.01 s and was stopped")


def test_json_that_cannot_be_written_is_told_before_clips_are_read(trained, tmp_path, project_dir):
    for target, says in (
        (tmp_path / "none" / "x.json", f"no writable folder {tmp_path / 'none'}"),
        (tmp_path, "it is a folder"),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "preprocess.predict", "nowhere.flv"),
                *(f"--model_dir={trained('both')[2]}", f"--json={target}"),
            ],
            cwd=project_dir, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == f"error: --json={target} cannot be written: {says}\n"
        assert not done.stdout


def test_a_folder_without_a_model_is_told_from_one_of_folds(trained, tmp_path):
    with pytest.raises(PredictError, match=r"--model_dir=.*nowhere: no such folder"):
        predictor.load_features(tmp_path / "nowhere")
    with pytest.raises(PredictError, match=r"holds no model .* train\.py makes one"):
        predictor.load_features(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(PredictError, match="a training that is not finished"):
        predictor.load_features(tmp_path)
    for fold in (0, 3):
        shutil.copytree(trained("both")[2], tmp_path / f"fold-{fold}")
    with pytest.raises(
        PredictError, match=r"one model a fold \(fold-0, fold-3\): .* --model_dir=.*/fold-0"
    ):
        predictor.load_features(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"build": {"made_by": "hand"}}, "was not made from clips"),
        ({"build": {"recipe": -1}}, "built by recipe -1, this release makes features by recipe"),
        ({"version": 99}, "is of another release"),
        ({"inputs": 3}, r"features\.json: cannot be read"),
    ],
)
def test_features_that_cannot_be_made_here_are_refused(trained, tmp_path, change, says):
    source = trained("both")[2] / "saved_model" / "features.json"
    target = tmp_path / "saved_model" / "features.json"
    target.parent.mkdir()
    target.write_text(json.dumps(json.loads(source.read_text()) | change))
    with pytest.raises(PredictError, match=says):
        predictor.load_features(tmp_path)


def test_a_model_of_a_data_set_from_before_there_were_extractors_is_served(trained, tmp_path):
    shutil.copytree(trained("both")[2] / "saved_model", tmp_path / "saved_model")
    path = tmp_path / "saved_model" / "features.json"
    content = json.loads(path.read_text())
    for name in ("extractor", "face_extractor", "audio_features", "face_features"):
        del content["build"][name]
    path.write_text(json.dumps(content))
    assert predictor.load_features(tmp_path) == predictor.load_features(trained("both")[2])


def test_openfaces_landmarks_are_not_found_in_raw_clips(trained, tmp_path):
    shutil.copytree(trained("both")[2] / "saved_model", tmp_path / "saved_model")
    path = tmp_path / "saved_model" / "features.json"
    content = json.loads(path.read_text())
    content["build"]["face_features"] = "openface"
    path.write_text(json.dumps(content))
    with pytest.raises(PredictError, match="those of RAVDESS's tracking record"):
        predictor.load_features(tmp_path)


def test_it_is_said_whose_clips_were_trained_on_and_whether_shares_are_calibrated(trained):
    _, data, folder = trained("both")
    features = predictor.load_features(folder)
    assert features.trained_actors == set(data.train.actors) == {"ravdess/02"}
    paths = [Path(f"x/01-01-03-01-01-01-{n}.mp4") for n in ("01", "02")] + [Path("holiday.mp4")]
    assert [features.trained_actor(path) for path in paths] == [None, "ravdess/02", None]
    notes = "\n".join(predict._notes(features, paths))
    assert f"trained on are in {paths[1]} (ravdess/02); it does better" in notes
    assert "the probabilities are not calibrated" in notes
    calibrated = dataclasses.replace(features, temperature=1.5)
    assert "calibrated (temperature 1.500, " in "\n".join(predict._notes(calibrated, paths))
    shown = Prediction({"sad": 1.0}, {"sad": 0.0}, 9, 9, 9)
    content = json.loads(predict.as_json(folder, calibrated, [(paths[1], shown)]))
    assert (content["calibrated"], content["temperature"]) == (True, 1.5)
    assert content["clips"][0]["trained_actor"] == "ravdess/02"


def test_other_versions_are_noted(trained):
    features = predictor.load_features(trained("both")[2])
    assert not any("features were made with" in note for note in predict._notes(features, []))
    _, note = predict._notes(
        dataclasses.replace(features, provenance="", versions={"librosa": "0.1"}), []
    )
    assert "made with librosa 0.1 (here 0." in note
