"""What is read of a file is what players show and play of it. Files and judge are ffmpeg's."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from preprocess.clip import align, audio, media
from preprocess.clip.container import MediaError

TURNS = list(itertools.product((0, 90, 180, 270), (False, True)))
RATIOS = {"2:1": 2.0, "3:4": 0.75, "12:11": 12 / 11}
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


# -- pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def still(tmp_path_factory, ffmpeg):
    """A folder with an uneven picture of 64x48 in `still.mp4`."""
    folder = tmp_path_factory.mktemp("still")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=64x48:r=10:d=0.3,gblur=2",
        *X264,
        "-qp",
        "8",
        folder / "still.mp4",
    )
    return folder


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
def test_showing_pictures_starts_no_threads(still):
    # A picture's own converter starts one a core, and a worker runs out of the memory it may take.
    before = len(os.listdir("/proc/self/task"))
    during = [len(os.listdir("/proc/self/task")) for _ in media.read_pictures(still / "still.mp4")]
    assert len(during) == 3
    assert max(during) <= before


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_every_turn_and_mirroring_is_shown_as_ffmpeg_shows_it(still, ffmpeg, container):
    names = [f"{turn}-{mirrored}.{container}" for turn, mirrored in TURNS]
    copies, shown = [], []
    for index, ((turn, mirrored), name) in enumerate(zip(TURNS, names, strict=True)):
        flip = ["-display_hflip"] if mirrored else []
        copies += ["-display_rotation", turn, *flip, "-i", still / "still.mp4"]
        shown += ["-map", f"{index}:v", "-c", "copy", still / name]
    ffmpeg(*copies, *shown)
    inputs = [part for name in names for part in ("-i", still / name)]
    raw = [
        part
        for index, name in enumerate(names)
        for part in ("-map", f"{index}:v", "-frames:v", 1, "-pix_fmt", "rgb24", "-f", "rawvideo")
        + (still / f"{name}.raw",)
    ]
    ffmpeg(*inputs, *raw)

    seen = set()
    for name in names:
        picture = next(media.read_pictures(still / name)).rgb
        expected = np.fromfile(still / f"{name}.raw", np.uint8)
        np.testing.assert_array_equal(picture.ravel(), expected, err_msg=name)
        seen.add(picture.tobytes())
    assert len(seen) == len(TURNS)


@pytest.mark.parametrize("container", ["flv", "mkv"])
def test_a_turn_that_the_codec_states_on_the_way_holds_from_there_on(still, ffmpeg, container):
    states = "h264_metadata=display_orientation=insert:rotate=90"
    source = still / f"plain.{container}"
    ffmpeg("-i", still / "still.mp4", "-c", "copy", source)
    ffmpeg("-i", source, "-c", "copy", "-bsf:v", states, still / f"states.{container}")
    (still / "list.txt").write_text(f"file plain.{container}\nfile states.{container}\n")
    out = still / f"turns.{container}"
    ffmpeg("-f", "concat", "-i", still / "list.txt", "-c", "copy", out)
    shapes = [picture.rgb.shape[:2] for picture in media.read_pictures(out)]
    assert shapes == [(48, 64)] * 3 + [(64, 48)] * 3


def test_a_turn_by_no_quarter_is_refused(still, ffmpeg):
    ffmpeg("-display_rotation", 30, "-i", still / "still.mp4", "-c", "copy", still / "askew.mp4")
    with pytest.raises(MediaError, match="turned by no quarter turn"):
        list(media.read_pictures(still / "askew.mp4"))


@pytest.mark.parametrize("by", ["stream.flv", "stream.ts", "container.mp4", "container.mkv"])
def test_pixels_that_are_not_square_are_made_so(still, ffmpeg, by):
    arguments = []
    for ratio, value in RATIOS.items():
        out = still / f"{ratio.replace(':', '-')}-{by}"
        if by.startswith("stream"):
            arguments += ["-vf", f"setsar={ratio.replace(':', '/')}", *X264, out]
        else:
            arguments += ["-c", "copy", "-aspect", 64 / 48 * value, out]
    ffmpeg("-i", still / "still.mp4", *arguments)
    for ratio, value in RATIOS.items():
        picture = next(media.read_pictures(still / f"{ratio.replace(':', '-')}-{by}")).rgb
        height, width = picture.shape[:2]
        assert width / height == pytest.approx(64 / 48 * value, rel=0.02)
        assert min(height / 48, width / 64) == pytest.approx(1, abs=0.02)  # nothing is thrown away
        scaled = ("-vf", f"scale={width}:{height}", "-frames:v", 1, "-pix_fmt", "rgb24")
        raw = ffmpeg("-i", still / "still.mp4", *scaled, "-f", "rawvideo", "-")
        expected = np.frombuffer(raw, np.uint8).reshape(picture.shape)
        assert np.abs(picture.astype(float) - expected).mean() < 8  # a column off is 13


@pytest.mark.parametrize("container", ["flv", "ts"])
def test_a_shape_that_changes_on_the_way_is_each_picture_s_own(still, ffmpeg, container):
    """With pictures that come out later than they went in: two B-frames between others."""
    (still / "list.txt").write_text("".join(f"file part-{part}.mkv\n" for part in range(3)))
    parts = []
    for part, change in enumerate(("null", "setsar=2/1", "scale=32:48")):
        parts += ["-vf", change, "-c:v", "libx264", "-bf", 2, "-pix_fmt", "yuv420p"]
        parts += ["-video_track_timescale", 1000, still / f"part-{part}.mkv"]
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=0.8", *parts)
    out = still / f"changes.{container}"
    ffmpeg("-f", "concat", "-i", still / "list.txt", "-c", "copy", out)
    shapes = [picture.rgb.shape[:2] for picture in media.read_pictures(out)]
    assert shapes == [(48, 64)] * 8 + [(48, 128)] * 8 + [(48, 64)] * 8


# -- the clock ------------------------------------------------------------------------------------

# A click begins when a white picture is shown.
EVENTS_S = (0.6, 1.2, 1.8)
CLICK_S = 0.004
AT = "+".join(f"between(t,{at}-0.001,{at}+{{0}})" for at in EVENTS_S)
FLASHES = f"color=black:s=32x32:r=30:d=2.4,drawbox=c=white:t=fill:enable='{AT.format(0.03)}'"
CLICKS = f"aevalsrc='0.8*({AT.format(CLICK_S)})':s=48000:d=2.4"
DRIFT = 0.001
DRIFTING = CLICKS.replace("t,", f"t*{1 + DRIFT},")
H264_AAC = (*X264, "-bf", 2, "-c:a", "aac")


@pytest.fixture(scope="module")
def clips(tmp_path_factory, ffmpeg):
    """A folder with `a` in every container, and `drifts.mkv`, whose sound is a thousandth short."""
    folder = tmp_path_factory.mktemp("clips")
    outputs = []
    for name, how in {
        "a.mp4": H264_AAC,
        "a.mov": (*X264, "-c:a", "pcm_s16le"),
        "mp3.flv": (*X264, "-c:a", "libmp3lame"),
        "a.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
        "vorbis.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"),
        "a.avi": ("-c:v", "mjpeg", "-c:a", "pcm_s16le"),
        "h264.avi": (*X264, "-c:a", "pcm_s16le"),
        "b-frames.avi": (*X264, "-bf", 3, "-c:a", "pcm_s16le"),
        "mpeg4-b-frames.avi": ("-c:v", "mpeg4", "-bf", 2, "-c:a", "pcm_s16le"),
        "mp3.avi": (*X264, "-c:a", "libmp3lame"),
        "cmaf.mp4": (*H264_AAC, "-movflags", "cmaf"),
        "mp3.ts": (*X264, "-bf", 0, "-c:a", "libmp3lame"),
    }.items():
        outputs += ["-map", 0, "-map", 1, *how, folder / name]
    outputs += ["-map", 0, "-map", 2, *X264, "-c:a", "aac", folder / "drifts.mkv"]
    # Pictures at uneven intervals, the flashes among them.
    uneven = f"select='not(mod(n,3))+not(mod(n,7))+{AT.format(0.03)}'"
    outputs += ["-map", 0, "-map", 1, "-vf", uneven, "-fps_mode", "vfr", *H264_AAC]
    inputs = [
        part for graph in (FLASHES, CLICKS, DRIFTING) for part in ("-f", "lavfi", "-i", graph)
    ]
    outputs += [folder / "uneven.mp4", "-map", 0, "-map", 1, "-vf", uneven, "-fps_mode", "vfr"]
    ffmpeg(*inputs, *outputs, *X264, "-bf", 2, "-c:a", "pcm_s16le", folder / "uneven.avi")
    return folder


def lags_s(path, from_rows=True):
    """How much later each click is than its flash, the click from the rows of audio features."""
    sound = media.read_sound(path)
    pictures = list(media.read_pictures(path))
    times_s = np.array([picture.time_s for picture in pictures])
    span = align.clip_span(
        (sound.start_s, sound.start_s + len(sound.samples) / sound.rate_hz),
        align.picture_span(times_s),
    )
    samples = audio.resample(sound.samples, sound.rate_hz)
    rows = audio.log_mel(
        align.align_sound(samples, sound.start_s, span), audio.AudioSettings(num_mels=20)
    )
    energy = (10 ** (rows.astype(float) / 10)).sum(axis=1)
    white = np.array([picture.rgb.mean() > 128 for picture in pictures])
    flashes_s = times_s[white & ~np.append(False, white[:-1])] - span.start_s
    found = []
    for at_s in flashes_s:
        near = np.abs(np.arange(len(energy)) / 100 - at_s - CLICK_S / 2) < 0.08
        centre_s = (np.flatnonzero(near) / 100) @ energy[near] / energy[near].sum()
        found.append(centre_s - CLICK_S / 2 - at_s)
    return np.array(found)


DROP = "noise=amount=0:drop='eq(n,20)+eq(n,21)+eq(n,40)'"
SHIFT_LATE = ("-itsoffset", 0.37)


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "a.mov", "mp3.flv", "a.webm", "vorbis.webm", "a.avi", "h264.avi", "mp3.ts"]
    + ["b-frames.avi", "mpeg4-b-frames.avi", "uneven.mp4", "uneven.avi"],
)
def test_a_click_is_where_its_flash_is(clips, name):
    lags = lags_s(clips / name)
    assert len(lags) == len(EVENTS_S)
    assert np.abs(lags).max() < 0.002, lags
    assert not media.read_sound(clips / name).note


@pytest.mark.parametrize(
    ("name", "source", "how"),
    [
        ("fragments.mp4", "a.mp4", ("-movflags", "frag_keyframe+empty_moov")),
        ("copy.flv", "a.mp4", ()),
        ("copy.mkv", "a.mp4", ()),
        ("copy.ts", "a.mp4", ()),
        ("lost.mp4", "a.mp4", ("-bsf:a", DROP)),
        ("lost.flv", "mp3.flv", ("-bsf:a", DROP)),
        ("lost.mkv", "a.mp4", ("-bsf:a", DROP)),
        ("lost.webm", "a.webm", ("-bsf:a", DROP)),
        ("drift.mkv", "drifts.mkv", ("-bsf:a", f"setts=ts=TS*{1 + DRIFT}")),
        ("drift.mov", "drifts.mkv", ("-bsf:a", f"setts=ts=TS*{1 + DRIFT}")),
    ],
)
def test_a_click_stays_with_its_flash_however_the_file_was_copied(clips, ffmpeg, name, source, how):
    ffmpeg("-i", clips / source, "-c", "copy", *how, clips / name)
    lags = lags_s(clips / name)
    assert len(lags) == len(EVENTS_S)
    assert np.abs(lags).max() < 0.002, lags


@pytest.mark.parametrize(
    ("name", "note", "most_s"),
    [
        ("mp3.avi", media.AVI_DELAY, 0.05),
        ("cmaf.mp4", media.MP4_DELAY, 0.1),
        ("lost.ts", media.TS_GAPS, 0.048),
        ("lost.mov", media.MOV_GAPS, 0.065),
    ],
)
def test_a_file_that_does_not_say_when_its_sound_is_has_a_note(clips, ffmpeg, name, note, most_s):
    if name == "lost.ts":
        ffmpeg("-i", clips / "a.mp4", "-c", "copy", "-bsf:a", DROP, clips / "lossy.mkv")
        ffmpeg("-i", clips / "lossy.mkv", "-c", "copy", clips / name)
    if name == "lost.mov":
        ffmpeg("-i", clips / "a.mov", "-c", "copy", "-bsf:a", DROP, clips / name)
    assert media.read_sound(clips / name).note == note
    lags = lags_s(clips / name)
    assert len(lags) == len(EVENTS_S)
    assert 0.002 < np.abs(lags).max() <= most_s


@pytest.mark.parametrize("late", ["sound", "picture"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "flv"])
def test_a_stream_that_begins_later_is_not_moved(clips, ffmpeg, container, late):
    """The late stream's events are all later by as much."""
    out = clips / f"late-{late}.{container}"
    first, second = ((), SHIFT_LATE) if late == "sound" else (SHIFT_LATE, ())
    source = ("-i", clips / "a.mp4")
    maps = ("-map", "0:v", "-map", "1:a", "-c", "copy")
    ffmpeg(*first, *source, *second, *source, *maps, out)
    sound = media.read_sound(out)
    times_s = [picture.time_s for picture in media.read_pictures(out)]
    clicks_s = sound.start_s + np.flatnonzero(sound.samples > 0.3) / sound.rate_hz
    expected_s = 0.37 if late == "sound" else -0.37
    assert clicks_s[0] - (times_s[0] + EVENTS_S[0]) == pytest.approx(expected_s, abs=0.002)


def test_pictures_of_avi_that_begin_later_are_not_moved(clips, ffmpeg):
    source, out = ("-i", clips / "b-frames.avi"), clips / "late.avi"
    ffmpeg(*SHIFT_LATE, *source, *source, "-map", "0:v", "-map", "1:a", "-c", "copy", out)
    shown = list(media.read_pictures(out))
    flash_s = next(picture.time_s for picture in shown if picture.rgb.mean() > 128)
    assert flash_s == pytest.approx(EVENTS_S[0] + 0.37, abs=1 / 60)  # avi counts in pictures
    assert shown[1].time_s - shown[0].time_s == pytest.approx(1 / 30, abs=0.001)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "flv"])
def test_a_cut_without_encoding_keeps_click_and_flash_together(clips, ffmpeg, container):
    ffmpeg("-ss", 0.9, "-i", clips / "a.mp4", "-c", "copy", clips / f"cut.{container}")
    lags = lags_s(clips / f"cut.{container}")
    assert len(lags) >= 2
    assert np.abs(lags).max() < 0.002, lags


# -- sound alone ----------------------------------------------------------------------------------

TONE = ("-f", "lavfi", "-i", "sine=f=200:d=1.5:r=48000,tremolo=f=4:d=0.8")
RF64 = ("-rf64", "always", "-f", "wav")
# Silence at first, of which an encoder of variable rate makes less.
UNEVEN_SOUND = (
    *("-f", "lavfi", "-i", "anoisesrc=d=1:c=pink:r=48000:a=0.3,adelay=1000"),
    *("-c:a", "libmp3lame", "-q:a", 2),
)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory, ffmpeg):
    """A folder of sounds in many files, each beside what ffmpeg plays of it."""
    folder = tmp_path_factory.mktemp("sounds")
    names = ("a.w64", "a.au", "a.aiff", "a.flac", "a.wav", "a.ogg", "a.m4a")
    s24 = ("-c:a", "pcm_s24le", folder / "s24.wav")
    ffmpeg(*TONE, *(folder / name for name in names), *s24, *RF64, folder / "a.rf64")
    for form in ("wav", "au", "flac"):
        (folder / f"piped.{form}").write_bytes(ffmpeg(*TONE, "-f", form, "-"))
    (folder / "piped.mp3").write_bytes(ffmpeg(*UNEVEN_SOUND, "-f", "mp3", "-"))
    (folder / "piped.mkv").write_bytes(ffmpeg(*TONE, "-f", "matroska", "-"))
    (folder / "piped.avi").write_bytes(ffmpeg(*UNEVEN_SOUND, "-f", "avi", "-"))
    ffmpeg(*UNEVEN_SOUND, folder / "vbr.mp3")
    whole = (folder / "s24.wav").read_bytes()
    at = whole.index(b"data")
    size = len(whole) - at - 8
    for name, stated in {
        "long": size + 44,
        "odd": size + 1,
        "zero": 0,
        "sox": 0x7FFFF000,
        "most": 0x7FFFFFFF,
        "all": 0xFFFFFFFF,
    }.items():
        head = whole[: at + 4] + struct.pack("<I", stated)
        (folder / f"stated-{name}.wav").write_bytes(head + whole[at + 8 :])
    (folder / "byte-less.wav").write_bytes(whole[:-1])
    return folder


def test_sound_is_what_ffmpeg_plays(sounds, ffmpeg):
    names = sorted(path.name for path in sounds.iterdir())
    inputs = [part for name in names for part in ("-i", sounds / name)]
    raw = [
        part
        for index, name in enumerate(names)
        for part in ("-map", f"{index}:a", "-f", "f32le", sounds / f"{name}.raw")
    ]
    ffmpeg(*inputs, *raw)
    assert len(names) == 23
    for name in names:
        expected = np.fromfile(sounds / f"{name}.raw", np.float32)
        found = media.read_sound(sounds / name).samples
        assert abs(len(found) - len(expected)) <= 1, name
        count = min(len(found), len(expected))
        np.testing.assert_allclose(found[:count], expected[:count], atol=1e-3, err_msg=name)
    # ffmpeg plays none of this one; it is whole all the same.
    piped = ffmpeg(*TONE, *RF64, "-")
    (sounds / "piped.rf64").write_bytes(piped)
    assert len(media.read_sound(sounds / "piped.rf64").samples) == 72000


@pytest.mark.parametrize("name", ["s24.wav", "a.w64", "a.rf64", "a.au", "a.aiff", "vbr.mp3"])
def test_sound_that_is_shorter_than_its_head_states_is_refused(sounds, tmp_path, name):
    whole = (sounds / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2 + 1])
    # Of a frame of MP3 that is cut in two, the decoder may say so first.
    said = r"ends at [01]\.\d\d s of the [12]\.\d\d s it states|decoding fails at [01]\.\d\d s"
    with pytest.raises(MediaError, match=said):
        media.read_sound(tmp_path / name)
