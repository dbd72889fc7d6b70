"""The sample corpus: names, determinism, clocks, and faces that a face mesh can follow."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import mediapipe
import numpy as np
import pytest

from preprocess.drawn import sample, sample_face, sample_render, sample_voice, sample_write
from preprocess.drawn.sample_encode import NTSC_FRAME_RATE, encode_clip

SMALL = sample.SampleSettings(num_actors=1, clips_per_actor=1, min_duration_s=1.0, max_duration_s=1)


def decode(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times and RGB pictures, times and samples, as a player that honours timestamps has them."""
    picture_times_s, pictures, block_times_s, blocks = [], [], [], []
    with av.open(str(path)) as media:
        for frame in media.decode(*media.streams.video, *media.streams.audio):
            start_s = float(frame.pts * frame.time_base)
            if isinstance(frame, av.VideoFrame):
                picture_times_s.append(start_s)
                pictures.append(frame.to_ndarray(format="rgb24"))
            else:
                samples = frame.to_ndarray().astype(np.float64).mean(axis=0)
                block_times_s.append(start_s + np.arange(len(samples)) / frame.sample_rate)
                blocks.append(samples)
    return (
        np.array(picture_times_s),
        np.array(pictures),
        np.concatenate(block_times_s) if blocks else np.zeros(0),
        np.concatenate(blocks) if blocks else np.zeros(0),
    )


def mesh_landmarks(pictures: np.ndarray) -> list[np.ndarray | None]:
    """`[478, 2]` in pixels of each picture, from one fresh tracker."""
    height, width = pictures[0].shape[:2]
    found = []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=False, max_num_faces=1, refine_landmarks=True
    ) as mesh:
        for picture in pictures:
            faces = mesh.process(picture).multi_face_landmarks
            found.append(
                np.array([[p.x * width, p.y * height] for p in faces[0].landmark])
                if faces
                else None
            )
    return found


def face_measures(landmarks: np.ndarray) -> np.ndarray:
    """Mouth opening, smile, brow height, eye aperture of `[478, 2]`, in eye distances."""
    left, right = landmarks[[33, 133]].mean(axis=0), landmarks[[263, 362]].mean(axis=0)
    distance = np.linalg.norm(right - left)
    across = (right - left) / distance
    down = np.array([-across[1], across[0]])
    y = (landmarks - (left + right) / 2) @ down / distance
    return np.array(
        [
            y[14] - y[13],
            y[[0, 17]].mean() - y[[61, 291]].mean(),
            -y[[105, 334, 66, 296]].mean(),
            (y[145] - y[159] + y[374] - y[386]) / 2,
        ]
    )


def marker_of(folder: Path) -> dict[str, Any]:
    marker = sample.find_marker(folder)
    assert marker is not None
    return marker


def test_names_follow_both_corpora_and_balance_emotions() -> None:
    clips = sample.plan_clips(sample.SampleSettings(num_actors=24, clips_per_actor=24))
    paths = [(clip.corpus, clip.path) for clip in clips]
    assert len(set(paths)) == len(paths) == 2 * 24 * 24
    assert set(Counter((c.corpus, c.actor, c.emotion) for c in clips).values()) == {4}
    for clip in clips:
        if clip.corpus == "ravdess":
            match = re.fullmatch(
                r"Video_Speech_Actor_(\d\d)/Actor_\1/01-01-(0[1-8])-(0[12])-(0[12])-(0[12])-\1\.mp4",
                clip.path,
            )
            assert match, clip.path
            assert int(match[1]) == clip.actor
            assert match[2] != "01" or match[3] == "01", "neutral has no strong intensity"
        else:
            match = re.fullmatch(
                r"VideoFlash/(10\d\d)_(IEO|TIE|IOM|IWW)_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)\.flv",
                clip.path,
            )
            assert match, clip.path
            assert int(match[1]) == 1000 + clip.actor
            assert match[3] == clip.emotion[:3].upper()


def test_each_emotion_shares_its_face_with_one_other_and_its_voice_with_another() -> None:
    for emotion in sample.EMOTIONS:
        same_face = {e for e in sample.EMOTIONS if sample.FACE_OF[e] == sample.FACE_OF[emotion]}
        same_voice = {e for e in sample.EMOTIONS if sample.VOICE_OF[e] == sample.VOICE_OF[emotion]}
        assert len(same_face) == len(same_voice) == 2
        assert same_face & same_voice == {emotion}


def test_words_and_loudness_do_not_depend_on_the_emotion() -> None:
    clips = sample.plan_clips(sample.SampleSettings(num_actors=2, clips_per_actor=18))
    words = {e: Counter(c.sentence for c in clips if c.emotion == e) for e in sample.EMOTIONS}
    assert all(counter == words["neutral"] for counter in words.values())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_actors", 0, r"num_actors must be a whole number in \[1, 24\], got 0"),
        ("clips_per_actor", 25, r"clips_per_actor must be a whole number in \[1, 24\], got 25"),
        ("max_duration_s", 0.5, "durations must be"),
    ],
)
def test_settings_out_of_range_are_named(field, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        sample.SampleSettings(**{field: value})


def test_clips_come_alike_from_a_seed_and_differ_between_seeds() -> None:
    first, again = (sample_render.draw_clip(sample.plan_clips(SMALL)[0]) for _ in range(2))
    other_settings = sample.SampleSettings(num_actors=1, clips_per_actor=1, seed=1)
    other = sample_render.draw_clip(sample.plan_clips(other_settings)[0])
    np.testing.assert_array_equal(first.audio(16000), again.audio(16000))
    np.testing.assert_array_equal(next(first.pictures()), next(again.pictures()))
    assert first.look != other.look
    assert first.throat != other.throat
    assert not np.array_equal(first.audio(16000)[:16000], other.audio(16000)[:16000])


@pytest.mark.parametrize("emotion", sample.EMOTIONS)
def test_loudness_is_the_envelope_without_delay(emotion) -> None:
    spec = next(
        clip
        for clip in sample.plan_clips(sample.SampleSettings(num_actors=1, clips_per_actor=6))
        if clip.emotion == emotion
    )
    rate_hz = 16000
    clip = sample_render.draw_clip(spec)
    audio = clip.audio(rate_hz)
    window = np.hanning(401)
    loudness = np.sqrt(np.convolve(audio**2, window / window.sum(), mode="same"))
    expected = clip.envelope(np.arange(len(audio)) / rate_hz)
    lags = np.arange(-160, 161, 8)
    match = [np.corrcoef(np.roll(expected, lag), loudness)[0, 1] for lag in lags]
    assert max(match) > 0.98
    assert abs(lags[int(np.argmax(match))]) / rate_hz <= 0.0015


def test_envelope_peaks_at_one_and_is_silent_at_both_ends() -> None:
    rng = np.random.default_rng(3)
    envelope = sample_voice.draw_envelope(rng, 2.0, 4.0)
    time_s = np.linspace(0, 2.0, 4001)
    values = envelope(time_s)
    assert values.min() >= 0
    assert values.max() == pytest.approx(1.0, abs=1e-3)
    assert values[time_s < 0.05].max() == values[time_s > 1.95].max() == 0
    np.testing.assert_allclose(envelope.shares(time_s).sum(axis=1), 1.0)


CLICK_S, FLASH = 0.7, 12


@pytest.mark.parametrize("start_offset_s", [0.0, 0.1237])
@pytest.mark.parametrize(
    ("container", "video_codec", "audio_codec", "frame_rate", "audio_rate_hz"),
    [
        ("mp4", "libx264", "aac", NTSC_FRAME_RATE, 48000),
        ("mp4", "libx264", "aac", 25, 44100),
        ("flv", "flv", "libmp3lame", NTSC_FRAME_RATE, 44100),
        ("flv", "flv", "libmp3lame", 25, 44100),
    ],
)
def test_click_and_flash_come_back_when_they_were_put(
    tmp_path, container, video_codec, audio_codec, frame_rate, audio_rate_hz, start_offset_s
) -> None:
    pictures = [np.full((64, 96, 3), 220 if i == FLASH else 20, np.uint8) for i in range(30)]
    from_click_s = np.arange(audio_rate_hz) / audio_rate_hz - CLICK_S
    click = 0.8 * np.sinc(from_click_s * 6000) * np.exp(-((from_click_s / 0.002) ** 2))
    path = tmp_path / f"clip.{container}"
    offset_s = encode_clip(
        path,
        pictures,
        click,
        frame_rate=frame_rate,
        audio_rate_hz=audio_rate_hz,
        container=container,
        video_codec=video_codec,
        audio_codec=audio_codec,
        start_offset_s=start_offset_s,
    )
    picture_times_s, shown, sample_times_s, samples = decode(path)
    expected_s = start_offset_s + offset_s + np.arange(30) / float(Fraction(frame_rate))
    np.testing.assert_allclose(picture_times_s, expected_s, atol=0.6e-3)
    assert int(shown.mean(axis=(1, 2, 3)).argmax()) == FLASH
    heard_s = sample_times_s[np.abs(samples).argmax()]
    assert heard_s == pytest.approx(CLICK_S + offset_s, abs=1e-3)
    assert offset_s == (0.025 if container == "flv" else 0.0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_clips_may_lack_sound_or_pictures_but_not_both(tmp_path) -> None:
    pictures = [np.zeros((64, 96, 3), np.uint8)] * 3
    encode_clip(tmp_path / "silent.mp4", pictures, None)
    encode_clip(tmp_path / "blind.mp4", None, np.zeros(4800))
    with av.open(str(tmp_path / "silent.mp4")) as silent, av.open(str(tmp_path / "blind.mp4")) as b:
        assert [stream.type for stream in silent.streams] == ["video"]
        assert [stream.type for stream in b.streams] == ["audio"]
    with pytest.raises(ValueError, match="got neither"):
        encode_clip(tmp_path / "nothing.mp4", None, None)
    with pytest.raises(ValueError, match="no pictures"):
        encode_clip(tmp_path / "nothing.mp4", [], None)
    assert not list(tmp_path.glob("*nothing*"))


def test_mesh_finds_every_drawn_face_and_follows_what_moves_in_it() -> None:
    rng = np.random.default_rng(5)
    time_s = np.arange(50) / 30
    for female in (False, True):
        look = sample_face.draw_look(rng, female=female)
        # Rates apart, so that what one parameter does to another's landmarks averages out.
        acted = np.sin(2 * np.pi * np.outer(time_s, [3.1, 1.0, 1.4, 1.9]))
        pictures = np.array(
            [
                sample_face.draw_face(
                    look,
                    sample_face.Expression(
                        mouth_open=0.45 + 0.45 * mouth,
                        smile=0.8 * smile,
                        brow_height=0.8 * brow,
                        eye_open=1.0 + 0.4 * eye,
                    ),
                    sample_face.Pose(roll=0.04 * np.sin(t)),
                    width=320,
                    height=180,
                )
                for t, (mouth, smile, brow, eye) in zip(time_s, acted, strict=True)
            ]
        )
        found = [landmarks for landmarks in mesh_landmarks(pictures) if landmarks is not None]
        assert len(found) == len(pictures)
        measured = np.array([face_measures(landmarks) for landmarks in found])
        follows = [np.corrcoef(acted[:, k], measured[:, k])[0, 1] for k in range(4)]
        assert min(follows) > 0.8, follows


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    written = sample_write.write_corpus(SMALL, folder, num_workers=1)
    assert (written.drawn, written.reused) == (2, 0)
    return folder


def test_files_hold_a_face_in_every_picture_and_a_mouth_that_follows_the_voice(corpus_dir) -> None:
    for spec in sample.plan_clips(SMALL):
        path = corpus_dir / spec.corpus / spec.path
        picture_times_s, pictures, sample_times_s, samples = decode(path)
        assert len(pictures) == np.ceil(spec.duration_s * 30 / 1.001)
        assert sample_times_s[-1] >= spec.duration_s
        found = [landmarks for landmarks in mesh_landmarks(pictures) if landmarks is not None]
        assert len(found) == len(pictures)
        mouth = np.array([face_measures(landmarks)[0] for landmarks in found])
        loudness = [
            np.sqrt(np.mean(samples[np.abs(sample_times_s - time_s) < 0.0125] ** 2))
            for time_s in picture_times_s
        ]
        assert np.corrcoef(loudness, mouth)[0, 1] > 0.85


def test_marker_travels_with_the_corpus_and_with_each_folder(corpus_dir, tmp_path) -> None:
    whole = marker_of(corpus_dir)
    assert whole["what"] == "drawn clips"
    assert whole["settings"] == SMALL.as_dict()
    assert len(whole["clips"]) == 2
    for corpus in sample.CORPORA:
        part = marker_of(corpus_dir / corpus)
        assert len(part["clips"]) == 1
        clip = corpus_dir / corpus / part["clips"][0]["path"]
        assert hashlib.sha256(clip.read_bytes()).hexdigest() == part["clips"][0]["sha256"]
        assert sample.find_marker(clip.parent) == part
    assert sample.find_marker(tmp_path) is None
    (tmp_path / sample.MARKER_NAME).write_text("[")
    with pytest.raises(ValueError, match="not a readable sample corpus marker"):
        sample.find_marker(tmp_path)


def test_any_number_of_processes_writes_the_same_bytes(tmp_path) -> None:
    settings = sample.SampleSettings(2, 4, 0, 1.0, 1.0)
    written = sample_write.write_corpus(settings, tmp_path / "two", num_workers=2)
    assert written.drawn == 16
    for spec in sample.plan_clips(settings)[::5]:
        sample_write.write_clip(spec, tmp_path / "one")
        two = (tmp_path / "two" / spec.corpus / spec.path).read_bytes()
        assert (tmp_path / "one" / spec.path).read_bytes() == two


def test_second_run_reuses_whole_clips_and_redraws_damaged_ones(corpus_dir) -> None:
    marker = (corpus_dir / sample.MARKER_NAME).read_bytes()
    written = sample_write.write_corpus(SMALL, corpus_dir)
    assert (written.drawn, written.reused) == (0, 2)
    flv = next(corpus_dir.rglob("*.flv"))
    flv.write_bytes(flv.read_bytes()[:-100])
    written = sample_write.write_corpus(SMALL, corpus_dir)
    assert (written.drawn, written.reused) == (1, 1)
    assert (corpus_dir / sample.MARKER_NAME).read_bytes() == marker


def test_interrupted_run_resumes_and_has_no_marker_before_its_end(tmp_path) -> None:
    class InterruptionError(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        raise InterruptionError

    with pytest.raises(InterruptionError):
        sample_write.write_corpus(SMALL, tmp_path, num_workers=1, progress=interrupt)
    assert sample.find_marker(tmp_path) is None
    written = sample_write.write_corpus(SMALL, tmp_path, num_workers=1)
    assert (written.drawn, written.reused) == (1, 1)
    assert sample.find_marker(tmp_path / "crema_d") is not None


def test_other_settings_are_refused_and_replaced_on_request(tmp_path) -> None:
    longer = sample.SampleSettings(1, 1, 0, 1.1, 1.1)
    sample_write.write_corpus(SMALL, tmp_path, num_workers=1)
    with pytest.raises(ValueError, match=r"other settings \(min_duration_s=1.0 there, 1.1 here"):
        sample_write.write_corpus(longer, tmp_path)
    written = sample_write.write_corpus(longer, tmp_path, overwrite=True, num_workers=1)
    assert written.drawn == 2
    assert marker_of(tmp_path)["settings"] == longer.as_dict()


def test_a_folder_of_other_clips_is_left_alone(tmp_path) -> None:
    (tmp_path / "ravdess").mkdir()
    (tmp_path / "ravdess" / "mine.mp4").write_text("mine")
    with pytest.raises(ValueError, match="no sample corpus"):
        sample_write.write_corpus(SMALL, tmp_path, overwrite=True)
    assert (tmp_path / "ravdess" / "mine.mp4").read_text() == "mine"


def run_command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "preprocess.sample_corpus", *flags],
        check=False,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_says_in_one_line_what_is_wrong(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for flags, message in (
        ([f"--out_dir={tmp_path}/file/below"], "cannot write to --out_dir="),
        (
            [f"--out_dir={tmp_path}/new", "--num_actors=25"],
            "--num_actors=25: 25 is not an integer in the range [1, 24]",
        ),
    ):
        result = run_command(*flags)
        assert result.returncode == 1
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert run_command("--num_workers=0", f"--out_dir={tmp_path}/new").returncode == 1
    assert not (tmp_path / "new").exists()


def test_command_draws_and_then_reuses(tmp_path) -> None:
    flags = [f"--out_dir={tmp_path}", "--num_actors=1", "--clips_per_actor=1"]
    first, second = run_command(*flags), run_command(*flags)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "2 drawn, 0 reused" in first.stdout
    assert "0 drawn, 2 reused" in second.stdout
    assert "2/2 clips" in first.stderr
