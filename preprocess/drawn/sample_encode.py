"""Pictures and sound into an audio-visual file whose clock is known."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from emotion_tfdata.dataset.atomic_file import replacing

NTSC_FRAME_RATE = Fraction(30000, 1001)

# Containers that cannot hold a time before zero: the muxer moves every stream later instead.
_WITHOUT_NEGATIVE_TIMES = frozenset({"flv"})
# Ticks that hold 25 and 30000/1001 frames a second exactly.
_PICTURE_CLOCK_HZ = 90000
_PICTURE_OPTIONS = {
    "libx264": {
        "preset": "veryfast",
        "crf": "20",
        "threads": "1",
        "flags": "+bitexact",
        # With B frames, x264's macroblock tree reads memory it has not set (MALLOC_PERTURB_ shows
        # it): bytes, and decoded pictures, would differ from run to run.
        "x264-params": "mbtree=0:rc-lookahead=0",
    },
    # Sorenson has no target quality of its own: a fixed quantizer of 3 (118 to a unit).
    "flv": {"flags": "+bitexact+qscale", "global_quality": str(3 * 118)},
}


def encode_clip(
    path: str | os.PathLike[str],
    pictures: Iterable[np.ndarray] | None,
    audio: np.ndarray | None,
    *,
    frame_rate: Fraction | float = NTSC_FRAME_RATE,
    audio_rate_hz: int = 48000,
    container: str = "mp4",
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    start_offset_s: float = 0.0,
    comment: str = "",
) -> float:
    """Write one clip under a temporary name, then rename it, so that a name means a whole file.

    Picture `i` is shown at `start_offset_s + i / frame_rate` and sample `n` is heard at
    `n / audio_rate_hz`, both on the clip's own clock. Sound encoders put a delay in front (AAC
    1024 samples, MP3 1105). In mp4 an edit list takes it away again. In flv nothing does: there
    the whole clock, picture and sound alike, is moved later by the returned offset, as it is in
    CREMA-D's files.

    Args:
        path: The file to write. Its folder must exist.
        pictures: `[height, width, 3]` uint8 RGB each, even sides; `None` for sound alone.
        audio: `[samples]` float, mono, within -1..1; `None` for pictures alone.
        frame_rate: Pictures a second.
        audio_rate_hz: Samples a second.
        container: FFmpeg's name of the container: `mp4`, `flv`, `wav`, ...
        video_codec: FFmpeg's name of the picture encoder: `libx264`, `flv` (Sorenson), ...
        audio_codec: FFmpeg's name of the sound encoder: `aac`, `libmp3lame`, `pcm_s16le`, ...
        start_offset_s: When the first picture is shown.
        comment: Text for the container's `comment` field.

    Returns:
        Seconds by which the container's clock runs ahead of the clip's own: what is at `t` in the
        clip is found at `t + offset` in the file.

    Raises:
        ValueError: Neither pictures nor audio, or no picture among `pictures`.
        OSError: The file cannot be written.
    """
    if pictures is None and audio is None:
        raise ValueError(f"{path}: a clip needs pictures, audio or both; got neither")
    with replacing(path) as unfinished:
        # One thread and no version strings: the same input gives the same bytes.
        options = {"fflags": "+bitexact"}
        if container in ("mp4", "mov"):
            # Edit lists count in these ticks, 1/1000 s unless told: too coarse for an offset.
            options["movie_timescale"] = str(_PICTURE_CLOCK_HZ)
        with av.open(str(unfinished), "w", format=container, container_options=options) as output:
            if comment:
                output.metadata["comment"] = comment
            # Streams are declared before the first packet, since that writes the header.
            picture_packets: Iterator[av.Packet] = iter(())
            sound_packets: Iterator[av.Packet] = iter(())
            if pictures is not None:
                rate = Fraction(frame_rate).limit_denominator(1001)
                picture_packets = _encode_pictures(
                    output, pictures, rate, video_codec, start_offset_s
                )
            if audio is not None:
                sound_packets = _encode_sound(output, audio, audio_rate_hz, audio_codec)
            first_s = 0.0
            for packet in _by_time(picture_packets, sound_packets):
                first_s = min(first_s, _time_s(packet))
                output.mux(packet)
    return round(-first_s, 3) if container in _WITHOUT_NEGATIVE_TIMES else 0.0


def _time_s(packet: av.Packet) -> float:
    stamp = packet.dts if packet.dts is not None else packet.pts
    if stamp is None or packet.time_base is None:
        raise RuntimeError(f"the encoder of stream {packet.stream_index} gave a packet no time")
    return float(stamp * packet.time_base)


def _by_time(one: Iterator[av.Packet], other: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Merge two streams of packets in order of decoding time."""
    waiting = [(next(stream, None), stream) for stream in (one, other)]
    while True:
        ready = [(packet, stream) for packet, stream in waiting if packet is not None]
        if not ready:
            return
        packet, stream = min(ready, key=lambda pair: _time_s(pair[0]))
        yield packet
        waiting = [
            (next(stream, None) if each is packet else each, source) for each, source in waiting
        ]


def _encode_pictures(
    output: OutputContainer,
    pictures: Iterable[np.ndarray],
    frame_rate: Fraction,
    codec: str,
    start_offset_s: float,
) -> Iterator[av.Packet]:
    remaining = iter(pictures)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{output.name}: no pictures; pass None for a clip of sound alone")
    height, width = first.shape[:2]
    stream = cast(VideoStream, output.add_stream(codec, rate=frame_rate))
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, _PICTURE_CLOCK_HZ)
    stream.codec_context.thread_count = 1
    stream.codec_context.options = _PICTURE_OPTIONS.get(codec, {"flags": "+bitexact"})

    def packets() -> Iterator[av.Packet]:
        for index, picture in enumerate(itertools.chain([first], remaining)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = round((start_offset_s + index / frame_rate) * _PICTURE_CLOCK_HZ)
            frame.time_base = Fraction(1, _PICTURE_CLOCK_HZ)
            yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()


def _encode_sound(
    output: OutputContainer, audio: np.ndarray, rate_hz: int, codec: str
) -> Iterator[av.Packet]:
    stream = cast(AudioStream, output.add_stream(codec, rate=rate_hz, layout="mono"))
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"flags": "+bitexact"}
    samples = np.clip(audio, -1.0, 1.0).astype(np.float32)[np.newaxis]

    def packets() -> Iterator[av.Packet]:
        # PyAV cuts the frame into the encoder's own block length.
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        frame.pts = 0
        frame.time_base = Fraction(1, rate_hz)
        yield from stream.encode(frame)
        yield from stream.encode(None)

    return packets()
