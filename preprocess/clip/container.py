"""A local file, opened by one demuxer and decoded to the end that it states (PyAV).

Files come from the internet: only a local file is read, by the one demuxer its name stands for, and
only so many seconds, frames and pixels of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import av
import av.error

from preprocess.clip import stated_length

# Decoding that ends this far before the length that the file states has lost something. Stated
# lengths are off by up to a frame of either stream.
MISSING_S = 0.15

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
DECODING_ERRORS = (av.error.FFmpegError, OSError, ValueError, EOFError, IndexError)
# What FFmpeg passes on that tells of the machine or its network, not of the file. (EIO it says of
# files that are cut short, too.)
_PASSING_ERRNOS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
)
# Durations are sums of binary fractions.
TOLERANCE_S = 1e-6
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


def not_media(path: str | os.PathLike[str]) -> MediaError | None:
    """Return why a file, by its size and first bytes, cannot hold media at all, or None.

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


@contextlib.contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """Open a local file by the demuxer that its name stands for.

    Raises:
      MediaError: for a file that is no such media.
      OSError, MemoryError: for the machine's sake.
    """
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
    except DECODING_ERRORS as error:
        pass_on(error)
        raise MediaError("unreadable", f"not a whole {suffix[1:]} file ({words(error)})") from error
    with container:
        yield container


def decode(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    limits: Limits,
    note: Callable[[av.Packet], None] = lambda packet: None,
) -> Iterator[Any]:
    """Decode one stream and check that file and stream last as long as they say they do.

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
        check_pixels(context.width, context.height, limits)
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
    except DECODING_ERRORS as error:
        pass_on(error)
        raise MediaError(
            "unreadable", f"decoding fails at {end_s:.2f} s ({words(error)})"
        ) from error
    path = container.name.removeprefix(_PROTOCOL)
    lengths_s = stated_length.wav_lengths_s(path)
    stated_s: float | None = None
    found_s = last_end_s
    if lengths_s is not None:
        stated_s, found_s = lengths_s
    elif not stated_length.states_length(path, container.format.name):
        pass
    elif stream.duration is not None and stream.time_base is not None:
        stated_s, found_s = float((stream.start_time or 0) + stream.duration), end_s
        stated_s *= float(stream.time_base)
    elif container.duration is not None:
        # In flv and Matroska the end of what comes last, wherever the first begins.
        stated_s = container.duration / av.time_base
    if stated_s is not None and found_s < stated_s - MISSING_S:
        raise MediaError("unreadable", f"ends at {found_s:.2f} s of the {stated_s:.2f} s it states")


def _block_bytes(context: Any) -> int:
    """Return the bytes of one sample of all channels of PCM."""
    bits = re.search("[0-9]+", context.name)
    return -(-int(bits[0]) // 8 if bits else 1) * context.layout.nb_channels


def _decode_pcm(context: Any, packet: av.Packet) -> list[Any]:
    """Decode a packet of PCM, skipping part of a sample where the file ends in one."""
    content = bytes(packet)
    content = content[: len(content) - len(content) % _block_bytes(context)]
    if not content:
        return []
    whole = av.Packet(content)
    whole.pts, whole.dts, whole.time_base = packet.pts, packet.dts, packet.time_base
    return list(context.decode(whole))


def check_duration(duration_s: float, limits: Limits) -> None:
    """Refuse a stream that is too long."""
    if duration_s > limits.duration_s + TOLERANCE_S:
        raise MediaError("too long", f"longer than {limits.duration_s:g} s")


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Refuse pictures that are too large."""
    if width * height > limits.pixels:
        raise MediaError("too large", f"pictures of {width}x{height}, over {limits.pixels} pixels")


def pass_on(error: Exception) -> None:
    """Raise an error that no file is to blame for as what it is."""
    if isinstance(error, MemoryError):
        raise MemoryError(words(error)) from error
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNOS:
        raise OSError(error.errno, error.strerror, error.filename) from error


def words(error: Exception) -> str:
    """Return FFmpeg's own words for an error, without the file object they stand beside."""
    return getattr(error, "strerror", None) or str(error)
