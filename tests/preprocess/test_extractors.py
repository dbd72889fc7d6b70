from __future__ import annotations

import csv
import dataclasses
import inspect
from pathlib import Path

import librosa
import numpy as np
import pytest
from scipy.io import wavfile

from emotion_tfdata import Augment, Features, make_dataset
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.records import Records
from preprocess import verify
from preprocess.builder.building import build
from preprocess.builder.plan import BuildError, BuildSettings
from preprocess.clip import extractors
from preprocess.clip.audio import AudioSettings
from preprocess.clip.container import MediaError
from tests.preprocess import own_extractors

OWN = "tests.preprocess.own_extractors"
HEARD = BuildSettings(modalities="audio", num_folds=2)


def voice(seconds: float = 0.6, pitch_hz: float = 160.0, seed: int = 0) -> np.ndarray:
    times = np.arange(round(seconds * 16000)) / 16000
    rng = np.random.default_rng(seed)
    harmonics = sum(np.sin(2 * np.pi * pitch_hz * n * times) / n for n in range(1, 9))
    return (0.1 * harmonics + 0.003 * rng.standard_normal(len(times))).astype(np.float32)


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    """A list of eight voices of four actors, whose pitch is their emotion."""
    folder = tmp_path_factory.mktemp("voices")
    with open(folder / "voices.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["audio", "actor", "emotion"])
        for number in range(8):
            samples = voice(0.5 + 0.03 * number, (110.0, 220.0)[number % 2], number)
            wavfile.write(folder / f"{number}.wav", 16000, samples)
            rows.writerow([f"{number}.wav", number // 2, ("sad", "happy")[number % 2]])
    return folder / "voices.csv"


def test_mfcc_is_librosa_s():
    samples = voice()
    bands = AudioSettings(num_mels=40, fmin_hz=20.0)
    found = extractors.features(extractors.resolve("mfcc", bands, 12, 2), samples)
    options = {"n_fft": 512, "hop_length": 160, "n_mels": 40, "fmin": 20.0, "fmax": 8000.0}
    mfcc = librosa.feature.mfcc(y=samples, sr=16000, n_mfcc=12, **options)
    deltas = [librosa.feature.delta(mfcc, order=order) for order in (1, 2)]
    np.testing.assert_array_equal(found, np.concatenate([mfcc, *deltas]).T)


def test_egemaps_is_opensmile_s():
    opensmile = pytest.importorskip("opensmile")
    samples = voice()
    smile = opensmile.Smile(
        opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors
    )
    table = smile.process_signal(samples, 16000)
    starts, ends = (table.index.get_level_values(n).total_seconds() for n in ("start", "end"))
    times_s = (np.array(starts) + np.array(ends)) / 2
    found = extractors.features(extractors.resolve("egemaps", AudioSettings()), samples)
    assert found.shape == (61, 25)
    for column in range(25):
        expected = np.interp(np.arange(61) / 100, times_s, table.iloc[:, column])
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5, atol=1e-6)


def test_values_between_frames_are_interpolated_and_held_at_the_ends():
    found = extractors.features(extractors.resolve(f"{OWN}:Wide", AudioSettings()), voice(0.6))
    times_s = np.clip(np.arange(16) / 25, 0.01, 0.57)
    np.testing.assert_allclose(found[:, 0], 1000 * times_s, rtol=1e-6)
    assert found.shape == (16, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NotFinite", "gave a value that is not finite"),
        ("TooWide", r"gave values of shape \(5, 4\), not \[T, 3\]"),
        ("Backwards", "gave times that go back, at 0.1 s"),
        ("Nothing", "gave no values"),
        ("Untimed", r"gave 4 values and times of shape \(1,\)"),
    ],
)
def test_what_is_not_as_the_extractor_says_costs_the_clip_by_name(name, reason):
    with pytest.raises(MediaError, match=f"wide {reason}"):
        extractors.features(extractors.resolve(f"{OWN}:{name}", AudioSettings()), voice())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("plp", "must be logmel, mfcc, egemaps or package.module:name, got 'plp'"),
        ("no.such:Thing", "ModuleNotFoundError: No module named 'no'"),
        (f"{OWN}:Missing", "has no attribute 'Missing'"),
        (f"{OWN}:NoWidth", "it has no rate_hz"),
        (f"{OWN}:OddStep", "step must be a power of two or None, got 0.3"),
        (f"{OWN}:OddSettings", "settings must be a dict of JSON values .*object is not JSON"),
        (f"{OWN}:NoSettings", "settings: KeyError: 'weights'"),
        (f"{OWN}:Numbered", "version must be text, got 2"),
    ],
)
def test_what_is_no_extractor_is_refused_before_anything_is_built(name, reason):
    with pytest.raises(ValueError, match=reason):
        BuildSettings(audio_features=name)


@pytest.mark.parametrize(("name", "reason"), [("Raising", "no model"), ("Infinite", "float16")])
def test_where_every_clip_fails_the_build_says_why(name, reason, voices, tmp_path, in_process):
    settings = dataclasses.replace(HEARD, audio_features=f"{OWN}:{name}")
    with pytest.raises(BuildError, match=reason):
        build({}, tmp_path, settings, tables=[voices], **in_process)


def test_changed_code_is_another_build(voices, tmp_path, in_process, monkeypatch):
    settings = dataclasses.replace(HEARD, audio_features=f"{OWN}:Wide")
    build({}, tmp_path, settings, tables=[voices], **in_process)
    assert build({}, tmp_path, settings, tables=[voices], **in_process).was_finished
    monkeypatch.setattr(extractors.inspect, "getsource", lambda module: "other code")
    with pytest.raises(BuildError, match="settings extractor source_sha256 was"):
        build({}, tmp_path, settings, tables=[voices], **in_process)


def test_code_of_the_class_that_an_extractor_extends_is_its_own(monkeypatch):
    class Extended(own_extractors.Wide):
        pass

    before = extractors.described(Extended())["source_sha256"]
    sources = {own_extractors: "other code"}
    getsource = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda each: sources.get(each) or getsource(each))
    assert extractors.described(Extended())["source_sha256"] != before


def test_effects_that_need_mel_bands_say_so(voices, tmp_path, in_process):
    settings = dataclasses.replace(HEARD, audio_features="mfcc")
    build({}, tmp_path, settings, tables=[voices], **in_process)
    for options in (
        {"augment": Augment(mel_warp=(0.9, 1.1))},
        {"augment": Augment(frequency_masks=2, frequency_mask_bands=30)},
        {"features": Features(relative_level=True)},
        {"features": Features(trim_silence_db=30.0)},
    ):
        with pytest.raises(ValueError, match="needs log-mel energies, and this data set has mfcc"):
            make_dataset(str(tmp_path), "train", **options)


@pytest.mark.parametrize("name", ["Pitch", "Wide"])
def test_features_of_one_s_own_are_stored_served_and_read_as_the_manifest_says(
    name, voices, tmp_path, in_process
):
    settings = dataclasses.replace(HEARD, audio_features=f"{OWN}:{name}")
    report = build({}, tmp_path, settings, tables=[voices], **in_process)
    assert report.clips_written == 8
    assert not list(verify.verify(tmp_path))
    extractor = settings.extractor
    modality = Manifest.load(str(tmp_path)).modalities["audio"]
    assert (modality.rate_hz, modality.array.shape) == (extractor.rate_hz, (extractor.width,))
    raw = Features(normalize=False, with_ids=True)
    served = {}
    for features, _ in make_dataset(str(tmp_path), "all", batch_size=3, features=raw):
        for row, example_id in enumerate(features["example_id"].numpy()):
            series = features["audio"].numpy()[row]
            served[example_id.decode()] = series[features["audio_mask"].numpy()[row]]
    for number in range(8):
        _, samples = wavfile.read(voices.parent / f"{number}.wav")
        expected = extractors.features(extractor, samples)
        error = 1 / 512 if extractor.step else np.abs(expected).max() / 2048
        np.testing.assert_allclose(served[f"voices/{number}"], expected, atol=error)
    records = Records(str(tmp_path), "all", features=raw)
    for clip in (records[place] for place in range(len(records))):
        np.testing.assert_array_equal(clip["audio"], served[clip["example_id"]])
    # A warp keeps the clip's length in seconds, at the modality's own rate.
    twice = Augment(probability=1.0, stretch=(2.0, 2.0), warp_share=1.0, noise_share=0.0)
    for features, _ in make_dataset(str(tmp_path), "train", augment=twice, num_epochs=1):
        assert np.isfinite(features["audio"].numpy()).all()


def test_a_pitch_extractor_comes_from_a_list_to_a_model_that_learns(
    voices, tmp_path, in_process, learns
):
    settings = dataclasses.replace(HEARD, audio_features=f"{OWN}:Pitch", classes=("happy", "sad"))
    build({}, tmp_path, settings, tables=[voices], **in_process)
    heard = Features("audio", with_ids=True)
    small = {
        "audio_filters": (8, 8),
        "audio_lstm_units": (8, 8),
        "audio_dense_units": 16,
        "joined_units": (16, 16),
        "joined_dropouts": (0.0, 0.0),
        "bn_momentum": 0.8,
    }
    model = learns(tmp_path, heard, small, num_epochs=15)
    assert (model.num_audio_features, model.num_classes) == (2, 2)
