"""What a build would do, how long it would take and how large it would be, without building it."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from emotion_tfdata.dataset import schema
from preprocess.builder import self_test
from preprocess.builder.plan import BuildError, BuildSettings, plan_build
from preprocess.builder.pool import Pool, WorkerError
from preprocess.builder.process_clip import Stop
from preprocess.clip.container import MediaError
from preprocess.clip.example import make_example
from preprocess.corpora import Clip
from preprocess.corpora.clips_csv import Table
from preprocess.reports.summary import clock, skipped_lines

# Clips of each corpus that are processed to measure one; the very first also loads the libraries.
_MEASURED = 4
# What a record and its manifest entry hold beside the arrays.
_TEXT_BYTES = 1500


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a build would do.

    Attributes:
      clips: corpus -> clips that would be tried.
      skipped_lines: files that would not, counted and explained.
      notes: of clips that would.
      measured: how many clips the figures are from.
      cpu_s: of all clips, on one core.
      num_workers: over how many that is spread.
      bytes: of the data set.
    """

    clips: Mapping[str, int]
    skipped_lines: tuple[str, ...]
    notes: tuple[str, ...]
    measured: int
    cpu_s: float
    num_workers: int
    bytes: int

    def __str__(self) -> str:
        counts = ", ".join(f"{count} of {corpus}" for corpus, count in self.clips.items())
        lines = [
            f"would build    {sum(self.clips.values())} clips ({counts})",
            "would skip" + ("" if self.skipped_lines else "     nothing"),
            *self.skipped_lines,
            *(f"note: {note}" for note in self.notes),
        ]
        if self.measured:
            wall_s = self.cpu_s / self.num_workers
            lines += [
                f"would take     {clock(wall_s)} with {self.num_workers} workers, a core each "
                f"({clock(self.cpu_s)} of one core)",
                f"would fill     {self.bytes / 1e6:.1f} MB, while it builds twice that",
                f"measured on    {self.measured} clips; nothing was written",
            ]
        else:
            lines.append("not one of the clips tried could be processed: no time, no size")
        return "\n".join(lines)


def estimate(
    roots: Mapping[str, Path],
    settings: BuildSettings,
    *,
    num_workers: int,
    clip_timeout_s: float,
    tables: Sequence[Table] = (),
) -> Estimate:
    """Plan a build and process a few clips of each corpus, one at a time, keeping nothing.

    Raises:
      BuildError: if it could not be built.
    """
    plan = plan_build(roots, settings, tables)
    counts = Counter(clip.corpus for clip in plan.clips)
    tried = []
    for corpus in counts:
        clips = [clip for clip in plan.clips if clip.corpus == corpus]
        tried += clips[:: -(-len(clips) // _MEASURED)]
    measured: dict[str, list[tuple[float, int]]] = {}
    task = functools.partial(_measure, settings=settings)
    try:
        with (
            tempfile.TemporaryDirectory() as log_dir,
            Pool(task, 1, Path(log_dir), clip_timeout_s) as pool,
        ):
            # The first one is done twice, since what it takes the first time is loading.
            for index, (clip, result) in enumerate(pool.run([tried[0], *tried])):
                if isinstance(result, Stop):
                    raise BuildError(result.reason)
                if index and isinstance(result, tuple):
                    measured.setdefault(clip.corpus, []).append(result)
    except WorkerError as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(self_test.describe(error)) from error
    everything = [result for results in measured.values() for result in results]
    cpu_s = 0.0
    size = 0.0
    for corpus, count in counts.items() if everything else ():
        results = measured.get(corpus, everything)
        cpu_s += count * sum(seconds for seconds, _ in results) / len(results)
        size += count * sum(each for _, each in results) / len(results)
    return Estimate(
        clips=counts,
        skipped_lines=tuple(skipped_lines(plan.skipped)),
        notes=plan.notes,
        measured=len(everything),
        cpu_s=cpu_s,
        num_workers=num_workers,
        bytes=round(size),
    )


def _measure(clip: Clip, settings: BuildSettings) -> tuple[float, int] | Stop | None:
    """Measure one clip in a worker: seconds of CPU and bytes, or None where it cannot be used."""
    unfit = self_test.why_unfit(
        sound="audio" in settings.built,
        faces=settings.needs_facemesh,
    )
    if unfit:
        return Stop(unfit)
    began_s = time.process_time()
    try:
        arrays = schema.stored_arrays(
            make_example(
                clip,
                settings.extractor if clip.sound else settings.audio,
                face=settings.face,
            ),
            settings.stored_modalities,
        )
    except ImportError as error:  # no clip is to blame
        return Stop(self_test.describe(error))
    except (MediaError, OSError, MemoryError, schema.SchemaError):
        return None
    size = sum(array.nbytes for array in arrays.values())
    return time.process_time() - began_s, size + _TEXT_BYTES
