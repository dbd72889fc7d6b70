"""Decoding of picture and sound as players show them, each with the container's times (PyAV).

Times are the container's own seconds: encoder delays that the container takes away (mp4 edit lists)
are gone, and those it does not (MP3 in flv moves the whole clock) are in both streams alike, so
times of one file agree with each other. Where the file does not say enough for that, the sound has
a note. Frames are never placed by their number.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

from preprocess.clip import sound_timestamps, stated_length
from preprocess.clip.container import (
    DECODING_ERRORS,
    DEFAULT_LIMITS,
    MISSING_S,
    TOLERANCE_S,
    Limits,
    MediaError,
    check_duration,
    check_pixels,
    decode,
    open_container,
    pass_on,
    words,
)
from preprocess.clip.presentation import Presentation

# Pictures decoded before the first of them is looked at: at most so many, and so much memory.
_BATCH_PICTURES = 16
_BATCH_BYTES = 50_000_000
# Containers that find the place of a time exactly; others are decoded from their beginning.
# Decoding begins so much earlier than what is wanted, since a block depends on those before it.
_EXACT_SEEKING = frozenset(("mp4", "matroska", "wav"))
_PREROLL_S = 1.0
# Sound that a file holds less of than it states has lost some; the stated length is in samples.
_LOST_S = 0.001

# Where sound and picture are not together to 2 ms, since the file does not say enough.
AVI_DELAY = (
    "avi does not say how late compressed sound is, and its writers round to a picture: sound and "
    "picture may be up to 0.05 s apart"
)
TS_GAPS = (
    "blocks of sound are lost, and ts does not say where in its packets: sound before a gap may be "
    "early by as much as is lost there"
)
MOV_GAPS = (
    "its mov holds less sound than it states, and does not say where some is lost: sound may be "
    "early by as much"
)
MP4_DELAY = (
    "its fragmented mp4 has no edit list, so that it does not say what encoders delay: sound and "
    "picture may be up to 0.1 s apart"
)


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded sound.

    Attributes:
      samples: float32 `[N]`, mono, full scale 1.
      rate_hz: samples in one of the container's seconds: the nominal rate, unless the sound's clock
        drifts against the container's.
      start_s: time of the first sample, in the container's seconds.
      note: what the file does not say of its times, or nothing.
    """

    samples: np.ndarray
    rate_hz: float
    start_s: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
      rgb: uint8 `[height, width, 3]`, upright and of square pixels.
      time_s: when it is shown, in the container's seconds.
    """

    rgb: np.ndarray
    time_s: float


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
        """Return beginning and end in the container's seconds, infinite where there is none."""
        if not self.start_s and self.end_s is None:
            return -math.inf, math.inf
        begin_s = (container.start_time or 0) / av.time_base
        end_s = math.inf if self.end_s is None else begin_s + self.end_s
        return begin_s + self.start_s - TOLERANCE_S, end_s - TOLERANCE_S


WHOLE = Part()


def read_sound(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS, part: Part = WHOLE
) -> Sound:
    """Decode a file's first sound stream, mixed to mono, at its own rate.

    Each block is where its own timestamp says, as `sound_timestamps` tells; gaps are silence.

    Raises:
      MediaError: for a file that is not media, has no sound, is cut short, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding needs more memory than the machine has.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise MediaError("no sound", "video without sound")
        stream = container.streams.audio[0]
        start_s, end_s = part.in_container(container)
        _seek(container, stream, start_s)
        blocks: list[np.ndarray] = []
        times_s: list[float] = []
        rate_hz = count = 0
        for frame in decode(container, stream, limits):
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
            check_duration(count / rate_hz - (0 if part == WHOLE else _PREROLL_S), limits)
        if not count and part != WHOLE:
            raise _beyond(part)
        if not count:
            raise MediaError("no sound", "its sound stream is empty")
        try:
            clock = sound_timestamps.fit(times_s, [len(block) for block in blocks], rate_hz)
        except ValueError as error:
            raise MediaError("unreadable", str(error)) from error
        note = _what_is_not_known(path, container, clock, has_gaps=clock.count > count)
        sound = Sound(clock.place(blocks), clock.rate_hz, clock.start_s, note)
        if part != WHOLE:
            sound = _cut(sound, start_s, end_s, part)
        check_duration(len(sound.samples) / clock.rate_hz, limits)
        return sound


def _what_is_not_known(
    path: str | os.PathLike[str],
    container: av.container.InputContainer,
    clock: sound_timestamps.Clock,
    *,
    has_gaps: bool,
) -> str:
    """Say which of the sound's times a file does not tell, or return None."""
    name = container.format.name
    if name == "mpegts" and has_gaps:
        return TS_GAPS
    stream = container.streams.audio[0]
    if stream.codec_context.name.startswith("pcm_"):  # no encoder, no delay
        stated = stated_length.mov_lengths(path, stream.rate) if name == "mp4" else []
        is_short = any(one > stream.frames + _LOST_S * stream.rate for one in stated)
        return MOV_GAPS if is_short else ""
    if name == "avi":
        return AVI_DELAY
    pictures = container.streams.video
    starts_late = bool(pictures and pictures[0].start_time) and clock.start_s == 0
    if name == "mp4" and starts_late and not has_gaps and stated_length.is_without_edit_list(path):
        return MP4_DELAY
    return ""


def read_pictures(
    path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS, part: Part = WHOLE
) -> Iterator[Picture]:
    """Decode a file's first picture stream, picture by picture, in order of their times.

    Raises (while iterating):
      MediaError: for a file that is not media, has no picture, is cut short, or passes a limit.
      OSError: if it cannot be opened, or not be read for the machine's sake.
      MemoryError: if decoding needs more memory than the machine has.
    """
    with open_container(path) as container:
        if not container.streams.video:
            raise MediaError("no picture", "sound without picture")
        stream = container.streams.video[0]
        presentation = Presentation(container, stream, limits)
        start_s, end_s = part.in_container(container)
        _seek(container, stream, start_s)
        frames = 0
        first_s = last_s = -float("inf")
        step_s = 0.0
        for frame in decode(container, stream, limits, presentation.note):
            assert isinstance(frame, av.VideoFrame)
            time_s = presentation.time_s(frame)
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
            check_duration(last_s - first_s, limits)
            check_pixels(frame.width, frame.height, limits)
            yield Picture(presentation.show(frame), time_s)
        if not frames and part != WHOLE:
            raise _beyond(part)
        if not frames:
            raise MediaError("no picture", "its picture stream is empty")
        _check_end(last_s + step_s, end_s, part)


def in_batches(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the same pictures, several decoded at a time.

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
    """Go to where decoding must begin for a time, where the container finds it exactly."""
    if time_s > 2 * _PREROLL_S and container.format.name in _EXACT_SEEKING:
        at = int((time_s - _PREROLL_S) / stream.time_base)
        try:
            container.seek(at, stream=stream, backward=True)
        except DECODING_ERRORS as error:
            pass_on(error)
            raise MediaError("unreadable", f"has no {time_s:.2f} s ({words(error)})") from error


def _cut(sound: Sound, start_s: float, end_s: float, part: Part) -> Sound:
    """Return the piece of a sound that lies within a part."""
    first = max(0, math.ceil((start_s - sound.start_s) * sound.rate_hz))
    count = len(sound.samples)
    if end_s < math.inf:
        _check_end(sound.start_s + count / sound.rate_hz, end_s, part)
        count = min(count, math.ceil((end_s - sound.start_s) * sound.rate_hz))
    if first >= count:
        raise _beyond(part)
    began_s = sound.start_s + first / sound.rate_hz
    return dataclasses.replace(sound, samples=sound.samples[first:count], start_s=began_s)


def _check_end(found_s: float, end_s: float, part: Part) -> None:
    if end_s < math.inf and found_s < end_s - MISSING_S:
        raise MediaError(
            "no such part", f"it ends {end_s - found_s:.2f} s before end_s={part.end_s:g}"
        )


def _beyond(part: Part) -> MediaError:
    return MediaError("no such part", f"it has nothing from start_s={part.start_s:g} on")


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """Return the frame's samples, full scale 1, averaged over channels: float32 `[N]`."""
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
