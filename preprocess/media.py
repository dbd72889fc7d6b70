"""Decoding of picture and sound, each with the times its container gives it (PyAV).

Times are the container's own seconds: encoder delays that the container takes away (mp4 edit lists)
are gone, and those it does not (MP3 in flv moves the whole clock) are in both streams alike, so
times of one file agree with each other. Frames are never placed by their number.

Files come from the internet: only a local file is read, by the one demuxer its name stands for, and
only so many seconds, frames and pixels of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error
import numpy as np

# Decoding that ends this far before the length that the file states has lost something. Stated
# lengths are off by up to a frame of either stream.
_MISSING_S = 0.15
# Sound is placed by its first timestamp and its sample count; timestamps further off than this
# tell of a hole in it. Containers round them to a millisecond or a block.
_HOLE_S = 0.05

_DEMUXERS = {".mp4": "mp4", ".flv": "flv", ".wav": "wav", ".mp3": "mp3"}
# PyAV derives its errors from several of Python's own; IndexError is its word for a packet of a
# stream that the header did not announce.
_DECODING_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, IndexError)
# What FFmpeg passes on that tells of the machine or its network, not of the file. (EIO it says of
# files that are cut short, too.)
_PASSING_ERRNOS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
)
# Pictures decoded before the first of them is looked at: at most so many, and so much memory.
_BATCH_PICTURES = 16
_BATCH_BYTES = 50_000_000
_LFS_HEADER = b"version https://git-lfs.github.com/spec/"


class MediaError(ValueError):
    """A file that cannot be used as the clip it should be; says why, without the file's name.

    Attributes:
      kind: one or two words, what a summary counts it under.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return type(self), (self.kind, str(self))


@dataclasses.dataclass(frozen=True)
class Limits:
    """Beyond what a file is refused.

    Attributes:
      duration_s: longest that either stream may be.
      min_duration_s: shortest that a clip may be.
      frames: pictures.
      pixels: width times height of a picture.
    """

    duration_s: float = 60.0
    min_duration_s: float = 0.2
    frames: int = 60 * 60
    pixels: int = 3840 * 2160


DEFAULT_LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded sound.

    Attributes:
      samples: float32 `[N]`, mono, full scale 1.
      rate_hz: samples a second.
      start_s: time of the first sample, in the container's seconds.
    """

    samples: np.ndarray
    rate_hz: int
    start_s: float


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
      rgb: uint8 `[height, width, 3]`.
      time_s: when it is shown, in the container's seconds.
    """

    rgb: np.ndarray
    time_s: float


def not_media(path: str | os.PathLike[str]) -> MediaError | None:
    """Why a file cannot hold media at all, by its size and first bytes, or None.

    Told apart here are empty files and what a clone without Git LFS leaves in media's place.
    """
    with open(path, "rb") as file:
        head = file.read(len(_LFS_HEADER))
    if not head:
        return MediaError("unreadable", "the file is empty")
    if head == _LFS_HEADER:
        return MediaError(
            "lfs pointer",
            "a Git LFS pointer stands in place of the media; run `git lfs pull` in the clone",
        )
    return None


def read_sound(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> Sound:
    """Decodes a file's first sound stream, mixed to mono, at its own rate.

    Raises:
      MediaError: for a file that is not media, has no sound, breaks off, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding it needs more than there is.
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError("no sound", "video without sound")
        stream = container.streams.audio[0]
        blocks: list[np.ndarray] = []
        rate_hz = 0
        start_s = 0.0
        count = 0
        for frame in _decode(container, stream, limits):
            assert isinstance(frame, av.AudioFrame)
            time_s = start_s + count / rate_hz if rate_hz else 0.0
            if frame.time is not None:
                time_s = float(frame.time)
            elif not rate_hz and not count:
                raise MediaError("unreadable", "its sound has no timestamps")
            if not rate_hz:
                rate_hz, start_s = frame.sample_rate, time_s
                if rate_hz <= 0:
                    raise MediaError("unreadable", "its sound has no sample rate")
            elif frame.sample_rate != rate_hz:
                raise MediaError(
                    "unreadable",
                    f"its sound changes from {rate_hz} to {frame.sample_rate} samples/s on the way",
                )
            ahead_s = time_s - (start_s + count / rate_hz)
            if ahead_s < -_HOLE_S:
                raise MediaError(
                    "unreadable", f"timestamps of its sound go back by {-ahead_s:.3f} s"
                )
            if ahead_s > _HOLE_S:
                _check_duration(time_s - start_s, limits)
                blocks.append(np.zeros(round(ahead_s * rate_hz), np.float32))
                count += len(blocks[-1])
            blocks.append(_mono(frame))
            count += len(blocks[-1])
            _check_duration(count / rate_hz, limits)
        if not count:
            raise MediaError("no sound", "its sound stream is empty")
        return Sound(np.concatenate(blocks), rate_hz, start_s)


def read_pictures(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS
) -> Iterator[Picture]:
    """Decodes a file's first picture stream, picture by picture, in order of their times.

    Raises (while iterating):
      MediaError: for a file that is not media, has no picture, breaks off, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding it needs more than there is.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise MediaError("no picture", "sound without picture")
        stream = container.streams.video[0]
        frames = 0
        first_s = last_s = -float("inf")
        for frame in _decode(container, stream, limits):
            assert isinstance(frame, av.VideoFrame)
            if frame.time is None:
                raise MediaError("unreadable", f"picture {frames} has no timestamp")
            time_s = float(frame.time)
            if time_s <= last_s:
                raise MediaError(
                    "unreadable",
                    f"picture {frames} is shown at {time_s:.3f} s, after one at {last_s:.3f} s",
                )
            if not frames:
                first_s = time_s
            frames += 1
            last_s = time_s
            if frames > limits.frames:
                raise MediaError("too long", f"more than {limits.frames} pictures")
            _check_duration(last_s - first_s, limits)
            _check_pixels(frame.width, frame.height, limits)
            yield Picture(frame.to_ndarray(format="rgb24"), time_s)
        if not frames:
            raise MediaError("no picture", "its picture stream is empty")


def in_batches(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """The same pictures, several decoded at a time.

    Decoding and what is done with a picture drive each other's code and data out of the caches:
    taking turns at each picture costs 4 % of the time that both take.
    """
    batch: list[Picture] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == _BATCH_PICTURES or sum(p.rgb.nbytes for p in batch) >= _BATCH_BYTES:
            yield from batch
            batch.clear()
    yield from batch


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _DEMUXERS:
        raise MediaError(
            "unreadable", f"files named {suffix!r} are not read, only {', '.join(_DEMUXERS)}"
        )
    reason = not_media(path)
    if reason is not None:
        raise reason
    # One demuxer, one protocol: nothing inside the file can make FFmpeg open something else.
    try:
        container = av.open(
            f"file:{os.path.abspath(path)}",
            format=_DEMUXERS[suffix],
            options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except _DECODING_ERRORS as error:
        _pass_on(error)
        raise MediaError(
            "unreadable", f"not a whole {suffix[1:]} file ({_words(error)})"
        ) from error
    with container:
        yield container


def _decode(
    container: av.container.InputContainer, stream: av.stream.Stream, limits: Limits
) -> Iterator[Any]:
    """Decodes one stream and checks that file and stream last as long as they say they do."""
    context = stream.codec_context
    if context is None:
        raise MediaError("unreadable", f"its {stream.type} stream is in no known encoding")
    context.thread_count = 1
    if isinstance(context, av.VideoCodecContext):
        _check_pixels(context.width, context.height, limits)
    end_s = last_end_s = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                packet_end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                last_end_s = max(last_end_s, packet_end_s)
                if packet.stream is stream or packet.stream.index == stream.index:
                    end_s = max(end_s, packet_end_s)
                    if packet.is_corrupt:
                        raise MediaError("unreadable", f"damaged at {end_s:.2f} s")
            if packet.stream.index == stream.index:
                for frame in packet.decode():
                    if getattr(frame, "is_corrupt", False):
                        raise MediaError("unreadable", f"damaged at {end_s:.2f} s")
                    yield frame
    except MediaError:
        raise
    except _DECODING_ERRORS as error:
        _pass_on(error)
        raise MediaError(
            "unreadable", f"decoding breaks off at {end_s:.2f} s ({_words(error)})"
        ) from error
    stated_s, found_s = 0.0, last_end_s
    if stream.duration is not None and stream.time_base is not None:
        stated_s, found_s = float((stream.start_time or 0) + stream.duration), end_s
        stated_s *= float(stream.time_base)
    elif container.duration is not None:
        stated_s = ((container.start_time or 0) + container.duration) / av.time_base
    if found_s < stated_s - _MISSING_S:
        raise MediaError("unreadable", f"ends at {found_s:.2f} s of the {stated_s:.2f} s it states")


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """The frame's samples, full scale 1, mean of its channels: float32 `[N]`."""
    array: np.ndarray = (
        frame.to_ndarray()
    )  # [channels, N], or [1, N * channels] where they are interleaved
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        array = (array / (float(np.iinfo(array.dtype).max) + 1)).astype(np.float32)
    samples = np.asarray(array, np.float32).mean(axis=0, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise MediaError("unreadable", "its sound holds values that are not finite")
    return samples


def _check_duration(duration_s: float, limits: Limits) -> None:
    if duration_s > limits.duration_s:
        raise MediaError("too long", f"longer than {limits.duration_s:g} s")


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise MediaError("too large", f"pictures of {width}x{height}, over {limits.pixels} pixels")


def _pass_on(error: Exception) -> None:
    """Raises what no file is to blame for as what it is."""
    if isinstance(error, MemoryError):
        raise MemoryError(_words(error)) from error
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        raise OSError(error.errno, error.strerror, error.filename) from error


def _words(error: Exception) -> str:
    """FFmpeg's own words for an error, without the file object they stand beside."""
    return getattr(error, "strerror", None) or str(error)
