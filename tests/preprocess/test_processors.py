"""What a build gives on every kind of processor, and what it says of those that it ran on.

The stored values were computed with AVX-512 (Zen 4). Under qemu-user Haswell (AVX2) gives the same
to the bit; SandyBridge (AVX) and Nehalem (SSE) do so of wavs, and landmarks on Nehalem differ
by up to 8e-4 after four pictures. Where the golden SHA-256 changes, data sets built before cannot
be repeated: raise `plan.RECIPE` with it.
"""

from __future__ import annotations

import hashlib
import platform
import wave

import numpy as np
import pytest

from emotion_tfdata.dataset.manifest import Manifest
from preprocess.builder import process_clip, processor
from preprocess.builder.building import build
from preprocess.builder.plan import BuildSettings
from preprocess.clip.landmarks import to_face_frame, track_face

SHARDS_SHA256 = "07eb7ac33c6021bf1078727b38e7ff66e0ff828bd70c2b5c9e3ff296bfd85063"
# Nose, lips, chin, eyes and brow in the drawn face's fourth picture, in the face's own frame.
POINTS = (1, 13, 14, 152, 33, 263, 105)
LANDMARKS = [
    [-0.01422, 0.56454, -0.64101],
    [0.01389, 0.90959, -0.28779],
    [-0.0109, 1.21813, -0.20405],
    [-0.02606, 1.68957, 0.11397],
    [-0.72856, -0.02325, 0.05678],
    [0.72038, -0.0138, 0.03652],
    [-0.66189, -0.43807, -0.16732],
]


@pytest.fixture(scope="module")
def wavs(tmp_path_factory):
    """Wavs of whole numbers alone, which are the same everywhere, at both corpora's rates."""
    root = tmp_path_factory.mktemp("wavs")
    rng = np.random.default_rng(7)
    for name, rate_hz in (
        ("ravdess/03-01-03-01-01-01-01.wav", 48000),
        ("ravdess/03-01-05-01-01-01-02.wav", 48000),
        ("crema_d/1001_DFA_ANG_XX.wav", 16000),
        ("crema_d/1002_DFA_SAD_XX.wav", 16000),
    ):
        samples = rng.integers(-3000, 3000, rate_hz)
        samples[rate_hz // 3 : rate_hz // 2] //= 100
        samples[:500] = 0
        (root / name).parent.mkdir(exist_ok=True)
        with wave.open(str(root / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes(samples.astype("<i2").tobytes())
    return {corpus: root / corpus for corpus in ("ravdess", "crema_d")}


def build_wavs(wavs, out_dir, in_process):
    settings = BuildSettings(modalities="audio", num_folds=2, checksums="off")
    report = build(wavs, out_dir, settings, **in_process)
    assert report.clips_written == 4
    shards = hashlib.sha256()
    for path in sorted(out_dir.glob("*tfrecord*")):
        shards.update(path.read_bytes())
    return report, shards.hexdigest()


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere products and sums are fused"
)
def test_shards_of_wavs_are_the_same_bytes_on_every_processor(wavs, tmp_path, in_process):
    report, sha256 = build_wavs(wavs, tmp_path, in_process)
    assert sha256 == SHARDS_SHA256
    assert Manifest.load(str(tmp_path)).processors == (processor.describe(),)
    assert "processors" not in str(report)


def test_processors_of_several_kinds_are_told_and_change_no_byte(
    wavs, tmp_path, in_process, monkeypatch
):
    """As on a cluster of several kinds of nodes, or in a build resumed on another machine."""
    _, expected = build_wavs(wavs, tmp_path / "one", in_process)
    kinds = iter(["Old (x86_64)", "New (x86_64: FMA, AVX2)"] * 10)
    monkeypatch.setattr(processor, "describe", lambda: next(kinds))

    class Several(in_process["make_pool"]):
        def run(self, tasks, timeout_s=None):
            for done in super().run(tasks, timeout_s):
                process_clip._checked.clear()  # the next task is another process's first
                yield done

    report, sha256 = build_wavs(wavs, tmp_path / "two", {**in_process, "make_pool": Several})
    assert sha256 == expected
    processors = Manifest.load(str(tmp_path / "two")).processors
    assert processors == ("New (x86_64: FMA, AVX2)", "Old (x86_64)")
    note = "made on processors of 2 kinds: New (x86_64: FMA, AVX2); Old (x86_64). Landmarks"
    assert f"note: {note}" in str(report)
    assert note in (tmp_path / "two" / "report.html").read_text()


def test_landmarks_are_the_same_to_two_thousandths_of_the_distance_between_the_eyes(drawn):
    pictures = [(n / 10, rgb) for n, rgb in enumerate(drawn.pictures(10))][:4]
    track = track_face(pictures)
    assert track.found.all()
    landmarks, _ = to_face_frame(track.points[-1:])
    np.testing.assert_allclose(landmarks[0, POINTS], LANDMARKS, atol=2e-3)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx fma avx2\n", "AMD EPYC ({}: FMA, AVX2)"),
        (
            "model name\t: Some Xeon\nflags\t: fma avx2 avx512f amx_tile\n\nmodel name\t: other\n",
            "Some Xeon ({}: FMA, AVX2, AVX-512, AMX)",
        ),
        ("model name\t: Old\nflags\t: fpu sse2\n", "Old ({})"),
    ],
)
def test_a_processor_is_described_by_its_name_and_what_matters(tmp_path, cpuinfo, expected):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor.describe(tmp_path / "cpuinfo") == expected.format(platform.machine())
