"""The report that lies in a data set: `report.json` for programs, `report.html` for people.

Both are functions of the clips and the settings alone; no figure in them depends on when or where
they were made.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.dataset.manifest import Manifest
from preprocess.clip.measurements import Measurements
from preprocess.reports.reported_clip import MEASURES, ReportedClip

JSON_NAME = "report.json"
HTML_NAME = "report.html"

# A tenth of the frames without a face is as odd as three deviations of anything else.
_ODD_MISSING = 30.0
# Deviations below which clips of one corpus do not differ in any way that matters.
_LEAST_DEVIATION = {"duration_s": 0.1, "loudness_db": 1.0, "lag_s": 0.01}


def summarize(manifest: Manifest, measurements: Mapping[str, Measurements]) -> dict[str, Any]:
    """Collect what `report.json` holds.

    Args:
      manifest: of the data set.
      measurements: example id -> what was measured of the clip.

    Returns:
      JSON values, but for `clips`: every clip, a `ReportedClip`, the oddest first. `oddness` is the
      largest of 30 times its share of rows without a face and the distances of duration, loudness
      and lag from their corpus's median, in robust deviations (1.4826 times the median absolute
      deviation); `why` says which.
    """
    index = manifest.index
    rates_hz = {name: of.rate_hz for name, of in manifest.modalities.items()}
    clips = []
    for place in range(len(index)):
        measured = measurements[index.example_id(place)]
        clips.append(ReportedClip(index, place, measured.loudness_db, measured.lag_s, rates_hz))
    corpora: dict[str, Sequence[ReportedClip]] = {"all": list(clips)}
    for code, corpus in enumerate(index.corpus_names):
        corpora[corpus] = [clips[place] for place in np.flatnonzero(index.corpora == code)]
        _add_oddness(corpora[corpus])
    clips.sort(key=lambda clip: (-clip.oddness, clip.record.example_id))
    actors = [f"{corpus}/{actor}" for corpus, actor in index.actor_keys]
    return {
        "provenance": manifest.provenance,
        "modalities": list(manifest.modalities),
        "num_landmarks": manifest.num_landmarks,
        "clips_count": len(clips),
        "hours": round(sum(clip.duration_s for clip in clips) / 3600, 4),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "counts": {
            "corpus": _counts(index.corpora, index.corpus_names),
            "emotion": _counts(index.emotions, index.emotion_names),
            "actor": _counts(index.actors, actors),
            "fold": _counts(index.folds, range(manifest.num_folds)),
            "random_fold": _counts(index.random_folds, range(manifest.num_folds)),
        },
        "measures": {
            corpus: {
                name: _distribution([getattr(clip, name) for clip in some]) for name in MEASURES
            }
            for corpus, some in corpora.items()
        },
        "skipped": dict(Counter(entry["kind"] for entry in manifest.skipped).most_common()),
        "notes": list(manifest.settings["notes"]),
        "altered": sorted(name for each in measurements.values() for name in each.altered),
        "clip_notes": {
            name: list(measurements[name].notes)
            for name in sorted(measurements)
            if measurements[name].notes
        },
        "clips": clips,
    }


def write_report(out_dir: Path, manifest: Manifest, summary: Mapping[str, Any]) -> None:
    """Write both files.

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
    from preprocess.reports import report_html

    page = report_html.page(out_dir, manifest, summary)
    (out_dir / HTML_NAME).write_text(page, encoding="utf-8")


def _add_oddness(clips: Sequence[ReportedClip]) -> None:
    """Set `oddness` and `why` of the clips of one corpus."""
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


def _counts(codes: np.ndarray, names: Sequence[Any]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {str(name): count for name, count in zip(names, counts, strict=True) if count}


def _distribution(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return number, mean with its standard error, deviation and quantiles of what is not None."""
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
