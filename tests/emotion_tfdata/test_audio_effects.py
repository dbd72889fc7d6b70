"""What make_dataset does to audio alone: mel warp, masks and level, against numpy."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import served

from emotion_tfdata import Augment, make_dataset, testing
from emotion_tfdata.dataset.manifest import Manifest

_EXAMPLES = {e.example_id: e for e in testing.fake_examples()}


_MASKS = {
    "frequency_masks": 2,
    "frequency_mask_bands": 3,
    "time_masks": 2,
    "time_mask_s": 0.15,
    "time_mask_share": 0.3,
}


@pytest.fixture(scope="module")
def mel_data_dir(tmp_path_factory):
    """The made-up clips, their manifest saying that their eight features are mel bands."""
    path = str(tmp_path_factory.mktemp("mel"))
    manifest = testing.write_data_set(path, list(_EXAMPLES.values()))
    audio = {"num_mels": 8, "fmin_hz": 100.0, "fmax_hz": 6000.0}
    dataclasses.replace(manifest, settings={"audio": audio}).save(path)
    return path


def test_a_copys_mel_axis_is_warped_and_nothing_else(mel_data_dir):
    options = {"probability": 1.0, "warp_share": 1.0, "noise_share": 0.0, "stretch": (1.0, 1.0)}
    augment = Augment(**options, mel_warp=(1.2, 1.2))
    librosa = pytest.importorskip("librosa", reason="needs the extra [preprocess]")
    edges_hz = librosa.mel_frequencies(10, fmin=100, fmax=6000)
    centres_hz, top_hz, reach_hz = edges_hz[1:-1], 6000.0, 0.6 * 6000
    slope = (top_hz - reach_hz) / (top_hz - reach_hz / 1.2)
    wanted_hz = np.where(
        centres_hz <= reach_hz / 1.2, 1.2 * centres_hz, top_hz - slope * (top_hz - centres_hz)
    )
    seen = Counter()
    for example_id, _, audio, landmarks, mask in served.clips(
        served.batches(mel_data_dir, "all", augment=augment, normalize=False)
    ):
        example = _EXAMPLES[example_id]
        np.testing.assert_allclose(
            landmarks[mask], example.landmarks[example.landmarks_valid], atol=1e-4
        )
        warped = np.array([np.interp(wanted_hz, centres_hz, frame) for frame in example.audio])
        kind = "as it is" if np.abs(audio - example.audio).max() < 0.01 else "warped"
        expected = example.audio if kind == "as it is" else warped
        np.testing.assert_allclose(audio, expected, atol=0.02)
        seen[kind] += 1
    assert seen == {"as it is": len(_EXAMPLES), "warped": len(_EXAMPLES)}


@pytest.mark.parametrize("normalize", [True, False])
def test_masks_hide_audio_by_its_mean_and_leave_everything_else(fake_data_dir, normalize):
    options = {"normalize": normalize, "split": "all", "num_buckets": 2}
    plain = served.batches(fake_data_dir, augment=Augment(), **options)
    masked = served.batches(fake_data_dir, augment=Augment(**_MASKS), **options)
    mean = np.zeros(8)
    if not normalize:
        mean = Manifest.load(fake_data_dir).moments("audio", "actor", range(1, 5)).mean
    copies, hidden_frames, hidden_bands = 0, Counter(), Counter()
    for (one, labels_one), (other, labels_other) in zip(plain, masked, strict=True):
        np.testing.assert_array_equal(labels_one, labels_other)
        for name in ("example_id", "audio_mask", "landmarks", "landmarks_mask"):
            np.testing.assert_array_equal(one[name], other[name])
        for before, after, mask in zip(
            one["audio"].numpy(), other["audio"].numpy(), one["audio_mask"].numpy(), strict=True
        ):
            changed = before != after
            hidden = np.broadcast_to(mean.astype(np.float32), after.shape)
            np.testing.assert_allclose(after[changed], hidden[changed], rtol=1e-6, atol=1e-7)
            assert not changed[~mask].any()
            frames = changed.all(axis=1)
            bands = changed[mask & ~frames].all(axis=0)
            np.testing.assert_array_equal(changed[mask], frames[mask][:, None] | bands[None, :])
            copies += changed.any()
            hidden_frames[int(frames.sum())] += 1
            hidden_bands[int(bands.sum())] += 1
            assert frames.sum() <= 0.3 * mask.sum()
    # Nearly every altered copy is masked, and four fifths of the copies are altered.
    assert 0.6 * len(_EXAMPLES) < copies <= len(_EXAMPLES)
    assert 15 < max(hidden_frames) <= 30
    assert 3 < max(hidden_bands) <= 6


def test_masks_over_time_lie_where_there_is_sound(fake_data_dir):
    augment = Augment(probability=1.0, time_masks=1, time_mask_s=9.0, time_mask_share=0.9)
    options = {"augment": augment, "trim_silence_db": 3.0, "num_buckets": 2}
    hidden, seen = 0, 0
    for example_id, _, audio, mask in (
        (i, label, audio, mask)
        for features, labels_of in served.batches(fake_data_dir, **options)
        for i, label, audio, mask in zip(
            features["example_id"].numpy(),
            labels_of,
            features["audio"].numpy(),
            features["audio_mask"].numpy(),
            strict=True,
        )
    ):
        frames = (audio == 0).all(axis=1)
        assert mask.sum() < len(_EXAMPLES[example_id.decode()].audio) * 1.1
        hidden += (frames & mask).sum()
        seen += mask.sum()
    # Half of the clips are copies, and a mask of theirs covers 0.45 of the sound on average.
    assert hidden / seen == pytest.approx(0.225, abs=0.07)


def test_the_stream_is_the_same_for_any_number_of_threads_and_from_any_batch(mel_data_dir):
    options = {"augment": Augment(mel_warp=(0.8, 1.2), **_MASKS), "num_epochs": 2}
    options |= {"trim_silence_db": 12.0, "relative_level": True, "num_buckets": 2}
    whole = served.batches(mel_data_dir, num_threads=1, **options)
    tail = served.batches(mel_data_dir, num_threads=16, start_batch=2, **options)
    testing.assert_same_stream(tail, whole[2:])


def test_clips_as_they_are_stay_so_beside_altered_copies(mel_data_dir):
    plain = {c[0]: c for c in served.clips(served.batches(mel_data_dir, "all", num_buckets=1))}
    augment = Augment(
        probability=1.0, warp_share=0.0, noise_share=1.0, mel_warp=(0.8, 1.2), **_MASKS
    )
    same = Counter()
    for example_id, _, audio, landmarks, _ in served.clips(
        served.batches(mel_data_dir, "all", augment=augment, num_buckets=2)
    ):
        expected = plain[example_id]
        faces = min(len(landmarks), len(expected[3]))
        unchanged = np.array_equal(audio, expected[2])
        same[unchanged] += 1
        if unchanged:
            np.testing.assert_array_equal(landmarks[:faces], expected[3][:faces])
    assert same == {True: len(_EXAMPLES), False: len(_EXAMPLES)}


def test_what_the_features_do_not_allow_is_refused_before_anything_is_read(fake_data_dir):
    with pytest.raises(ValueError, match=r"mel_warp needs the frequencies of the mel bands.*set"):
        make_dataset(fake_data_dir, "train", augment=Augment(mel_warp=(0.9, 1.1)))
    with pytest.raises(ValueError, match=r"frequency_masks=2 of up to frequency_mask_bands=4.*8 b"):
        make_dataset(
            fake_data_dir, "train", augment=Augment(frequency_masks=2, frequency_mask_bands=4)
        )
    # Faces have neither: there is nothing to do to them.
    faces = served.make(
        fake_data_dir, "train", modalities="landmarks", augment=Augment(mel_warp=(0.9, 1.1))
    )
    assert len(list(faces)) == 2 * 24 // 24


def test_a_relative_level_counts_from_the_mean_of_each_clips_sound(fake_data_dir):
    options = {"trim_silence_db": 12.0, "num_buckets": 2}
    plain, relative = (
        served.batches(fake_data_dir, "all", normalize=False, relative_level=relative, **options)
        for relative in (False, True)
    )
    moments = Manifest.load(fake_data_dir).moments("audio", "actor", range(1, 5))
    normal = served.batches(fake_data_dir, "all", relative_level=True, **options)
    for (one, _), (other, _), (scaled, _) in zip(plain, relative, normal, strict=True):
        np.testing.assert_array_equal(one["landmarks"], other["landmarks"])
        np.testing.assert_array_equal(one["audio_mask"], other["audio_mask"])
        for mask, *clips in zip(
            *(x.numpy() for x in (one["audio_mask"], one["audio"], other["audio"])),
            scaled["audio"].numpy(),
            strict=True,
        ):
            absolute, from_level, unit = (clip[mask] for clip in clips)
            expected = absolute - absolute.mean(dtype=np.float64)
            np.testing.assert_allclose(from_level, expected, atol=1e-3)
            expected = (expected - (moments.mean - moments.mean.mean())) / moments.deviation
            np.testing.assert_allclose(unit, expected, atol=1e-3)
