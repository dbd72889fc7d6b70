"""What a build tells its user: progress while it works, a summary when it is done."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import TextIO

from preprocess.corpora import Skipped

_LISTED = 5
# Of how many clips the rate is, and how many, over how long, must be done before there is one.
_RATE_ITEMS = 64
_LEAST_ITEMS = 8
_LEAST_S = 2.0


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
      out_dir: where the data set is.
      provenance: what figures made from it must be called; empty for real recordings.
      clips_found: clips that were to be read.
      clips_read: those that this run read; the others were finished before.
      clips_written: examples in the data set.
      shards: files.
      bytes: of all shards.
      skipped: number of files that are not in it. The manifest lists them all.
      skipped_lines: what they are, counted by kind.
      notes: what is to be known of clips that are.
      warnings: what is likely not as the user wants it.
      seconds: of this run.
      was_finished: whether an earlier run had left nothing to do.
    """

    out_dir: str
    provenance: str
    clips_found: int
    clips_read: int
    clips_written: int
    shards: int
    bytes: int
    skipped: int
    skipped_lines: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float
    was_finished: bool

    def __str__(self) -> str:
        rate = self.clips_read / self.seconds if self.seconds > 0 else 0.0
        of = f" ({self.provenance})" if self.provenance else ""
        lines = [
            f"clips found    {self.clips_found}{of}",
            f"clips read     {self.clips_read} in {self.seconds:.1f} s, {rate:.2f} clips/s",
            f"clips written  {self.clips_written} in {self.shards} shards, "
            f"{self.bytes / 1e6:.1f} MB",
            f"skipped        {self.skipped}"
            + (" files" if self.skipped != 1 else " file")
            + (f", all of them in {self.out_dir}/skipped.csv" if self.skipped else ""),
            *self.skipped_lines,
            *(f"note: {note}" for note in self.notes),
            *(f"warning: {warning}" for warning in self.warnings),
            f"report         {self.out_dir}/report.html",
            f"data set       {self.out_dir}",
        ]
        return "\n".join(lines)


def skipped_lines(skipped: Sequence[Skipped], listed: int = _LISTED) -> list[str]:
    """Count by kind, the largest first, each with its first few files and their reasons."""
    lines = []
    for kind, count in Counter(entry.kind for entry in skipped).most_common():
        lines.append(f"  {count:6d} {kind}")
        entries = [entry for entry in skipped if entry.kind == kind]
        lines += [f"         {entry.path}: {entry.reason}" for entry in entries[:listed]]
        if count > listed:
            lines.append(f"         ... and {count - listed} more")
    return lines


def skipped_csv(skipped: Sequence[Skipped]) -> str:
    """Return all that is skipped, as a csv."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "kind", "reason"])
    rows.writerows([entry.path, entry.kind, entry.reason] for entry in skipped)
    return table.getvalue()


class Progress:
    """A line on stderr that says how far the work is: rewritten on a terminal, else now and then.

    Args:
      total: how many there are to do.
      of: what they are.
      stream: where it is written.
    """

    def __init__(self, total: int, of: str = "clips", stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total = total
        self._of = of
        self._done = 0
        self._skipped: Counter[str] = Counter()
        # When the last of them were done: the rate follows these, since workers begin slowly and
        # clips differ. Before some were done at it there is none.
        self._done_s: deque[float] = deque(maxlen=_RATE_ITEMS)
        self._terminal = self._stream.isatty()
        self._every_s = 0.2 if self._terminal else 10.0
        self._told_s = time.monotonic()

    def add(self, skipped: Skipped | None = None) -> None:
        """Count one more clip."""
        self._done += 1
        if skipped:
            self._skipped[skipped.kind] += 1
        now_s = time.monotonic()
        self._done_s.append(now_s)
        if now_s - self._told_s >= self._every_s or self._done == self._total:
            self._told_s = now_s
            self._tell()

    def _tell(self) -> None:
        line = f"{self._done}/{self._total} {self._of}"
        seconds = self._done_s[-1] - self._done_s[0]
        if len(self._done_s) >= _LEAST_ITEMS and seconds >= _LEAST_S:
            rate = (len(self._done_s) - 1) / seconds
            line += f", {rate:.1f}/s, {clock((self._total - self._done) / rate)} left"
        if self._skipped:
            counts = ", ".join(f"{count} {kind}" for kind, count in self._skipped.most_common())
            line += f", skipped: {counts}"
        ends = self._done == self._total
        self._stream.write(f"\r\033[K{line}" if self._terminal else line)
        self._stream.write("\n" if ends or not self._terminal else "")
        self._stream.flush()


def clock(seconds: float) -> str:
    """Format seconds as `m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
