"""The report that lies in a data set: `report.json` for programs, `report.html` for people.

Both are functions of the clips and the settings alone; no figure in them depends on when or where
they were made.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.manifest import Manifest, Record, Shard
from emotion_tfdata.timebase import AUDIO_RATE_HZ, LANDMARKS_RATE_HZ, duration_s
from preprocess.facts import ClipFacts

JSON_NAME = "report.json"
HTML_NAME = "report.html"

# A tenth of the frames without a face is as odd as three deviations of anything else.
_ODD_MISSING = 30.0
_MEASURES = ("duration_s", "faces_share", "loudness_db", "lag_s")
# Deviations below which clips of one corpus do not differ in any way that matters.
_LEAST_DEVIATION = {"duration_s": 0.1, "loudness_db": 1.0, "lag_s": 0.01}


def summarize(manifest: Manifest, facts: Mapping[str, ClipFacts]) -> dict[str, Any]:
    """What `report.json` holds.

    Args:
      manifest: of the data set.
      facts: example id -> what was measured of the clip.

    Returns:
      JSON values. `clips` has every clip, the oddest first: `oddness` is the largest of 30 times
      its share of rows without a face and the distances of duration, loudness and lag from their
      corpus's median, in robust deviations (1.4826 times the median absolute deviation); `why`
      says which.
    """
    clips = [_clip(shard, record, facts) for shard, record in manifest.records]
    for corpus in sorted({clip["corpus"] for clip in clips}):
        _add_oddness([clip for clip in clips if clip["corpus"] == corpus])
    clips.sort(key=lambda clip: (-clip["oddness"], clip["example_id"]))
    corpora: dict[str, Sequence[Mapping[str, Any]]] = {"all": clips}
    for corpus in sorted({clip["corpus"] for clip in clips}):
        corpora[corpus] = [clip for clip in clips if clip["corpus"] == corpus]
    return {
        "provenance": manifest.provenance,
        "modalities": list(manifest.modalities),
        "num_landmarks": manifest.num_landmarks,
        "clips_count": len(clips),
        "hours": round(sum(clip["duration_s"] for clip in clips) / 3600, 4),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "counts": {
            name: _counts(clips, key)
            for name, key in {
                "corpus": lambda clip: clip["corpus"],
                "emotion": lambda clip: clip["emotion"],
                "actor": lambda clip: f"{clip['corpus']}/{clip['actor']}",
                "fold": lambda clip: f"{clip['fold']}",
                "random_fold": lambda clip: f"{clip['random_fold']}",
            }.items()
        },
        "measures": {
            corpus: {name: _distribution([clip[name] for clip in some]) for name in _MEASURES}
            for corpus, some in corpora.items()
        },
        "left_out": dict(Counter(entry["kind"] for entry in manifest.left_out).most_common()),
        "notes": list(manifest.settings["notes"]),
        "altered": sorted(name for each in facts.values() for name in each.altered),
        "clips": clips,
    }


def write_report(out_dir: Path, manifest: Manifest, facts: Mapping[str, ClipFacts]) -> None:
    """Writes both files.

    Raises:
      OSError: if they cannot be written.
    """
    # It warns of caches that it makes on first use; nobody who builds a data set needs to know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from preprocess import report_html

    summary = summarize(manifest, facts)
    with open(out_dir / JSON_NAME, "w", encoding="utf-8") as file:
        # Entry by entry: the whole text at once is more than all that is said in it.
        json.dump(summary, file, indent=1)
        file.write("\n")
    page = report_html.page(out_dir, manifest, summary)
    (out_dir / HTML_NAME).write_text(page, encoding="utf-8")


def _clip(shard: Shard, record: Record, facts: Mapping[str, ClipFacts]) -> dict[str, Any]:
    rows = record.landmarks_frames
    seconds = max(
        duration_s(record.audio_frames, AUDIO_RATE_HZ), duration_s(rows, LANDMARKS_RATE_HZ)
    )
    measured = dataclasses.asdict(facts[record.example_id])
    del measured["altered"]
    return {
        "example_id": record.example_id,
        "corpus": record.corpus,
        "actor": record.actor,
        "emotion": record.emotion,
        "fold": shard.fold,
        "random_fold": record.random_fold,
        "duration_s": round(seconds, 3),
        "faces_share": round(record.faces_frames / rows, 4) if rows else None,
        **measured,
    }


def _add_oddness(clips: Sequence[dict[str, Any]]) -> None:
    """Adds `oddness` and `why` to the clips of one corpus."""
    centres = {}
    for name, least in _LEAST_DEVIATION.items():
        values = np.array([clip[name] for clip in clips if clip[name] is not None])
        if len(values):
            median = float(np.median(values))
            centres[name] = median, max(1.4826 * float(np.median(np.abs(values - median))), least)
    for clip in clips:
        found = {"": 0.0}
        if clip["faces_share"] is not None:
            found["rows without a face"] = _ODD_MISSING * (1 - clip["faces_share"])
        for name, (median, deviation) in centres.items():
            if clip[name] is not None:
                where = "high" if clip[name] > median else "low"
                words = f"{name.rsplit('_', 1)[0]} {where}"
                found[words] = abs(clip[name] - median) / deviation
        clip["why"], oddness = max(found.items(), key=lambda item: item[1])
        clip["oddness"] = round(oddness, 2)


def _counts(
    clips: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, int]:
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
