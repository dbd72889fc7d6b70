"""From files to shards: sound and picture stay together, whatever the file's rates and offsets."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from emotion_tfdata.dataset import schema
from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder.building import build
from preprocess.builder.plan import BuildSettings
from preprocess.clip import align
from preprocess.drawn import sample
from preprocess.drawn.sample_encode import NTSC_FRAME_RATE
from preprocess.drawn.sample_render import draw_clip

# Each stands for an actor: pictures a second, samples a second, first picture at.
_MP4 = {1: (25, 48000, 0.0), 2: (NTSC_FRAME_RATE, 48000, 0.0), 3: (NTSC_FRAME_RATE, 44100, 0.3)}
_FLV = {1001: (25, 44100, 0.0), 1002: (NTSC_FRAME_RATE, 44100, 0.0), 1003: (25, 22050, 0.3)}
_RAVDESS_EMOTIONS = ("03", "04", "05")
_CREMA_D_EMOTIONS = ("HAP", "SAD", "ANG")


@pytest.fixture(scope="module")
def examples(tmp_path_factory, encode, in_process):
    """What a build of three clips of each form holds, by actor."""
    root = tmp_path_factory.mktemp("synchrony")
    specs = sample.plan_clips(
        sample.SampleSettings(
            num_actors=3, clips_per_actor=6, min_duration_s=1.2, max_duration_s=1.4
        )
    )
    clips = iter([draw_clip(spec) for spec in specs[::2]])
    for actor, (frame_rate, rate_hz, start_s) in (_MP4 | _FLV).items():
        for take in range(3):
            if actor in _MP4:
                name = f"ravdess/01-01-{_RAVDESS_EMOTIONS[take]}-01-01-01-{actor:02d}.mp4"
            else:
                name = f"crema_d/VideoFlash/{actor}_DFA_{_CREMA_D_EMOTIONS[take]}_XX.flv"
            clip = next(clips)
            late = round(start_s * float(frame_rate)) / float(frame_rate)
            encode(
                root / name,
                clip=clip,
                frame_rate=frame_rate,
                audio_rate_hz=rate_hz,
                start_offset_s=late,
            )
    roots = {corpus: root / corpus for corpus in ("ravdess", "crema_d")}
    report = build(roots, root / "out", BuildSettings(), **in_process)
    assert report.clips_written == 18, str(report)
    return _examples(root / "out")


def _examples(data_dir):
    import tensorflow as tf

    by_actor: dict[int, list[schema.Example]] = {}
    for shard in Manifest.load(str(data_dir)).shards:
        assert hashlib.sha256((data_dir / shard.name).read_bytes()).hexdigest() == shard.sha256
        for payload in tf.data.TFRecordDataset(str(data_dir / shard.name)).as_numpy_iterator():
            example = schema.decode(payload)
            by_actor.setdefault(int(example.actor), []).append(example)
    return by_actor


@pytest.mark.parametrize("actor", [*_MP4, *_FLV])
def test_the_mouth_opens_with_the_voice(examples, actor):
    lags_s = np.array(
        [
            align.mouth_lag_s(example.audio, example.landmarks, example.landmarks_valid)
            for example in examples[actor]
        ]
    )
    assert len(lags_s) == 3
    assert abs(lags_s.mean()) < 0.003, lags_s
    assert np.abs(lags_s).max() < 0.012, lags_s


@pytest.mark.parametrize("actor", [*_MP4, *_FLV])
def test_there_is_a_face_from_the_first_picture_to_the_end(examples, actor):
    _, _, start_s = (_MP4 | _FLV)[actor]
    for example in examples[actor]:
        first_row = int(np.flatnonzero(example.landmarks_valid)[0])
        # The flv clock runs ahead by the delay of the MP3 encoder, 25 or 50 ms.
        assert start_s - 0.05 <= first_row / 30 <= start_s + 0.1
        assert example.landmarks_valid[first_row:].all()


def test_both_modalities_of_every_clip_last_as_long(examples):
    for clips in examples.values():
        for example in clips:
            seconds = (len(example.audio) - 1) / 100, (len(example.landmarks) - 1) / 30
            assert seconds[0] == pytest.approx(seconds[1], abs=1 / 30 + 1e-9)
