"""How players show a stream's pictures: when, of which pixels, and turned how."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from preprocess.clip.container import Limits, MediaError

# A turn that is further than this from a quarter one is none (tangent of a degree).
_ASKEW = 0.0175
# Packets of avi that are further apart at the beginning are not those of a slow stream.
_LATE_S = 0.2


class Presentation:
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
        # One for all pictures and of one thread: a picture's own would start as many threads as
        # there are cores, whose memory a worker's limit counts.
        reformat = VideoReformatter().reformat
        self._to_rgb = functools.partial(reformat, format="rgb24", threads=1)
        self._stated = stream.sample_aspect_ratio
        # These say nothing of pixels: the codec may say something new on the way.
        self._is_codec_s = container.format.name in ("flv", "mpegts")
        self._by_pts: dict[int | None, Fraction | None] = {}
        self._is_avi = container.format.name == "avi"
        # Of avi, in its ticks: of the first packet, of the last one before what is shown, of the
        # picture shown last, how late pictures come out, and how far apart the last two were.
        self._first_dts: int | None = None
        self._dts: int | None = None
        self._shown_dts: int | None = None
        self._delay = 0
        self._step = 1

    def note(self, packet: av.Packet) -> None:
        """Store the state of the picture in a packet just decoded, which may come out later."""
        if self._is_codec_s:
            self._by_pts[packet.pts] = self._context.sample_aspect_ratio
        self._dts = packet.dts
        if not self._is_avi or packet.dts is None or self._shown_dts is not None:
            return
        if self._first_dts is None or packet.is_keyframe:
            self._first_dts = packet.dts  # what comes before the first key picture is not shown
        elif (packet.dts - self._first_dts) * packet.time_base > _LATE_S:
            # FFmpeg writes the first picture of a stream that begins late at zero.
            self._first_dts = packet.dts - 1

    def time_s(self, frame: av.VideoFrame) -> float | None:
        """Return when the next picture is shown, in the container's seconds; None if unknown.

        avi has no times but the packets', of decoding. With B-frames a picture comes out some
        packets after its own, all as many: each is shown at the time of the packet that it comes
        out at, less what the first one waited. The last ones come out after all packets, and are
        as far apart as those before.
        """
        if not self._is_avi:
            return None if frame.time is None else float(frame.time)
        if self._first_dts is None or frame.time_base is None:
            return None
        if self._shown_dts is None:
            self._delay = (self._first_dts if self._dts is None else self._dts) - self._first_dts
            shown = self._first_dts
        elif self._dts is None:
            shown = self._shown_dts + self._step
        else:
            shown = self._dts - self._delay
            self._step = shown - self._shown_dts
        self._shown_dts = shown
        return float(shown * frame.time_base)

    def show(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the next picture as it is shown: uint8 `[height, width, 3]`."""
        ratio = self._by_pts.get(frame.pts, self._stated)
        if ratio and ratio > 0 and ratio != 1:
            width, height = _square_size(frame.width, frame.height, ratio, self._limits)
            shown = self._to_rgb(frame, width, height, interpolation="BICUBIC")
        else:
            shown = self._to_rgb(frame)
        rgb = shown.to_ndarray()
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is not None:
            self._matrix = np.frombuffer(bytes(side_data), np.int32).reshape(3, 3)
        return rgb if self._matrix is None else _turn(rgb, self._matrix)


def _turn(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror a picture by its display matrix.

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
    """Return width and height in square pixels: the side that looks shorter grows, in limits."""
    wide, high = width * max(pixel_shape, Fraction(1)), height / min(pixel_shape, Fraction(1))
    shrink = min(1.0, (limits.pixels / float(wide * high)) ** 0.5)
    return max(1, round(float(wide) * shrink)), max(1, round(float(high) * shrink))
