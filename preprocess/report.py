"""The report that lies in a data set: `report.json` for programs, `report.html` for people.

Both are functions of the clips and the settings alone; no figure in them depends on when or where
they were made.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.manifest import Manifest, Record
from emotion_tfdata.timebase import AUDIO_RATE_HZ, LANDMARKS_RATE_HZ, duration_s
from preprocess.facts import ClipFacts

JSON_NAME = "report.json"
HTML_NAME = "report.html"

# A tenth of the frames without a face is as odd as three deviations of anything else.
_ODD_MISSING = 30.0
_MEASURES = ("duration_s", "faces_share", "loudness_db", "lag_s")
# Deviations below which clips of one corpus do not differ in any way that matters.
_LEAST_DEVIATION = {"duration_s": 0.1, "loudness_db": 1.0, "lag_s": 0.01}


@dataclasses.dataclass(slots=True)
class ReportedClip:
    """One clip as the report has it. What is known already is not held again.

    Attributes:
      fold: actor fold.
      record: its entry in the manifest.
      loudness_db, lag_s: as `ClipFacts` has them.
      oddness: how far it is from its corpus's other clips, as `summarize` says.
      why: in which way.
    """

    fold: int
    record: Record
    loudness_db: float | None
    lag_s: float | None
    oddness: float = 0.0
    why: str = ""

    @property
    def duration_s(self) -> float:
        """Length of the longer modality, to a millisecond."""
        audio_s = duration_s(self.record.audio_frames, AUDIO_RATE_HZ)
        return round(max(audio_s, duration_s(self.record.landmarks_frames, LANDMARKS_RATE_HZ)), 3)

    @property
    def faces_share(self) -> float | None:
        """Share of its rows that have a face; None without rows."""
        rows = self.record.landmarks_frames
        return round(self.record.faces_frames / rows, 4) if rows else None

    def as_dict(self) -> dict[str, Any]:
        """Its entry in `report.json`."""
        return {
            "example_id": self.record.example_id,
            "corpus": self.record.corpus,
            "actor": self.record.actor,
            "emotion": self.record.emotion,
            "fold": self.fold,
            "random_fold": self.record.random_fold,
            **{name: getattr(self, name) for name in _MEASURES},
            "why": self.why,
            "oddness": self.oddness,
        }


def summarize(manifest: Manifest, facts: Mapping[str, ClipFacts]) -> dict[str, Any]:
    """What `report.json` holds.

    Args:
      manifest: of the data set.
      facts: example id -> what was measured of the clip.

    Returns:
      JSON values, but for `clips`: every clip, a `ReportedClip`, the oddest first. `oddness` is the
      largest of 30 times its share of rows without a face and the distances of duration, loudness
      and lag from their corpus's median, in robust deviations (1.4826 times the median absolute
      deviation); `why` says which.
    """
    clips = []
    for shard, record in manifest.records:
        measured = facts[record.example_id]
        clips.append(ReportedClip(shard.fold, record, measured.loudness_db, measured.lag_s))
    corpora: dict[str, Sequence[ReportedClip]] = {"all": clips}
    for corpus in sorted({clip.record.corpus for clip in clips}):
        corpora[corpus] = [clip for clip in clips if clip.record.corpus == corpus]
        _add_oddness(corpora[corpus])
    clips.sort(key=lambda clip: (-clip.oddness, clip.record.example_id))
    return {
        "provenance": manifest.provenance,
        "modalities": list(manifest.modalities),
        "num_landmarks": manifest.num_landmarks,
        "clips_count": len(clips),
        "hours": round(sum(clip.duration_s for clip in clips) / 3600, 4),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "counts": {
            name: _counts(clips, key)
            for name, key in {
                "corpus": lambda clip: clip.record.corpus,
                "emotion": lambda clip: clip.record.emotion,
                "actor": lambda clip: f"{clip.record.corpus}/{clip.record.actor}",
                "fold": lambda clip: f"{clip.fold}",
                "random_fold": lambda clip: f"{clip.record.random_fold}",
            }.items()
        },
        "measures": {
            corpus: {
                name: _distribution([getattr(clip, name) for clip in some]) for name in _MEASURES
            }
            for corpus, some in corpora.items()
        },
        "left_out": dict(Counter(entry["kind"] for entry in manifest.left_out).most_common()),
        "notes": list(manifest.settings["notes"]),
        "altered": sorted(name for each in facts.values() for name in each.altered),
        "clips": clips,
    }


def write_report(out_dir: Path, manifest: Manifest, summary: Mapping[str, Any]) -> None:
    """Writes both files.

    Args:
      out_dir: where the shards are.
      manifest: of the data set.
      summary: what `summarize` gave.

    Raises:
      OSError: if they cannot be written.
    """
    with open(out_dir / JSON_NAME, "w", encoding="utf-8") as file:
        # Entry by entry: the whole text at once is more than all that is said in it.
        json.dump(summary, file, indent=1, default=ReportedClip.as_dict)
        file.write("\n")
    # It warns of caches that it makes on first use; nobody who builds a data set needs to know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from preprocess import report_html

    page = report_html.page(out_dir, manifest, summary)
    (out_dir / HTML_NAME).write_text(page, encoding="utf-8")


def _add_oddness(clips: Sequence[ReportedClip]) -> None:
    """Sets `oddness` and `why` of the clips of one corpus."""
    centres = {}
    for name, least in _LEAST_DEVIATION.items():
        values = np.array([value for clip in clips if (value := getattr(clip, name)) is not None])
        if len(values):
            median = float(np.median(values))
            centres[name] = median, max(1.4826 * float(np.median(np.abs(values - median))), least)
    for clip in clips:
        found = {"": 0.0}
        if clip.faces_share is not None:
            found["rows without a face"] = _ODD_MISSING * (1 - clip.faces_share)
        for name, (median, deviation) in centres.items():
            value = getattr(clip, name)
            if value is not None:
                where = "high" if value > median else "low"
                words = sys.intern(f"{name.rsplit('_', 1)[0]} {where}")
                found[words] = abs(value - median) / deviation
        clip.why, oddness = max(found.items(), key=lambda item: item[1])
        clip.oddness = round(oddness, 2)


def _counts(clips: Sequence[ReportedClip], key: Callable[[ReportedClip], str]) -> dict[str, int]:
    return dict(sorted(Counter(key(clip) for clip in clips).items()))


def _distribution(values: Sequence[float | None]) -> dict[str, float] | None:
    """Number, mean with its standard error, deviation and quantiles of what is not None."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return None
    deviation = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    low, median, high = np.quantile(known, [0.05, 0.5, 0.95])
    content = {
        "count": len(known),
        "mean": known.mean(),
        "standard_error": deviation / np.sqrt(len(known)),
        "deviation": deviation,
        "min": known.min(),
        "q05": low,
        "median": median,
        "q95": high,
        "max": known.max(),
    }
    return {name: round(float(value), 5) for name, value in content.items()}
