"""A training's report as text that is readable as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def markdown(report: Mapping[str, Any]) -> str:
    """A report as text that is readable as it is."""
    held_out = report["held_out"]
    what = f" ({report['provenance']})" if report["provenance"] else ""
    folds = report.get("folds")
    word = " LEAKY" if report["protocol"] == "random" else ""
    lines = [
        f"# {report['name']}: {held_out['clips']} held-out clips{what}",
        "",
        f"- protocol: {report['protocol']}{word} ({report['protocol_meaning']})",
    ]
    if folds:
        lines += [
            f"- folds: {', '.join(map(str, folds))} of {report['num_folds']}, each held out once",
            f"- accuracy: {interval_words(held_out['accuracy_over_folds'])} over folds",
            "- unweighted average recall, UAR: "
            f"{interval_words(held_out['uar_over_folds'])} over folds",
            f"- UAR by fold: {' '.join(f'{v:.3f}' for v in held_out['uar_over_folds']['by_fold'])}",
        ]
    else:
        clips = report["clips"]
        part, train, chosen = clips["held_out"], clips["train"], clips["selection"]
        lines += [
            f"- held out: fold {report['fold']} of {report['num_folds']}, {part['clips']} clips, "
            f"{part['num_actors']} actors ({', '.join(part['actors'])})",
            f"- trained on: {train['clips']} clips of {train['num_actors']} actors"
            + (f"; selected on: {chosen['clips']} clips" if chosen else ""),
            f"- accuracy: {held_out['accuracy']:.3f}",
            f"- unweighted average recall, UAR: {held_out['uar']:.3f}",
            f"- epoch {report['best_epoch']} of {report['epochs']} trained",
        ]
    lines += [f"- selection: {report['select_on']} ({report['selection_meaning']})", ""]
    if report["provenance"]:
        lines += [f"Figures are of {report['provenance']}; they say nothing about people.", ""]
    if len(held_out["by_corpus"]) > 1:
        lines += ["| corpus | clips | accuracy | UAR |", "|---|---|---|---|"]
        lines += [
            f"| {corpus} | {part['clips']} | {digits(part['accuracy'])} | {digits(part['uar'])} |"
            for corpus, part in held_out["by_corpus"].items()
        ]
        lines.append("")
    names = held_out["confusion_matrix"]["classes"]
    lines += [
        "| true class | clips | recall | precision | "
        + " | ".join(f"as {n}" for n in names)
        + " |",
        "|---" * (4 + len(names)) + "|",
    ]
    for name, row in zip(names, held_out["confusion_matrix"]["clips"], strict=True):
        of = held_out["by_class"][name]
        lines.append(
            f"| {name} | {of['clips']} | {digits(of['recall'])} | {digits(of['precision'])} | "
            + " | ".join(map(str, row))
            + " |"
        )
    return "\n".join(lines) + "\n"


def interval_words(over: Mapping[str, Any]) -> str:
    """A mean over folds with its interval."""
    half_width = over["half_width_95"]
    if half_width is None or math.isnan(half_width):
        return f"{over['mean']:.3f} (one fold: no interval)"
    return f"{over['mean']:.3f} +- {half_width:.3f} (95 % interval, Student's t)"


def digits(value: float | None) -> str:
    """A figure, or a dash for one that there is not."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
