"""One training of a grid, and what lies in its folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_tfdata.dataset import table
from emotion_tfdata.dataset.manifest import Manifest
from emotion_tfdata.training import run_dir

LOG = "train.log"
# Lines about an epoch that is over, and about one that is not.
_EPOCH = re.compile(rb"epoch (\d+)/(\d+)  (train|batch) ")


class GridError(ValueError):
    """A grid of trainings that cannot be run."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One training of a grid.

    Attributes:
      name: as messages call it.
      folder: where its files are.
      args: its flags, as train.py takes them.
      epochs: the most there will be.
    """

    name: str
    folder: Path
    args: tuple[str, ...]
    epochs: int

    @property
    def report(self) -> Mapping[str, Any] | None:
        """The training's report; None if it is not finished, or the report is damaged."""
        return run_dir.read_report(self.folder)

    @property
    def epochs_done(self) -> int:
        """How many epochs are done by the training's log."""
        found = _EPOCH.findall(_end_of(self.folder / LOG))
        if not found:
            return 0
        epoch, _, kind = found[-1]
        return int(epoch) - (kind == b"batch")

    @property
    def last_line(self) -> str:
        """The last line of the training's log that says something."""
        lines = _end_of(self.folder / LOG).decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _end_of(path: Path, size: int = 8192) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read()
    except OSError:  # not there yet
        return b""


def filled_folds(manifest: Manifest, protocol: str, test_corpora: Sequence[str] = ()) -> list[int]:
    """Return the numbers of the folds that hold a clip to test on.

    Raises:
      ProtocolError: for a protocol that does not suit the data set.
    """
    corpora = {"test": test_corpora} if test_corpora else None
    return table.filled_folds(manifest, manifest.deal(protocol), corpora)


def figure(report: Mapping[str, Any], name: str) -> str:
    """Format a figure of a training's held-out clips, or a dash."""
    value = report["held_out"][name]
    return "-" if value is None else f"{value:.3f}"
