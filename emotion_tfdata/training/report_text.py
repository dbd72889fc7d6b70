"""A training's report as text that is readable as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_SHOWN = {"voice": "the voice", "face": "the face", "both": "voice and face"}


def markdown(report: Mapping[str, Any]) -> str:
    """A report as text that is readable as it is."""
    held_out = report["held_out"]
    what = f" ({report['provenance']})" if report["provenance"] else ""
    folds = report.get("folds")
    word = " LEAKY" if report["leaky"] else ""
    lines = [
        f"# {report['name']}: {held_out['clips']} held-out clips{what}",
        "",
        f"- protocol: {report['protocol']}{word} ({report['protocol_meaning']})",
    ]
    lines += [f"- {name}: {text}" for name, text in what_rows(report)]
    if folds:
        seeds = ", ".join(map(str, report["seeds"]))
        over, by_fold = report["interval_over"], held_out["uar_over_folds"]["by_fold"]
        lines += [
            f"- folds: {', '.join(map(str, folds))} of {report['num_folds']}, each held out",
            *([f"- seeds: {seeds}; a clip counts once a seed"] if len(report["seeds"]) > 1 else []),
            f"- accuracy: {interval_words(held_out['accuracy_over_folds'])} over {over}",
            "- unweighted average recall, UAR: "
            f"{interval_words(held_out['uar_over_folds'])} over {over}",
            f"- UAR by {over[:-1]}: {' '.join(f'{v:.3f}' for v in by_fold)}",
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
    return "\n".join([*lines, *_people(held_out), *_calibration(held_out["calibration"])]) + "\n"


def what_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, words) of what is unusual about the clips and their labels."""
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


def _people(held_out: Mapping[str, Any]) -> list[str]:
    lines = []
    raters = held_out["raters"]
    if raters:
        lines += ["", *rater_words(raters), "", "| intended | clips | model | majority | a rater |"]
        lines.append("|---" * 5 + "|")
        lines += [f"| {' | '.join(map(str, row))} |" for row in rater_rows(raters)]
    rows = group_rows(held_out["by_group"])
    if rows:
        lines += ["", "| actors | number | clips | UAR, mean over actors and 95 % interval |"]
        lines.append("|---" * 4 + "|")
        lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return lines


def _calibration(calibration: Mapping[str, Any]) -> list[str]:
    return ["", *(f"- {name}: {value}" for name, value in calibration_rows(calibration))]


def rater_words(raters: Mapping[str, Any]) -> list[str]:
    """How the model stands to CREMA-D's raters, in sentences."""
    return [
        f"Beside CREMA-D's raters, who were given {_SHOWN[raters['shown']]} of the same "
        f"{raters['clips']} clips: UAR of the intended emotion {digits(raters['model_uar'])} by "
        f"the model, {digits(raters['majority_uar'])} by their majority "
        f"({raters['ties']} ties are misses), {digits(raters['votes_uar'])} by a single "
        "rater. The model agrees with the majority on "
        f"{raters['agreement']:.1%} of the clips that have one."
    ]


def rater_rows(raters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """(class, clips, recall of the model, of the majority, of a rater), classes with clips."""
    recalls = (raters[f"{name}_recall"] for name in ("model", "majority", "votes"))
    rows = zip(raters["classes"], map(sum, raters["model"]), *recalls, strict=True)
    return [(name, clips, *map(digits, of)) for name, clips, *of in rows if clips]


def group_rows(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """(group, actors, clips, UAR with interval) by sex and age."""
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
    """What is said of the probabilities: (name, value)."""
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
    """A mean over folds with its interval."""
    half_width = over["half_width_95"]
    if half_width is None or math.isnan(half_width):
        return f"{over['mean']:.3f} (one training: no interval)"
    return f"{over['mean']:.3f} +- {half_width:.3f} (95 % interval, Student's t)"


def digits(value: float | None) -> str:
    """A figure, or a dash for one that there is not."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
