"""A training's report in pictures: confusion matrix, curves, folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_LEARNING = "training, with dropout"
_TRAIN, _SELECTION, _THIRD = "#8a94a3", "#0b6cb8", "#b02a5b"


def confusion_figure(report: Mapping[str, Any]) -> Figure:
    """Draw a report's confusion matrix, rows in shares of their class."""
    held_out = report["held_out"]
    names = held_out["confusion_matrix"]["classes"]
    size = 2.2 + 0.75 * len(names)
    figure = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = _matrix(axes, held_out["confusion_matrix"]["clips"], names, names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    pooled = "over all folds' clips: " if "folds" in report else ""
    leaky = f", {report['protocol']}{' (leaky)' if report['leaky'] else ''}"
    what = f" ({report['provenance']})" if report["provenance"] else ""
    axes.set_title(
        f"{report['name']}: {held_out['clips']} held-out clips{what}\n"
        f"{pooled}UAR {held_out['uar']:.3f}, accuracy {held_out['accuracy']:.3f}{leaky}",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def raters_figure(raters: Mapping[str, Any]) -> Figure:
    """Draw confusion matrices of raters and model on the same clips, side by side."""
    names = [n for n, row in zip(raters["classes"], raters["model"], strict=True) if sum(row)]
    kept = [raters["classes"].index(name) for name in names]
    majority = np.array(raters["majority"])[kept][:, [*kept, -1]]
    figure = Figure(figsize=(3.2 + 1.3 * len(names), 1.4 + 0.62 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _matrix(left, majority, names, [*names, "(tie)"])
    _matrix(right, np.array(raters["model"])[kept][:, kept], names, names)
    for axes, who, uar in (
        (left, "raters' majority", "majority_uar"),
        (right, "model", "model_uar"),
    ):
        axes.set_title(f"{who}, UAR {raters[uar]:.3f}", fontsize=10)
        axes.set_ylabel("intended")
    return figure


def reliability_figure(calibration: Mapping[str, Any]) -> Figure:
    """Draw accuracy by confidence, as given and, where it is, calibrated; and how often."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="#1d2530", linestyle=":", linewidth=1)
    for key, label, color in (
        ("before", "as trained", _TRAIN),
        ("after", "calibrated", _SELECTION),
    ):
        if calibration[key]:
            bins = calibration[key]["bins"]
            confidence = np.array(bins["confidence"], float)
            there = ~np.isnan(confidence)
            x, y = confidence[there], np.array(bins["accuracy"], float)[there]
            name = f"{label}, ECE {calibration[key]['ece']:.3f}"
            axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.4, label=name)
            below.plot(x, np.array(bins["clips"])[there], color=color, marker="o", markersize=3)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    below.set_xlim(0, 1.02)
    below.set_ylim(bottom=0)
    below.set_ylabel("clips")
    below.set_xlabel("probability of the class predicted", fontsize=9)
    for one in (axes, below):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure


def curves_figure(report: Mapping[str, Any]) -> Figure:
    """Draw loss, accuracy and learning rate by epoch; over folds a line each."""
    histories = report.get("histories") or {"": report["history"]}
    figure = Figure(figsize=(11, 3), layout="constrained")
    loss, share, rate = figure.subplots(1, 3)
    several = len(histories) > 1
    for number, history in enumerate(histories.values()):
        epochs = [entry["epoch"] for entry in history]
        chosen = [entry.get("selection") for entry in history]
        shown = {"alpha": 0.75} if several else {}
        first = number == 0
        train = [entry["train"] for entry in history]
        _line(loss, epochs, [t["cross_entropy"] for t in train], _TRAIN, _LEARNING * first, shown)
        _line(share, epochs, [t["accuracy"] for t in train], _TRAIN, _LEARNING * first, shown)
        _line(rate, epochs, [e["learning_rate"] for e in history], _SELECTION, "", shown)
        if all(chosen):
            label = "selection" * first
            _line(loss, epochs, [c["loss"] for c in chosen], _SELECTION, label, shown)
            _line(share, epochs, [c["accuracy"] for c in chosen], _SELECTION, label, shown)
            uar = [c["uar"] for c in chosen]
            _line(share, epochs, uar, _THIRD, "selection, UAR" * first, shown)
        best = report.get("best_epoch")
        if best and not several:
            for axes in (loss, share, rate):
                axes.axvline(best, color="#1d2530", linestyle=":", linewidth=1)
    for axes, name in ((loss, "cross-entropy"), (share, "accuracy"), (rate, "learning rate")):
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch" if several else "epoch (dotted: the one that is kept)", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#dfe4ea", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    loss.set_ylim(bottom=0)
    share.set_ylim(0, 1.02)
    rate.set_ylim(bottom=0)
    for axes in (loss, share):
        axes.legend(fontsize=8, frameon=False)
    return figure


def folds_figure(report: Mapping[str, Any]) -> Figure:
    """Draw UAR and accuracy of each fold, their mean and its interval."""
    figure = Figure(figsize=(7, 1.9), layout="constrained")
    axes = figure.add_subplot()
    for row, (name, key) in enumerate((("accuracy", "accuracy"), ("UAR", "uar"))):
        over = report["held_out"][f"{key}_over_folds"]
        half = over["half_width_95"]
        known = half is not None and not math.isnan(half)
        axes.errorbar(
            over["mean"], row, xerr=half if known else None, fmt="D", color=_SELECTION, capsize=5
        )
        axes.scatter(over["by_fold"], [row + 0.22] * len(over["by_fold"]), s=18, color=_TRAIN)
        axes.text(-0.01, row, name, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.axvline(1 / len(report["held_out"]["by_class"]), color=_THIRD, linestyle=":", linewidth=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.5, 1.6)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("grey: each fold; blue: mean and 95 % interval; dotted: chance", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


def _matrix(axes: Any, clips: Any, rows: Sequence[str], columns: Sequence[str]) -> Any:
    """Draw counts of clips, in shares of their row; return the image."""
    counts = np.array(clips, float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column,
            row,
            f"{share:.0%}\n{int(counts[row, column])}" if totals[row] else "-",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.55 else "black",
        )
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    return image


def _line(
    axes: Any, x: Sequence[int], y: Sequence[float], color: str, label: str, how: Mapping[str, Any]
) -> None:
    marker = "o" if len(x) < 3 else ""
    axes.plot(x, y, color=color, label=label or None, marker=marker, linewidth=1.4, **how)
