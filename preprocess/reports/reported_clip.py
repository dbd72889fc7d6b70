"""One clip as a build's report has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from emotion_tfdata.dataset.index import Index, Record
from emotion_tfdata.dataset.timebase import duration_s

MEASURES = ("duration_s", "faces_share", "loudness_db", "lag_s")


@dataclasses.dataclass(slots=True)
class ReportedClip:
    """One clip as the report has it. What is known already is not held again.

    Attributes:
      index: of the data set.
      place: in the index.
      loudness_db, lag_s: as `Measurements` has them.
      oddness: how far it is from its corpus's other clips, as `summarize` says.
      why: in which way.
    """

    index: Index
    place: int
    loudness_db: float | None
    lag_s: float | None
    rates_hz: Mapping[str, float]
    oddness: float = 0.0
    why: str = ""

    @property
    def record(self) -> Record:
        """The clip's entry in the index."""
        return self.index.record(self.place)

    @property
    def duration_s(self) -> float:
        """The length of the longer modality, to a millisecond."""
        frames = ((int(each[self.place]), name) for name, each in self.index.frames.items())
        return round(max(duration_s(count, self.rates_hz[name]) for count, name in frames), 3)

    @property
    def faces_share(self) -> float | None:
        """The share of the clip's rows that have a face; None without rows."""
        if "landmarks" not in self.index.frames:
            return None
        rows = int(self.index.frames["landmarks"][self.place])
        faces = int(self.index.valid_frames["landmarks"][self.place])
        return round(faces / rows, 4) if rows else None

    def as_dict(self) -> dict[str, Any]:
        """Return the clip's entry in `report.json`."""
        record = self.record
        return {
            "example_id": record.example_id,
            "corpus": record.corpus,
            "actor": record.actor,
            "emotion": record.emotion,
            "fold": int(self.index.folds[self.place]),
            "random_fold": record.random_fold,
            **{name: getattr(self, name) for name in MEASURES},
            "why": self.why,
            "oddness": self.oddness,
        }
