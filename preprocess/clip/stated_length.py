"""What a file's own head says of its length, where FFmpeg gives a guess in the same place.

FFmpeg takes the smaller of the stated and the real size of a wav for its length, reckons that of an
MP3, Matroska or avi that states none from a bit rate, and does not say so.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from typing import BinaryIO

# As much of a file as holds its head.
_HEAD_BYTES = 1 << 16
# Sizes of sound data from this one on stand for "not known yet": programs that write to a pipe
# leave 7FFFF000 (SoX), 7FFFFFFF or FFFFFFFF there.
_UNSTATED_BYTES = 0x7FFF0000
_UNSTATED_AVI_LENGTH = 0x40000000


def wav_lengths_s(path: str | os.PathLike[str]) -> tuple[float | None, float] | None:
    """Return the length that a RIFF, RF64 or Wave64 file states (or None), and its real one.

    Returns:
      Seconds, by the bytes a second that it states; or None if it is no such file.
    """
    with open(path, "rb") as file:
        head = file.read(40)
        if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            found = _wav_chunks(file, 12, name_bytes=4, align=2)
        elif head[:4] == b"riff" and head[24:28] == b"wave":
            found = _wav_chunks(file, 40, name_bytes=16, align=8)
        else:
            return None
        if found is None:
            return None
        size, bytes_per_s = found
        there = os.fstat(file.fileno()).st_size - file.tell()
    stated_s = size / bytes_per_s if 0 < size < _UNSTATED_BYTES else None
    return stated_s, there / bytes_per_s


def is_piped_wav(path: str | os.PathLike[str]) -> bool:
    """Tell whether a wav states no length: its sound lasts to the end of the file."""
    lengths_s = wav_lengths_s(path)
    return lengths_s is not None and lengths_s[0] is None


def _wav_chunks(
    file: BinaryIO, start: int, *, name_bytes: int, align: int
) -> tuple[int, int] | None:
    """Return size of the sound data and bytes a second; leave the file where the data begins."""
    head_bytes = 24 if name_bytes == 16 else 8  # a Wave64 chunk's size counts its head
    bytes_per_s = 0
    size_64 = None
    file.seek(start)
    for _ in range(1000):
        head = file.read(head_bytes)
        if len(head) < head_bytes:
            return None
        name = head[:4]
        size = int.from_bytes(head[name_bytes:], "little") - (24 if name_bytes == 16 else 0)
        if name == b"data":
            return (size if size_64 is None else size_64, bytes_per_s) if bytes_per_s else None
        if size < 0:
            return None
        at = file.tell()
        if name == b"fmt ":
            bytes_per_s = int.from_bytes(file.read(12)[8:], "little")
        elif name == b"ds64":
            size_64 = int.from_bytes(file.read(16)[8:], "little")
        file.seek(at + -(-size // align) * align)
    return None


def states_length(path: str | os.PathLike[str], demuxer: str) -> bool:
    """Tell whether a file states its length, which FFmpeg reports, in its head.

    Args:
      path: the file.
      demuxer: FFmpeg's name of what reads it.
    """
    if demuxer in ("mpegts", "aac"):
        return False
    if demuxer not in ("mp3", "matroska", "avi"):
        return True
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        if demuxer == "avi":
            # The field dwLength of each stream's head.
            heads = [part for part in head.split(b"strh")[1:] if len(part) >= 40]
            lengths = [int.from_bytes(part[36:40], "little") for part in heads]
            return all(0 < length < _UNSTATED_AVI_LENGTH for length in lengths)
        if demuxer == "matroska":
            # The element Duration of the element Info: a float of 4 or 8 bytes.
            info = head.partition(b"\x15\x49\xa9\x66")[2]
            return b"\x44\x89\x88" in info or b"\x44\x89\x84" in info
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:
                size = size << 7 | byte & 0x7F
            file.seek(10 + size)
            head = file.read(_HEAD_BYTES)
        # The frame that encoders put first, to say how many follow.
        return any(name in head[:4096] for name in (b"Xing", b"Info", b"VBRI"))


def mov_lengths(path: str | os.PathLike[str], units_per_s: int) -> list[int]:
    """Return the lengths that tracks of a mov or mp4 state (in atoms mdhd), in these units."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heads = [content[m.end() : m.end() + 16] for m in re.finditer(b"mdhd\0...", content, re.S)]
    values = [struct.unpack(">4I", head) for head in heads if len(head) == 16]
    return [length for _, _, units, length in values if units == units_per_s]


def is_without_edit_list(path: str | os.PathLike[str]) -> bool:
    """Tell whether an mp4 is in fragments without an edit list, which would tell the delay."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    return b"mvex" in head and b"elst" not in head
