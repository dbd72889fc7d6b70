"""What a training came to: figures on the held-out fold, as JSON, as text and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_tfdata.dataset import protocols
from emotion_tfdata.labels import class_index
from emotion_tfdata.training import calibration, metrics, people_report, run_dir
from emotion_tfdata.training.data import Data
from emotion_tfdata.training.learner import Predictions
from emotion_tfdata.training.settings import Settings

_ERRORS_LISTED = 20

SELECTION_MEANING = {
    "inner": "epoch chosen on another fold taken out of the training part; held-out fold untouched",
    "held_out": (
        "epoch chosen on the held-out fold itself: the figures are the best of many looks at it, "
        "and optimistic"
    ),
    "none": "last epoch of a fixed schedule; no fold was looked at to choose it",
}


def figures(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Compute every figure of one confusion matrix of the classes `names`, by name."""
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
    temperature: float | None = None,
) -> dict[str, Any]:
    """Collect the report of one training.

    Args:
      settings: of the training.
      data: with the parts' clips.
      predictions: on the held-out fold.
      history: one entry an epoch.
      best_epoch: counted from 1.
      temperature: that the probabilities are calibrated by, fitted to the fold selected on; None
        where there is no such fold.
    """
    calibrated = at_temperature(predictions, temperature)
    corpora = np.array([example_id.split("/")[0] for example_id in predictions.example_ids])
    predicted = predictions.probabilities.argmax(axis=1)
    names = data.class_names
    by_corpus = {}
    for corpus in sorted(set(corpora)):
        of = corpora == corpus
        confusion = metrics.confusion_matrix(predictions.labels[of], predicted[of], len(names))
        by_corpus[str(corpus)] = figures(confusion, names)
    records = {record.example_id: record for record in data.held_out.records}
    actors = [f"{records[i].corpus}/{records[i].actor}" for i in predictions.example_ids]
    intended = [class_index(records[i].emotion, names) for i in predictions.example_ids]
    figures_by_actor = by_actor(predictions, actors)
    protocol = protocols.describe(settings.protocol)
    return {
        "name": settings.name,
        "provenance": data.manifest.provenance,
        "data_dir": data.data_dir,
        "protocol": settings.protocol,
        "protocol_meaning": protocol.words,
        "protocol_notes": list(data.deal.notes),
        "leaky": protocol.leaky,
        "labels": settings.features.labels,
        "ties": data.ties if settings.features.labels == "perceived" else 0,
        "corpora": {"train": settings.train_corpora, "test": settings.test_corpora},
        "select_on": settings.select_on,
        "selection_meaning": SELECTION_MEANING[settings.select_on],
        "fold": settings.fold,
        "num_folds": data.deal.num_folds,
        "held_out": figures(predictions.confusion, names)
        | {
            "loss": predictions.loss,
            "by_corpus": by_corpus,
            "by_actor": figures_by_actor,
            "by_group": people_report.by_group(figures_by_actor),
            "raters": people_report.beside_raters(
                predictions.example_ids,
                np.array(intended, np.int64),
                predicted,
                settings.features.modalities or "both",
                names,
            ),
            "calibration": {
                "temperature": temperature,
                "before": calibration.figures(predictions.probabilities, predictions.labels),
                "after": temperature
                and calibration.figures(calibrated.probabilities, predictions.labels),
            },
            "errors": surest_errors(calibrated, names),
        },
        "clips": {
            "train": data.train.about(),
            "selection": data.selection.about() if data.selection else None,
            "held_out": data.held_out.about(),
        },
        "best_epoch": best_epoch,
        "epochs": len(history),
        "seconds": sum(entry["seconds"] for entry in history),
        "settings": settings.as_dict(),
        "history": list(history),
    }


def at_temperature(predictions: Predictions, temperature: float | None) -> Predictions:
    """Return predictions with calibrated probabilities; as they are without a temperature."""
    if temperature is None:
        return predictions
    scaled = calibration.scaled(predictions.probabilities, temperature)
    return dataclasses.replace(predictions, probabilities=scaled)


def by_actor(predictions: Predictions, actors: Sequence[str]) -> dict[str, Any]:
    """Return clips, accuracy, recall and confusion matrix of each actor.

    Args:
      predictions: of `N` clips.
      actors: `[N]`, whose clip each is.
    """
    predicted = predictions.probabilities.argmax(axis=1)
    num_classes = predictions.probabilities.shape[1]
    parts = {}
    for actor in sorted(set(actors)):
        of = np.array([one == actor for one in actors])
        parts[actor] = _brief(
            metrics.confusion_matrix(predictions.labels[of], predicted[of], num_classes)
        )
    return parts


def surest_errors(
    predictions: Predictions, names: Sequence[str], most: int = _ERRORS_LISTED
) -> list[dict[str, Any]]:
    """Return the clips given a wrong class with the highest probability, the surest first."""
    predicted = predictions.probabilities.argmax(axis=1)
    surest = np.argsort(-predictions.probabilities.max(axis=1), kind="stable")
    wrong = [int(i) for i in surest if predicted[i] != predictions.labels[i]]
    return [
        {
            "example_id": predictions.example_ids[i],
            "true": names[predictions.labels[i]],
            "predicted": names[predicted[i]],
            "probability": float(predictions.probabilities[i, predicted[i]]),
            "probability_of_true": float(predictions.probabilities[i, predictions.labels[i]]),
        }
        for i in wrong[:most]
    ]


def _brief(confusion: np.ndarray) -> dict[str, Any]:
    return {
        "clips": int(confusion.sum()),
        "accuracy": metrics.accuracy(confusion),
        "uar": metrics.unweighted_average_recall(confusion),
        "confusion": confusion.tolist(),
    }


def folds_report(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect the report over trainings that differ in the held-out fold, the seed, or both.

    Seeds of a fold share its held-out clips, so they are averaged before the interval over folds;
    where one fold alone was held out the interval is over seeds.
    """
    first = reports[0]
    folds = [report["fold"] for report in reports]
    seeds = [report["settings"]["seed"] for report in reports]
    over_seeds = len(set(folds)) == 1 < len(set(seeds))

    def interval(parts: Mapping[tuple[int, int], Mapping[str, Any]], key: str) -> dict[str, Any]:
        values_of: dict[int, list[float]] = {}
        for (fold, seed), part in parts.items():
            values_of.setdefault(seed if over_seeds else fold, []).append(part[key])
        values = [statistics.fmean(of) for of in values_of.values()]
        over = metrics.mean_interval(values)
        return {
            "mean": over.mean,
            "half_width_95": over.half_width,
            "deviation": over.deviation,
            "by_fold": values,
        }

    def pooled(parts: Mapping[tuple[int, int], Mapping[str, Any]]) -> dict[str, Any]:
        matrices = [part["confusion_matrix"] for part in parts.values()]
        confusion = np.sum([matrix["clips"] for matrix in matrices], axis=0)
        return figures(confusion, matrices[0]["classes"]) | {
            "accuracy_over_folds": interval(parts, "accuracy"),
            "uar_over_folds": interval(parts, "uar"),
        }

    held_out = [report["held_out"] for report in reports]
    parts_of = dict(zip(zip(folds, seeds, strict=True), held_out, strict=True))
    corpora = sorted({corpus for part in held_out for corpus in part["by_corpus"]})
    actors = sorted({actor for part in held_out for actor in part["by_actor"]})
    errors = [
        error | {"fold": report["fold"]}
        for report in reports
        for error in report["held_out"]["errors"]
    ]
    errors.sort(key=lambda error: -error["probability"])
    figures_by_actor = {
        # Under the random protocol an actor's clips are held out in several folds.
        actor: _brief(
            np.sum(
                [
                    part["by_actor"][actor]["confusion"]
                    for part in held_out
                    if actor in part["by_actor"]
                ],
                axis=0,
            )
        )
        for actor in actors
    }
    shared = (
        *("name", "provenance", "data_dir", "protocol", "protocol_meaning", "leaky", "select_on"),
        *("protocol_notes", "labels", "ties", "corpora"),
    )
    return {
        **{key: first[key] for key in (*shared, "selection_meaning", "num_folds")},
        "folds": sorted(set(folds)),
        "seeds": sorted(set(seeds)),
        "interval_over": "seeds" if over_seeds else "folds",
        "held_out": pooled(parts_of)
        | {
            "by_corpus": {
                corpus: pooled(
                    {
                        key: part["by_corpus"][corpus]
                        for key, part in parts_of.items()
                        if corpus in part["by_corpus"]
                    }
                )
                for corpus in corpora
            },
            "by_actor": figures_by_actor,
            "by_group": people_report.by_group(figures_by_actor),
            "raters": people_report.pooled_raters([part["raters"] for part in held_out]),
            "calibration": calibration.pooled([part["calibration"] for part in held_out]),
            "errors": errors[:_ERRORS_LISTED],
        },
        "by_fold": [
            {
                **{key: report[key] for key in ("fold", "best_epoch", "epochs", "seconds")},
                **{key: report["held_out"][key] for key in ("clips", "uar", "accuracy")},
                "seed": report["settings"]["seed"],
                "actors": report["clips"]["held_out"]["actors"],
            }
            for report in reports
        ],
        "histories": {
            f"seed {seed}, fold {fold}": report["history"]
            for fold, seed, report in zip(folds, seeds, reports, strict=True)
        },
        "seconds": sum(report["seconds"] for report in reports),
        "settings": {
            key: value for key, value in first["settings"].items() if key not in ("fold", "seed")
        },
    }


def write(model_dir: Path, report: Mapping[str, Any]) -> None:
    """Write a report's forms into a folder, the JSON last."""
    # It warns of caches that it makes on first use; nobody who trains needs to know.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from emotion_tfdata.training import report_figures, report_html

    with run_dir.replacing(model_dir / run_dir.CONFUSION_PNG) as temporary:
        report_figures.confusion_figure(report).savefig(temporary)
    run_dir.write_text(model_dir / run_dir.REPORT_HTML, report_html.page(report))
    run_dir.write_text(model_dir / run_dir.REPORT_TEXT, report_html.markdown(report))
    run_dir.write_json(model_dir / run_dir.REPORT_JSON, report)


def write_events(model_dir: Path, report: Mapping[str, Any]) -> None:
    """Write a fold's held-out figures for TensorBoard, at the epoch that was kept."""
    import tensorflow as tf

    held_out, step = report["held_out"], report["best_epoch"]
    writer = tf.summary.create_file_writer(str(model_dir / run_dir.TENSORBOARD))
    with writer.as_default():
        for name in ("loss", "accuracy", "uar"):
            tf.summary.scalar(f"held_out/{name}", held_out[name], step)
        for name, of in held_out["by_class"].items():
            if not math.isnan(of["recall"]):
                tf.summary.scalar(f"held_out_recall/{name}", of["recall"], step)
    writer.close()


def write_predictions(model_dir: Path, predictions: Predictions, names: Sequence[str]) -> None:
    """Write what the model said of each held-out clip, as CSV with a column a class."""
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
