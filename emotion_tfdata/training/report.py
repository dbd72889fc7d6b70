"""What a training came to: figures on the held-out fold, as JSON, as text and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.labels import class_names
from emotion_tfdata.training import metrics, run_dir
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.learner import Predictions
from emotion_tfdata.training.settings import Settings

PROTOCOL_MEANING = {
    "actor": "actors held out: nobody in the held-out fold was trained on",
    "random": (
        "leaky: clips dealt at random, so the same actors, and the same sentences in the same "
        "voices, are trained on and tested on; the figures do not carry over to new people"
    ),
}
SELECTION_MEANING = {
    "inner": "epoch chosen on another fold taken out of the training part; held-out fold untouched",
    "held_out": (
        "epoch chosen on the held-out fold itself: the figures are the best of many looks at it, "
        "and optimistic"
    ),
    "none": "last epoch of a fixed schedule; no fold was looked at to choose it",
}


def figures(confusion: np.ndarray) -> dict[str, Any]:
    """Every figure of one confusion matrix, by name."""
    names = class_names(len(confusion))
    recall, precision = metrics.recall_by_class(confusion), metrics.precision_by_class(confusion)
    return {
        "clips": int(confusion.sum()),
        "accuracy": metrics.accuracy(confusion),
        "uar": metrics.unweighted_average_recall(confusion),
        "by_class": {
            name: {
                "clips": int(confusion[index].sum()),
                "recall": float(recall[index]),
                "precision": float(precision[index]),
            }
            for index, name in enumerate(names)
        },
        "confusion_matrix": {
            "rows": "true class",
            "columns": "predicted class",
            "classes": list(names),
            "clips": confusion.tolist(),
        },
    }


def fold_report(
    settings: Settings,
    data: Data,
    predictions: Predictions,
    history: Sequence[Mapping[str, Any]],
    best_epoch: int,
) -> dict[str, Any]:
    """The report of one training.

    Args:
      settings: of the training.
      data: with the parts' clips.
      predictions: on the held-out fold.
      history: one entry an epoch.
      best_epoch: counted from 1.
    """
    corpora = np.array([example_id.split("/")[0] for example_id in predictions.example_ids])
    predicted = predictions.probabilities.argmax(axis=1)
    by_corpus = {}
    for corpus in sorted(set(corpora)):
        of = corpora == corpus
        confusion = metrics.confusion_matrix(
            predictions.labels[of], predicted[of], settings.num_classes
        )
        by_corpus[str(corpus)] = figures(confusion)
    return {
        "name": settings.name,
        "provenance": data.manifest.provenance,
        "data_dir": data.data_dir,
        "protocol": settings.protocol,
        "protocol_meaning": PROTOCOL_MEANING[settings.protocol],
        "select_on": settings.select_on,
        "selection_meaning": SELECTION_MEANING[settings.select_on],
        "fold": settings.fold,
        "num_folds": data.manifest.num_folds,
        "held_out": figures(predictions.confusion)
        | {"loss": predictions.loss, "by_corpus": by_corpus},
        "clips": {
            "train": data.train.about(),
            "selection": data.selection.about() if data.selection else None,
            "held_out": data.held_out.about(),
        },
        "best_epoch": best_epoch,
        "epochs": len(history),
        "seconds": sum(entry["seconds"] for entry in history),
        "settings": settings.as_dict(),
    }


def folds_report(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report over trainings that differ in the fold they hold out alone."""
    first = reports[0]

    def interval(values: list[float]) -> dict[str, Any]:
        over = metrics.mean_interval(values)
        return {
            "mean": over.mean,
            "half_width_95": over.half_width,
            "deviation": over.deviation,
            "by_fold": values,
        }

    def pooled(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        confusion = np.sum([part["confusion_matrix"]["clips"] for part in parts], axis=0)
        return figures(confusion) | {
            "accuracy_over_folds": interval([part["accuracy"] for part in parts]),
            "uar_over_folds": interval([part["uar"] for part in parts]),
        }

    held_out = [report["held_out"] for report in reports]
    corpora = sorted({corpus for part in held_out for corpus in part["by_corpus"]})
    shared = ("name", "provenance", "data_dir", "protocol", "protocol_meaning", "select_on")
    return {
        **{key: first[key] for key in (*shared, "selection_meaning", "num_folds")},
        "folds": [report["fold"] for report in reports],
        "held_out": pooled(held_out)
        | {
            "by_corpus": {
                corpus: pooled(
                    [p["by_corpus"][corpus] for p in held_out if corpus in p["by_corpus"]]
                )
                for corpus in corpora
            }
        },
        "seconds": sum(report["seconds"] for report in reports),
        "settings": {key: value for key, value in first["settings"].items() if key != "fold"},
    }


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
            f"- accuracy: {_interval(held_out['accuracy_over_folds'])} over folds",
            f"- unweighted average recall, UAR: {_interval(held_out['uar_over_folds'])} over folds",
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
            f"| {corpus} | {part['clips']} | {_figure(part['accuracy'])} | {_figure(part['uar'])} |"
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
            f"| {name} | {of['clips']} | {_figure(of['recall'])} | {_figure(of['precision'])} | "
            + " | ".join(map(str, row))
            + " |"
        )
    return "\n".join(lines) + "\n"


def draw_confusion(path: Path, report: Mapping[str, Any]) -> None:
    """Draws a report's confusion matrix, rows in shares of their class, to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    held_out = report["held_out"]
    clips = np.array(held_out["confusion_matrix"]["clips"], float)
    names = held_out["confusion_matrix"]["classes"]
    totals = clips.sum(axis=1, keepdims=True)
    shares = np.divide(clips, totals, out=np.zeros_like(clips), where=totals > 0)
    size = 2.2 + 0.75 * len(names)
    figure = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column,
            row,
            f"{share:.0%}\n{int(clips[row, column])}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.55 else "black",
        )
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    pooled = "over all folds' clips: " if "folds" in report else ""
    leaky = ", leaky random split" if report["protocol"] == "random" else ", actors held out"
    what = f" ({report['provenance']})" if report["provenance"] else ""
    axes.set_title(
        f"{report['name']}: {held_out['clips']} held-out clips{what}\n"
        f"{pooled}UAR {held_out['uar']:.3f}, accuracy {held_out['accuracy']:.3f}{leaky}",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    figure.savefig(path)


def write(model_dir: Path, report: Mapping[str, Any]) -> None:
    """Writes a report's three forms into a folder, the JSON last."""
    draw_confusion(model_dir / run_dir.CONFUSION_PNG, report)
    run_dir.write_text(model_dir / run_dir.REPORT_TEXT, markdown(report))
    run_dir.write_json(model_dir / run_dir.REPORT_JSON, report)


def write_predictions(model_dir: Path, predictions: Predictions) -> None:
    """Writes what the model said of each held-out clip, as CSV."""
    names = class_names(predictions.probabilities.shape[1])
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["example_id", "true", "predicted", *names])
    for example_id, label, shares in zip(
        predictions.example_ids, predictions.labels, predictions.probabilities, strict=True
    ):
        rows.writerow(
            [
                example_id,
                names[label],
                names[shares.argmax()],
                *(f"{share:.6f}" for share in shares),
            ]
        )
    run_dir.write_text(model_dir / run_dir.PREDICTIONS, text.getvalue())


def _interval(over: Mapping[str, Any]) -> str:
    half_width = over["half_width_95"]
    if half_width is None or math.isnan(half_width):
        return f"{over['mean']:.3f} (one fold: no interval)"
    return f"{over['mean']:.3f} +- {half_width:.3f} (95 % interval, Student's t)"


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
