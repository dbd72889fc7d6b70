"""What a training's report says, in words and rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_SHOWN = {"voice": "the voice", "face": "the face", "both": "voice and face"}


def what_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, words) of what is unusual about the clips and their labels."""
    rows = [("note", note) for note in report["protocol_notes"]]
    for side, what in (("train", "trained on"), ("test", "tested on")):
        if report["corpora"][side]:
            rows.append(("corpora", f"{what} {', '.join(report['corpora'][side])} alone"))
    if report["labels"] == "perceived":
        rows.append(
            (
                "labels",
                "perceived: what most of CREMA-D's raters took a clip for, trained and tested on; "
                f"{report['ties']} clips that they are tied on are skipped",
            )
        )
    elif report["labels"] == "votes":
        words = "the votes of CREMA-D's raters to train on; figures are of the intended emotion"
        rows.append(("labels", words))
    return rows


def rater_words(raters: Mapping[str, Any]) -> str:
    """Say in sentences how the model compares with CREMA-D's raters."""
    return (
        f"Beside CREMA-D's raters, who were given {_SHOWN[raters['shown']]} of the same "
        f"{raters['clips']} clips: UAR of the intended emotion {digits(raters['model_uar'])} by "
        f"the model, {digits(raters['majority_uar'])} by their majority "
        f"({raters['ties']} ties are misses), {digits(raters['votes_uar'])} by a single "
        "rater. The model agrees with the majority on "
        f"{raters['agreement']:.1%} of the clips that have one."
    )


def rater_rows(raters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return (class, clips, recall of the model, the majority, a rater) of classes with clips."""
    recalls = (raters[f"{name}_recall"] for name in ("model", "majority", "votes"))
    rows = zip(raters["classes"], map(sum, raters["model"]), *recalls, strict=True)
    return [(name, clips, *map(digits, of)) for name, clips, *of in rows if clips]


def group_rows(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return (group, actors, clips, UAR with interval) by sex and age."""
    return [
        (
            f"{kind} {name}" if kind == "age" else name,
            of["actors"],
            of["clips"],
            f"{digits(of['uar'])}"
            + (f" +- {digits(of['half_width_95'])}" if of["actors"] > 1 else ""),
        )
        for kind, parts in groups.items()
        for name, of in parts.items()
    ]


def calibration_rows(calibration: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is said of the probabilities: (name, value)."""
    before, after = calibration["before"], calibration["after"]
    rows = [
        (name, digits(before[key]) + (f", calibrated {digits(after[key])}" if after else ""))
        for name, key in (
            ("expected calibration error", "ece"),
            ("Brier score", "brier"),
            ("cross-entropy", "cross_entropy"),
        )
    ]
    if after:
        how = f"{calibration['temperature']:.3f}, fitted to the fold selected on"
    else:
        how = "not calibrated: no fold was taken out of training to fit it to (--select_on=inner)"
    return [*rows, ("temperature", how)]


def interval_words(over: Mapping[str, Any]) -> str:
    """Format a mean over folds with its interval."""
    half_width = over["half_width_95"]
    if half_width is None or math.isnan(half_width):
        return f"{over['mean']:.3f} (one training: no interval)"
    return f"{over['mean']:.3f} +- {half_width:.3f} (95 % interval, Student's t)"


def digits(value: float | None) -> str:
    """Format a figure, or a dash for one that there is not."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
