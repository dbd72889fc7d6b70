"""Decoding: what is in a file, when it is, and what is wrong with a file that is not one."""

from __future__ import annotations

import errno
import os
import random
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from scipy import signal
from scipy.io import wavfile

from preprocess.clip import media
from preprocess.clip.container import Limits, MediaError
from preprocess.drawn.sample_encode import NTSC_FRAME_RATE


def bumps(rate_hz, duration_s=1.0, centres_s=(0.3, 0.55, 0.8)):
    """A tone in short bumps whose centres are known."""
    times_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    loudness = sum(np.exp(-(((times_s - centre) / 0.01) ** 2)) for centre in centres_s)
    return (0.5 * loudness * np.sin(2 * np.pi * 1000 * times_s)).astype(np.float32)


def delay_s(sound, sent, rate_hz):
    """How much later the decoded sound is than what was sent, by cross-correlation."""
    envelope = np.abs(signal.hilbert(sound.samples))
    wanted = np.abs(signal.hilbert(sent))
    at = int(signal.correlate(envelope, wanted, "full").argmax()) - (len(wanted) - 1)
    return sound.start_s + at / rate_hz


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.uint8])
def test_wav_samples_are_those_of_scipy(tmp_path, channels, dtype):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.9, 0.9, (2000, channels))
    if dtype == np.uint8:
        stored = np.rint(samples * 128 + 128).astype(dtype)
        expected = (stored - 128.0) / 128
    elif dtype == np.float32:
        stored = expected = samples.astype(dtype)
    else:
        stored = np.rint(samples * np.iinfo(dtype).max).astype(dtype)
        expected = stored / (float(np.iinfo(dtype).max) + 1)
    wavfile.write(tmp_path / "a.wav", 22050, stored)

    sound = media.read_sound(tmp_path / "a.wav")

    assert (sound.rate_hz, sound.start_s) == (22050, 0.0)
    assert sound.samples.dtype == np.float32
    np.testing.assert_allclose(sound.samples, expected.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("ending", "rate_hz"),
    [(".mp4", 16000), (".mp4", 44100), (".mp4", 48000), (".flv", 22050), (".flv", 44100)],
)
def test_sound_is_heard_when_it_was_sent(tmp_path, encode, ending, rate_hz):
    sent = bumps(rate_hz)
    file = encode(tmp_path / f"a{ending}", sound=sent, audio_rate_hz=rate_hz)

    sound = media.read_sound(file.path)

    assert sound.rate_hz == rate_hz
    assert delay_s(sound, sent, rate_hz) == pytest.approx(file.offset_s, abs=0.001)


def _sound_with_a_jump(path, jump_s):
    """Sound in blocks of which the later half is `jump_s` later than its samples say."""
    sent = bumps(48000)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        for begin in range(0, len(sent) - 1023, 1024):
            frame = av.AudioFrame.from_ndarray(sent[None, begin : begin + 1024], "fltp", "mono")
            frame.sample_rate = 48000
            frame.time_base = Fraction(1, 48000)
            frame.pts = begin + (round(jump_s * 48000) if begin >= len(sent) // 2 else 0)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def test_a_hole_in_the_sound_is_silence_as_long(tmp_path):
    _sound_with_a_jump(tmp_path / "a.mp4", 0.5)
    sound = media.read_sound(tmp_path / "a.mp4")
    envelope = np.abs(signal.hilbert(sound.samples))
    peaks, _ = signal.find_peaks(envelope, height=0.3, distance=4800)
    np.testing.assert_allclose(peaks / 48000, [0.3, 1.05, 1.3], atol=0.03)
    assert len(sound.samples) / 48000 == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("frame_rate", [25, NTSC_FRAME_RATE])
@pytest.mark.parametrize("start_s", [0.0, 0.4])
@pytest.mark.parametrize("ending", [".mp4", ".flv"])
def test_pictures_are_shown_when_they_were_sent(tmp_path, encode, ending, start_s, frame_rate):
    pictures = [np.full((32, 48, 3), 20 * i, np.uint8) for i in range(10)]
    file = encode(
        tmp_path / f"a{ending}", picture=pictures, frame_rate=frame_rate, start_offset_s=start_s
    )

    decoded = list(media.read_pictures(file.path))

    times_s = file.offset_s + start_s + np.arange(10) / float(Fraction(frame_rate))
    np.testing.assert_allclose([p.time_s for p in decoded], times_s, atol=0.0011)
    assert {(p.rgb.shape, p.rgb.dtype) for p in decoded} == {((32, 48, 3), np.dtype(np.uint8))}
    np.testing.assert_allclose([p.rgb.mean() for p in decoded], 20 * np.arange(10), atol=6)


def test_real_crema_d_pictures_begin_27_ms_after_the_sound(corpora_dir):
    path = corpora_dir / "crema_d" / "VideoFlash" / "1001_DFA_ANG_XX.flv"
    assert media.read_sound(path).start_s == 0.0
    assert next(media.read_pictures(path)).time_s == pytest.approx(0.027)


@pytest.mark.parametrize(
    ("shape", "together"),
    [((18, 24, 3), 16), ((1080, 1920, 3), 9), ((6000, 6000, 3), 1)],
    ids=["many small", "by their size", "each alone"],
)
def test_pictures_are_decoded_several_at_a_time_but_never_much_of_them(shape, together):
    decoded = []

    def pictures():
        for number in range(40):
            decoded.append(number)
            yield media.Picture(np.broadcast_to(np.uint8(number), shape), number / 30)

    seen = []
    for picture in media.in_batches(pictures()):
        seen.append(picture.time_s * 30)
        assert len(decoded) == min(-(-len(seen) // together) * together, 40)
    np.testing.assert_allclose(seen, range(40))


def _cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _damage(path):
    """Overwrites the middle of the media, so that sound and picture do not decode there."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 6000] = random.Random(0).randbytes(6000)
    path.write_bytes(content)


def _read(what, path):
    return media.read_sound(path) if what == "sound" else list(media.read_pictures(path))


@pytest.mark.parametrize("what", ["sound", "picture"])
@pytest.mark.parametrize(
    ("ending", "share", "reason"),
    [
        (".mp4", 0.6, "not a whole mp4 file"),
        (".mp4", 0.01, "not a whole mp4 file"),
        (".flv", 0.6, "ends at .* s of the .* s it states|damaged at"),
        (".flv", 0.001, "not a whole flv file"),
    ],
)
def test_a_truncated_file_is_unreadable(tmp_path, encode, ending, share, reason, what):
    path = encode(tmp_path / f"a{ending}").path
    _cut(path, share)
    with pytest.raises(MediaError, match=reason) as error:
        _read(what, path)
    assert error.value.kind == "unreadable"


def test_a_truncated_wav_is_unreadable(tmp_path):
    path = tmp_path / "a.wav"
    wavfile.write(path, 16000, np.ones(16000, np.int16))
    _cut(path, 0.5)
    with pytest.raises(MediaError, match=r"ends at 0\.50 s of the 1\.00 s it states|damaged"):
        media.read_sound(path)


def test_damage_on_the_way_is_not_passed_over(tmp_path, encode):
    path = encode(tmp_path / "a.mp4").path
    _damage(path)
    for what in ("sound", "picture"):
        with pytest.raises(MediaError) as error:
            _read(what, path)
        assert error.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"", "unreadable", "the file is empty"),
        (b"just some words\n" * 100, "unreadable", "not a whole mp4 file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "lfs pointer",
            "git lfs pull",
        ),
    ],
)
def test_a_file_that_is_no_media_says_what_it_is(tmp_path, content, kind, reason):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for what in ("sound", "picture"):
        with pytest.raises(MediaError, match=reason) as error:
            _read(what, path)
        assert error.value.kind == kind


def test_a_missing_stream_is_named(tmp_path, encode):
    with pytest.raises(MediaError, match="video without sound") as error:
        media.read_sound(encode(tmp_path / "silent.mp4", sound=False).path)
    assert error.value.kind == "no sound"
    for name in ("dark.mp4", "dark.wav"):
        with pytest.raises(MediaError, match="sound without picture") as error:
            list(media.read_pictures(encode(tmp_path / name, picture=False).path))
        assert error.value.kind == "no picture"


def test_other_endings_are_not_opened(tmp_path):
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\nhttp://localhost:1/a.mp4\n")
    with pytest.raises(MediaError, match=r"files named '\.m3u8' are not read"):
        media.read_sound(playlist)


def test_a_playlist_under_another_name_opens_nothing_else(tmp_path, encode):
    encode(tmp_path / "real.mp4")
    for ending in (".mp4", ".flv", ".mp3", ".wav"):
        path = tmp_path / f"list{ending}"
        path.write_text("ffconcat version 1.0\nfile real.mp4\n")
        with pytest.raises(MediaError):
            media.read_sound(path)


def test_limits_are_kept(tmp_path, encode):
    path = encode(tmp_path / "a.mp4").path
    with pytest.raises(MediaError, match=r"longer than 0\.5 s") as error:
        media.read_sound(path, Limits(duration_s=0.5))
    assert error.value.kind == "too long"
    with pytest.raises(MediaError, match=r"longer than 0\.5 s"):
        list(media.read_pictures(path, Limits(duration_s=0.5)))
    with pytest.raises(MediaError, match="more than 7 pictures"):
        list(media.read_pictures(path, Limits(frames=7)))
    with pytest.raises(MediaError, match="pictures of 240x180, over 43199 pixels") as error:
        list(media.read_pictures(path, Limits(pixels=240 * 180 - 1)))
    assert error.value.kind == "too large"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOMEM, MemoryError), (errno.EMFILE, OSError), (errno.EIO, MediaError)],
)
def test_trouble_of_the_machine_is_not_laid_on_the_file(tmp_path, monkeypatch, number, kind):
    path = tmp_path / "a.wav"
    wavfile.write(path, 16000, np.ones(16000, np.int16))

    def fail(*_, **__):
        av.error.err_check(-number, str(path))

    class Broken:
        """A container that opens and then fails."""

        def __init__(self, container):
            self.streams = container.streams
            self.demux = fail

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    whole = av.open(str(path))
    for opens in (fail, lambda *_, **__: Broken(whole)):
        monkeypatch.setattr(av, "open", opens)
        with pytest.raises(kind, match=re.escape(os.strerror(number))) as error:
            media.read_sound(path)
        assert not isinstance(error.value, av.error.FFmpegError)


def test_damaged_headers_raise_nothing_but_typed_errors(tmp_path, encode):
    rng = random.Random(0)
    originals = [encode(tmp_path / f"a{ending}").path for ending in (".mp4", ".flv", ".wav")]
    outcomes = {"read": 0, "refused": 0}
    for case in range(30):
        original = originals[case % 3]
        content = bytearray(original.read_bytes())
        for _ in range(rng.choice([1, 8, 64])):
            content[rng.randrange(min(len(content), 4000))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"damaged{original.suffix}"
        path.write_bytes(content)
        for what in ("sound", "picture"):
            try:
                _read(what, path)
                outcomes["read"] += 1
            except (MediaError, MemoryError):  # the latter for a wild size
                outcomes["refused"] += 1
    assert outcomes["refused"] > 5, outcomes
