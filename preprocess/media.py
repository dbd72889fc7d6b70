"""Decoding of picture and sound as players show them, each with the container's times (PyAV).

Times are the container's own seconds: encoder delays that the container takes away (mp4 edit lists)
are gone, and those it does not (MP3 in flv moves the whole clock) are in both streams alike, so
times of one file agree with each other. Frames are never placed by their number. Pictures are
turned and mirrored by the display matrix, and their pixels are square.

Files come from the internet: only a local file is read, by the one demuxer its name stands for, and
only so many seconds, frames and pixels of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from preprocess import sound_clock, stated_length

# Decoding that ends this far before the length that the file states has lost something. Stated
# lengths are off by up to a frame of either stream.
_MISSING_S = 0.15
# A turn that is further than this from a quarter one is none (tangent of a degree).
_ASKEW = 0.0175

PICTURE_ENDINGS = (".mp4", ".flv", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".m2ts")
SOUND_ENDINGS = (
    *(".wav", ".mp3", ".w64", ".rf64", ".au", ".aiff", ".aif", ".flac", ".m4a", ".aac"),
    *(".ogg", ".oga", ".opus"),
)
_DEMUXERS = {
    **{ending: ending[1:] for ending in (*PICTURE_ENDINGS, *SOUND_ENDINGS)},
    **dict.fromkeys((".mkv", ".webm"), "matroska"),
    **dict.fromkeys((".ts", ".m2ts"), "mpegts"),
    **dict.fromkeys((".mov", ".m4v", ".m4a"), "mp4"),
    **dict.fromkeys((".oga", ".opus"), "ogg"),
    ".rf64": "wav",
    ".aif": "aiff",
}
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
# Containers that find the place of a time exactly; others are decoded from their beginning.
# Decoding begins so much earlier than what is wanted, since a block depends on those before it.
_EXACT_SEEKING = frozenset(("mov", "matroska", "wav"))
_PREROLL_S = 1.0
# Durations are sums of binary fractions.
_TOLERANCE_S = 1e-6
_PROTOCOL = "file:"
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
      rate_hz: samples in one of the container's seconds: the nominal rate, unless the sound's clock
        drifts against the container's.
      start_s: time of the first sample, in the container's seconds.
    """

    samples: np.ndarray
    rate_hz: float
    start_s: float


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
      rgb: uint8 `[height, width, 3]`, upright and of square pixels.
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


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a recording, in seconds from its beginning.

    Attributes:
      start_s: where it begins.
      end_s: where it ends; None for the recording's end.
    """

    start_s: float = 0.0
    end_s: float | None = None

    def in_container(self, container: av.container.InputContainer) -> tuple[float, float]:
        """Its beginning and end in the container's seconds, infinite where it has none."""
        if not self.start_s and self.end_s is None:
            return -math.inf, math.inf
        begin_s = (container.start_time or 0) / av.time_base
        end_s = math.inf if self.end_s is None else begin_s + self.end_s
        return begin_s + self.start_s - _TOLERANCE_S, end_s - _TOLERANCE_S


WHOLE = Part()


def read_sound(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS, part: Part = WHOLE
) -> Sound:
    """Decodes a file's first sound stream, mixed to mono, at its own rate.

    Each block is where its own timestamp says, as `sound_clock` tells; gaps are silence.

    Raises:
      MediaError: for a file that is not media, has no sound, is cut short, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding it needs more than there is.
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError("no sound", "video without sound")
        stream = container.streams.audio[0]
        start_s, end_s = part.in_container(container)
        _seek(container, stream, start_s)
        blocks: list[np.ndarray] = []
        times_s: list[float] = []
        rate_hz = count = 0
        for frame in _decode(container, stream, limits):
            assert isinstance(frame, av.AudioFrame)
            if not blocks:
                rate_hz = frame.sample_rate
                if rate_hz <= 0:
                    raise MediaError("unreadable", "its sound has no sample rate")
                if frame.time is None:
                    raise MediaError("unreadable", "its sound has no timestamps")
            elif frame.sample_rate != rate_hz:
                raise MediaError(
                    "unreadable",
                    f"its sound changes from {rate_hz} to {frame.sample_rate} samples/s on the way",
                )
            follows_s = times_s[-1] + len(blocks[-1]) / rate_hz if blocks else 0.0
            time_s = follows_s if frame.time is None else float(frame.time)
            if time_s >= end_s:
                break
            if time_s + frame.samples / rate_hz < start_s - _PREROLL_S:
                continue
            times_s.append(time_s)
            blocks.append(_mono(frame))
            count += len(blocks[-1])
            _check_duration(count / rate_hz - (0 if part == WHOLE else _PREROLL_S), limits)
        if not count and part != WHOLE:
            raise _beyond(part)
        if not count:
            raise MediaError("no sound", "its sound stream is empty")
        try:
            clock = sound_clock.fit(times_s, [len(block) for block in blocks], rate_hz)
        except ValueError as error:
            raise MediaError("unreadable", str(error)) from error
        sound = Sound(clock.place(blocks), clock.rate_hz, clock.start_s)
        if part != WHOLE:
            sound = _cut(sound, start_s, end_s, part)
        _check_duration(len(sound.samples) / clock.rate_hz, limits)
        return sound


def read_pictures(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS, part: Part = WHOLE
) -> Iterator[Picture]:
    """Decodes a file's first picture stream, picture by picture, in order of their times.

    Raises (while iterating):
      MediaError: for a file that is not media, has no picture, is cut short, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding it needs more than there is.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise MediaError("no picture", "sound without picture")
        stream = container.streams.video[0]
        presentation = _Presentation(container, stream, limits)
        start_s, end_s = part.in_container(container)
        _seek(container, stream, start_s)
        frames = 0
        first_s = last_s = -float("inf")
        step_s = 0.0
        for frame in _decode(container, stream, limits, presentation.note):
            assert isinstance(frame, av.VideoFrame)
            time_s = _shown_at_s(container, frame, last_s, step_s)
            if time_s is None:
                raise MediaError("unreadable", f"picture {frames} has no timestamp")
            if time_s <= last_s:
                raise MediaError(
                    "unreadable",
                    f"picture {frames} is shown at {time_s:.3f} s, after one at {last_s:.3f} s",
                )
            if time_s >= end_s:
                break
            step_s = time_s - last_s if last_s > -math.inf else 0.0
            last_s = time_s
            if time_s < start_s:
                continue
            if not frames:
                first_s = time_s
            frames += 1
            if frames > limits.frames:
                raise MediaError("too long", f"more than {limits.frames} pictures")
            _check_duration(last_s - first_s, limits)
            _check_pixels(frame.width, frame.height, limits)
            yield Picture(presentation.show(frame), time_s)
        if not frames and part != WHOLE:
            raise _beyond(part)
        if not frames:
            raise MediaError("no picture", "its picture stream is empty")
        _check_end(last_s + step_s, end_s, part)


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


def _seek(container: av.container.InputContainer, stream: Any, time_s: float) -> None:
    """Goes to where decoding must begin for a time, where the container finds it exactly."""
    if time_s > 2 * _PREROLL_S and container.format.name.split(",")[0] in _EXACT_SEEKING:
        at = int((time_s - _PREROLL_S) / stream.time_base)
        try:
            container.seek(at, stream=stream, backward=True)
        except _DECODING_ERRORS as error:
            _pass_on(error)
            raise MediaError("unreadable", f"has no {time_s:.2f} s ({_words(error)})") from error


def _cut(sound: Sound, start_s: float, end_s: float, part: Part) -> Sound:
    """What of a sound is within a part."""
    first = max(0, math.ceil((start_s - sound.start_s) * sound.rate_hz))
    count = len(sound.samples)
    if end_s < math.inf:
        _check_end(sound.start_s + count / sound.rate_hz, end_s, part)
        count = min(count, math.ceil((end_s - sound.start_s) * sound.rate_hz))
    if first >= count:
        raise _beyond(part)
    began_s = sound.start_s + first / sound.rate_hz
    return Sound(sound.samples[first:count], sound.rate_hz, began_s)


def _check_end(found_s: float, end_s: float, part: Part) -> None:
    if end_s < math.inf and found_s < end_s - _MISSING_S:
        raise MediaError(
            "no such part", f"it ends {end_s - found_s:.2f} s before end_s={part.end_s:g}"
        )


def _beyond(part: Part) -> MediaError:
    return MediaError("no such part", f"it has nothing from start_s={part.start_s:g} on")


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
    options = {"protocol_whitelist": "file"}
    if _DEMUXERS[suffix] == "wav" and stated_length.is_piped_wav(path):
        options["ignore_length"] = "1"
    try:
        container = av.open(
            f"{_PROTOCOL}{os.path.abspath(path)}",
            format=_DEMUXERS[suffix],
            options=options,
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
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    limits: Limits,
    note: Callable[[av.Packet], None] = lambda packet: None,
) -> Iterator[Any]:
    """Decodes one stream and checks that file and stream last as long as they say they do.

    Args:
      container: the file.
      stream: of it.
      limits: what a file may reach.
      note: called with each packet that was decoded, before what came out of it.
    """
    context = stream.codec_context
    if context is None:
        raise MediaError("no decoder", f"its {stream.type} stream is in no known encoding")
    context.thread_count = 1
    if isinstance(context, av.VideoCodecContext):
        _check_pixels(context.width, context.height, limits)
    # Samples that stand one beside the other: where the file ends between two packets' ends, what
    # is there of the last is whole, and the length that is stated tells whether the rest matters.
    is_pcm = context.name.startswith("pcm_")
    end_s = last_end_s = 0.0
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                packet_end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                last_end_s = max(last_end_s, packet_end_s)
                if packet.stream is stream or packet.stream.index == stream.index:
                    end_s = max(end_s, packet_end_s)
                    if packet.is_corrupt and not is_pcm:
                        raise MediaError("unreadable", f"damaged at {end_s:.2f} s")
            if packet.stream.index == stream.index:
                is_cut = is_pcm and packet.size % _block_bytes(context)
                frames = _decode_pcm(context, packet) if is_cut else packet.decode()
                note(packet)
                for frame in frames:
                    if getattr(frame, "is_corrupt", False) and not is_pcm:
                        raise MediaError("unreadable", f"damaged at {end_s:.2f} s")
                    yield frame
    except MediaError:
        raise
    except _DECODING_ERRORS as error:
        _pass_on(error)
        raise MediaError(
            "unreadable", f"decoding fails at {end_s:.2f} s ({_words(error)})"
        ) from error
    path = container.name.removeprefix(_PROTOCOL)
    lengths_s = stated_length.wav_lengths_s(path)
    stated_s: float | None = None
    found_s = last_end_s
    if lengths_s is not None:
        stated_s, found_s = lengths_s
    elif not stated_length.states_length(path, container.format.name.split(",")[0]):
        pass
    elif stream.duration is not None and stream.time_base is not None:
        stated_s, found_s = float((stream.start_time or 0) + stream.duration), end_s
        stated_s *= float(stream.time_base)
    elif container.duration is not None:
        # In flv and Matroska the end of what comes last, wherever the first begins.
        stated_s = container.duration / av.time_base
    if stated_s is not None and found_s < stated_s - _MISSING_S:
        raise MediaError("unreadable", f"ends at {found_s:.2f} s of the {stated_s:.2f} s it states")


def _block_bytes(context: Any) -> int:
    """Bytes of one sample of all channels of PCM."""
    bits = re.search("[0-9]+", context.name)
    return -(-int(bits[0]) // 8 if bits else 1) * context.layout.nb_channels


def _decode_pcm(context: Any, packet: av.Packet) -> list[Any]:
    """Decodes a packet of PCM, passing over part of a sample where the file ends in one."""
    content = bytes(packet)
    content = content[: len(content) - len(content) % _block_bytes(context)]
    if not content:
        return []
    whole = av.Packet(content)
    whole.pts, whole.dts, whole.time_base = packet.pts, packet.dts, packet.time_base
    return list(context.decode(whole))


def _shown_at_s(
    container: av.container.InputContainer, frame: av.VideoFrame, last_s: float, step_s: float
) -> float | None:
    """When a picture is shown, in the container's seconds.

    Args:
      container: that it comes from.
      frame: the picture.
      last_s: when the one before was shown.
      step_s: how long after its predecessor that was.
    """
    if container.format.name != "avi":
        return None if frame.time is None else float(frame.time)
    # avi has times of decoding alone, and those not for pictures that its end brings out. What
    # FFmpeg makes of them is a picture late, or does not rise where there are B-frames.
    if frame.dts is None or frame.time_base is None:
        return last_s + step_s
    return float(frame.dts * frame.time_base)


class _Presentation:
    """How players show a stream's pictures: of which pixels, and turned how.

    Width by height of pixels is the container's word or, where it has none, the codec's. A turn
    that a codec states once holds until it states another, as with FFmpeg.

    Args:
      container: that the pictures come from.
      stream: their stream, from which nothing is decoded yet.
      limits: what a picture may reach.
    """

    def __init__(self, container: av.container.InputContainer, stream: Any, limits: Limits) -> None:
        self._limits = limits
        self._matrix: np.ndarray | None = None
        self._context = stream.codec_context
        self._stated = stream.sample_aspect_ratio
        # These say nothing of pixels: the codec may say something new on the way.
        self._is_codec_s = bool({"flv", "mpegts"} & set(container.format.name.split(",")))
        self._by_pts: dict[int | None, Fraction | None] = {}

    def note(self, packet: av.Packet) -> None:
        """Keeps what is true of the picture in a packet just decoded, which may come out later."""
        if self._is_codec_s:
            self._by_pts[packet.pts] = self._context.sample_aspect_ratio

    def show(self, frame: av.VideoFrame) -> np.ndarray:
        """The next picture as it is shown: uint8 `[height, width, 3]`."""
        ratio = self._by_pts.get(frame.pts, self._stated)
        if ratio and ratio > 0 and ratio != 1:
            width, height = _square_size(frame.width, frame.height, ratio, self._limits)
            rgb = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        else:
            rgb = frame.to_ndarray(format="rgb24")
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is not None:
            self._matrix = np.frombuffer(bytes(side_data), np.int32).reshape(3, 3)
        return rgb if self._matrix is None else _turn(rgb, self._matrix)


def _turn(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turns and mirrors a picture by its display matrix.

    Raises:
      MediaError: for a turn by no quarter.
    """
    # Where the picture's axes lead: (x, y) is shown at (a x + c y, b x + d y).
    (a, b), (c, d) = matrix[:2, :2].tolist()
    straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, turned) > _ASKEW * max(straight, turned):
        raise MediaError("unreadable", "its pictures are to be shown turned by no quarter turn")
    if turned > straight:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb)


def _square_size(width: int, height: int, pixel_shape: Fraction, limits: Limits) -> tuple[int, int]:
    """Width and height in square pixels: the shorter looking side grows, as far as limits allow."""
    wide, high = width * max(pixel_shape, Fraction(1)), height / min(pixel_shape, Fraction(1))
    shrink = min(1.0, (limits.pixels / float(wide * high)) ** 0.5)
    return max(1, round(float(wide) * shrink)), max(1, round(float(high) * shrink))


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
    if duration_s > limits.duration_s + _TOLERANCE_S:
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
