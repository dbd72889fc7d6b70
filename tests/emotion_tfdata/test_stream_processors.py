"""What a stream gives on every kind of processor: to the bit as it is, to rounding when altered.

The stored values were computed with AVX-512 (Zen 4). Under qemu-user Haswell (AVX2) gives the same
bits, altered copies included, and SandyBridge (AVX) values within 1e-6. Where the golden SHA-256
changes, so does every stream that somebody has noted down.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import served

from emotion_tfdata import Augment
from preprocess.builder import processor

SHA256 = "cf535a4c849eba06944ea36330f704c04f2b2cf8f19499267842b50359c9bfb9"
# Of a copy that is warped and noisy: its length, bands 0 to 2 at 0.5 s, landmark 2 at 0.67 s.
ALTERED = {
    "ravdess/clip-01-000": [152, -0.43212, -0.19707, -0.92472, -1.86005, -0.43472, -1.26697],
    "ravdess/clip-03-004": [179, 1.17718, 1.49975, 1.92186, 0.11989, 0.53025, 0.26854],
}


@pytest.fixture(scope="module")
def plain(fake_data_dir):
    """Clips as they are: id -> label, audio, landmarks and their mask."""
    return {clip[0]: clip[1:] for clip in served.clips(served.batches(fake_data_dir, "all"))}


@pytest.mark.skipif(
    "FMA" not in processor.describe(), reason="without fused products scaling rounds once more"
)
def test_clips_as_they_are_have_the_same_bits_on_every_processor(plain):
    digest = hashlib.sha256()
    for example_id, (label, audio, landmarks, mask) in sorted(plain.items()):
        digest.update(f"{example_id} {label} {np.flatnonzero(mask).tolist()}".encode())
        digest.update(audio.tobytes() + landmarks[mask].tobytes())
    assert digest.hexdigest() == SHA256


def test_altered_copies_are_the_same_to_a_ten_thousandth_of_a_deviation(plain, fake_data_dir):
    altered = {}
    augment = Augment(probability=1.0, warp_share=0.0, noise_share=0.0)
    for example_id, _, audio, landmarks, _ in served.clips(
        served.batches(fake_data_dir, "all", augment=augment)
    ):
        if not np.array_equal(audio[:50], plain[example_id][1][:50]):
            altered[example_id] = [len(audio), *audio[50, :3], *landmarks[20, 2]]
    assert altered.keys() == plain.keys()
    for example_id, values in ALTERED.items():
        np.testing.assert_allclose(altered[example_id], values, atol=1e-4)
